// Devices at run time: which there are, streams on them, memory on them. A GPU is asked for at run time; a build without CUDA answers with
// the reason.
#ifndef CONCLAVE_TENSOR_DEVICE_H_
#define CONCLAVE_TENSOR_DEVICE_H_

#include <cstdint>
#include <string>

#include "base/status.h"
#include "tensor/stream.h"
#include "tensor/tensor.h"

namespace conclave {

// CUDA devices this process can use; 0 where RequireDevice({kCuda}) says why.
int CudaCount();

// OK if the device can be used. Errors: FailedPrecondition, with the reason: a build without CUDA, no driver (in the runtime's own words),
// no such index.
absl::Status RequireDevice(Device device);

struct DeviceInfo {
  std::string name;          // "cpu", or as the driver says
  int64_t memory_bytes = 0;  // of a GPU; 0: not asked (CPU)
};
absl::StatusOr<DeviceInfo> Describe(Device device);

// A stream of the device. Errors: RequireDevice's.
absl::StatusOr<Stream> OpenStream(Device device);

// Waits until all work of the stream is done. Errors: Internal, the first error of any kernel queued on it.
absl::Status Synchronize(Stream& stream);

// Copies bytes between tensors of equal dtype and size, each on the CPU or on the stream's device. Queued on the stream: both must live
// until Synchronize.
absl::Status Copy(const Tensor& from, const Tensor& to, Stream& stream);

// Bump allocator over one block of device memory (of host memory for the CPU). Memory lives until Reset and is not cleared. Move-only, not
// thread-safe.
class DeviceArena {
 public:
  // Errors: RequireDevice's; ResourceExhausted where the device has not that much memory.
  static absl::StatusOr<DeviceArena> Create(Device device, int64_t capacity_bytes);
  DeviceArena(DeviceArena&& other) noexcept { *this = std::move(other); }
  DeviceArena& operator=(DeviceArena&& other) noexcept;
  ~DeviceArena();

  // 256-byte aligned. Errors: ResourceExhausted, with what is used and what was asked for.
  absl::StatusOr<Tensor> New(const Shape& shape, DType dtype);
  void Reset() { used_ = 0; }
  Device device() const { return device_; }
  int64_t used_bytes() const { return used_; }
  int64_t capacity_bytes() const { return capacity_; }

 private:
  DeviceArena() = default;
  Device device_;
  void* memory_ = nullptr;
  int64_t capacity_ = 0, used_ = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_TENSOR_DEVICE_H_
