#include "tensor/device.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "tensor/kernels/cuda_runtime.h"

namespace conclave {
namespace {

constexpr int64_t kAlign = 256;

}  // namespace

Stream::~Stream() {
  if (handle_ != nullptr) cuda::CloseStream(handle_);
}

int CudaCount() {
  std::string why;
  return cuda::DeviceCount(&why);
}

absl::Status RequireDevice(Device device) {
  if (device.kind == DeviceKind::kCpu) return absl::OkStatus();
  std::string why;
  const int count = cuda::DeviceCount(&why);
  if (count == 0) return FailedPrecondition("device CUDA cannot be used: %s; use device: CPU", why);
  if (device.index < 0 || device.index >= count) {
    return FailedPrecondition("device CUDA %d does not exist: this machine has %d, numbered from 0", device.index, count);
  }
  return absl::OkStatus();
}

absl::StatusOr<DeviceInfo> Describe(Device device) {
  RETURN_IF_ERROR(RequireDevice(device));
  if (device.kind == DeviceKind::kCpu) return DeviceInfo{.name = "cpu"};
  DeviceInfo info;
  const std::string error = cuda::GetProperties(device.index, &info.name, &info.memory_bytes);
  if (!error.empty()) return Internal("cannot describe CUDA device %d: %s", device.index, error);
  return info;
}

absl::StatusOr<Stream> OpenStream(Device device) {
  RETURN_IF_ERROR(RequireDevice(device));
  if (device.kind == DeviceKind::kCpu) return Stream();
  void* handle = nullptr;
  const std::string error = cuda::OpenStream(device.index, &handle);
  if (!error.empty()) return Internal("cannot open a stream on CUDA device %d: %s", device.index, error);
  return Stream(device, handle);
}

absl::Status Synchronize(Stream& stream) {
  if (stream.handle() != nullptr) {
    const std::string error = cuda::Synchronize(stream.handle());
    if (!error.empty()) stream.NoteError(error);
  }
  if (!stream.error().empty()) return Internal("CUDA device %d: %s", stream.device().index, stream.error());
  return absl::OkStatus();
}

absl::Status Copy(const Tensor& from, const Tensor& to, Stream& stream) {
  CHECK(from.dtype() == to.dtype() && from.elements() == to.elements()) << from.shape().ToString() << " into " << to.shape().ToString();
  if (from.bytes() == 0) return absl::OkStatus();
  if (stream.handle() == nullptr) {
    CHECK(from.device() == to.device() && from.device() == Device{}) << "the CPU's stream reaches host memory only";
    std::memmove(to.raw(), from.raw(), from.bytes());
    return absl::OkStatus();
  }
  const std::string error = cuda::CopyBytes(from.raw(), to.raw(), from.bytes(), stream.handle());
  if (!error.empty()) return Internal("copy of %d bytes on CUDA device %d: %s", from.bytes(), stream.device().index, error);
  return absl::OkStatus();
}

absl::StatusOr<DeviceArena> DeviceArena::Create(Device device, int64_t capacity_bytes) {
  RETURN_IF_ERROR(RequireDevice(device));
  DeviceArena arena;
  arena.device_ = device;
  arena.capacity_ = std::max(kAlign, (capacity_bytes + kAlign - 1) / kAlign * kAlign);
  std::string error;
  if (device.kind == DeviceKind::kCpu) {
    arena.memory_ = std::aligned_alloc(kAlign, arena.capacity_);
    if (arena.memory_ == nullptr) error = "out of host memory";
  } else {
    error = cuda::Allocate(device.index, arena.capacity_, &arena.memory_);
  }
  if (!error.empty())
    return absl::ResourceExhaustedError(absl::StrFormat("cannot reserve %d bytes of device memory: %s", arena.capacity_, error));
  return arena;
}

DeviceArena& DeviceArena::operator=(DeviceArena&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(memory_, other.memory_);
  std::swap(capacity_, other.capacity_);
  std::swap(used_, other.used_);
  return *this;
}

DeviceArena::~DeviceArena() {
  if (device_.kind == DeviceKind::kCpu) {
    std::free(memory_);
  } else if (memory_ != nullptr) {
    cuda::Free(device_.index, memory_);
  }
}

absl::StatusOr<Tensor> DeviceArena::New(const Shape& shape, DType dtype) {
  const int64_t bytes = std::max(kAlign, (shape.elements() * SizeOf(dtype) + kAlign - 1) / kAlign * kAlign);
  if (used_ + bytes > capacity_) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("device arena is full: %d of %d bytes used, %d more asked for %s", used_, capacity_, bytes, shape.ToString()));
  }
  const Tensor tensor(static_cast<std::byte*>(memory_) + used_, shape, dtype, device_);
  used_ += bytes;
  return tensor;
}

}  // namespace conclave
