// Stream: where kernels run, in order. Kernels of cpu:: and cuda:: that have a twin take one as their last argument.
#ifndef CONCLAVE_TENSOR_STREAM_H_
#define CONCLAVE_TENSOR_STREAM_H_

#include <string>
#include <utility>

#include "tensor/tensor.h"

namespace conclave {

// A default Stream is the CPU's: work is done when the call returns. A CUDA stream (tensor/device.h opens it) only queues work; an error
// inside a kernel call is kept and returned by Synchronize. Move-only, not thread-safe.
class Stream {
 public:
  Stream() = default;
  Stream(Device device, void* handle) : device_(device), handle_(handle) {}
  ~Stream();
  Stream(Stream&& other) noexcept { Swap(*this, other); }
  Stream& operator=(Stream&& other) noexcept {
    Swap(*this, other);
    return *this;
  }

  Device device() const { return device_; }
  void* handle() const { return handle_; }  // of the CUDA side; null on the CPU
  void NoteError(const std::string& what) {
    if (error_.empty()) error_ = what;
  }
  const std::string& error() const { return error_; }  // the first one

 private:
  friend void Swap(Stream& a, Stream& b) {
    std::swap(a.device_, b.device_);
    std::swap(a.handle_, b.handle_);
    std::swap(a.error_, b.error_);
  }
  Device device_;
  void* handle_ = nullptr;
  std::string error_;
};

}  // namespace conclave

#endif  // CONCLAVE_TENSOR_STREAM_H_
