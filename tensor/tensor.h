// Tensor: a value handle on {memory, shape, dtype, device}. No autograd inside, no ownership: Buffer and Arena own memory.
#ifndef CONCLAVE_TENSOR_TENSOR_H_
#define CONCLAVE_TENSOR_TENSOR_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/float16.h"

namespace conclave {

enum class DType : uint8_t { kF32, kBF16, kF64, kI32, kI64, kU8 };

int64_t SizeOf(DType dtype);      // bytes of one element
const char* NameOf(DType dtype);  // "f32", ...
template <typename T>
constexpr DType DTypeOf();
template <>
constexpr DType DTypeOf<float>() {
  return DType::kF32;
}
template <>
constexpr DType DTypeOf<BFloat16>() {
  return DType::kBF16;
}
template <>
constexpr DType DTypeOf<double>() {
  return DType::kF64;
}
template <>
constexpr DType DTypeOf<int32_t>() {
  return DType::kI32;
}
template <>
constexpr DType DTypeOf<int64_t>() {
  return DType::kI64;
}
template <>
constexpr DType DTypeOf<uint8_t>() {
  return DType::kU8;
}

// Calls f(T{}) with T = float or double as `dtype` says. Other dtypes are our bug.
template <typename F>
decltype(auto) DispatchFloat(DType dtype, F&& f) {
  CHECK(dtype == DType::kF32 || dtype == DType::kF64) << NameOf(dtype);
  return dtype == DType::kF32 ? f(float{}) : f(double{});
}

enum class DeviceKind : uint8_t { kCpu, kCuda };
struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

// Up to 5 dims, row-major and contiguous.
class Shape {
 public:
  static constexpr int kMaxDims = 5;
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims);
  explicit Shape(std::span<const int64_t> dims);
  int dims() const { return count_; }
  int64_t operator[](int i) const { return dims_[i < 0 ? i + count_ : i]; }  // negative counts from the end
  int64_t elements() const;
  bool operator==(const Shape&) const = default;
  std::string ToString() const;  // "[2, 3]"

 private:
  std::array<int64_t, kMaxDims> dims_{};
  int count_ = 0;
};

class Tensor {
 public:
  Tensor() = default;
  Tensor(void* data, const Shape& shape, DType dtype, Device device = {}) : data_(data), shape_(shape), dtype_(dtype), device_(device) {}

  bool defined() const { return data_ != nullptr || dtype_defined(); }
  const Shape& shape() const { return shape_; }
  int64_t dim(int i) const { return shape_[i]; }
  int64_t elements() const { return shape_.elements(); }
  int64_t bytes() const { return elements() * SizeOf(dtype_); }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  void* raw() const { return data_; }
  template <typename T>
  T* data() const {
    CHECK(dtype_ == DTypeOf<T>()) << NameOf(dtype_);
    return static_cast<T*>(data_);
  }
  template <typename T>
  std::span<T> span() const {
    return {data<T>(), static_cast<size_t>(elements())};
  }
  std::span<std::byte> AsBytes() const { return {static_cast<std::byte*>(data_), static_cast<size_t>(bytes())}; }

  Tensor Reshape(const Shape& shape) const;          // same elements
  Tensor Slice(int64_t begin, int64_t count) const;  // rows begin.. of dim 0
  Tensor Flat() const { return Reshape({elements()}); }
  void Zero() const;                          // every byte 0
  void CopyFrom(const Tensor& source) const;  // same dtype and number of elements; regions equal or disjoint
  void Fill(double value) const;              // f32 or f64

 private:
  bool dtype_defined() const { return shape_.dims() > 0; }
  void* data_ = nullptr;
  Shape shape_;
  DType dtype_ = DType::kF32;
  Device device_;
};

// Owns 64-byte aligned, zero-initialised host memory. Move-only.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t bytes);
  // Contents unspecified. Large ones cost address space only until they are written to.
  static Buffer Uncleared(int64_t bytes);
  ~Buffer() { Release(); }
  Buffer(Buffer&& other) noexcept { Swap(*this, other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Swap(*this, other);
    return *this;
  }
  friend void Swap(Buffer& a, Buffer& b) {
    std::swap(a.memory_, b.memory_);
    std::swap(a.bytes_, b.bytes_);
  }

  // Bytes that the buffers made by this thread hold. A rank is a thread, so this is the rank's.
  static int64_t OfThisThread();

  int64_t bytes() const { return bytes_; }
  std::byte* data() const { return memory_; }
  Tensor View(int64_t offset_bytes, const Shape& shape, DType dtype) const;

 private:
  void Release();
  std::byte* memory_ = nullptr;
  int64_t bytes_ = 0;
};

// A tensor with its own memory.
class OwnedTensor {
 public:
  OwnedTensor() = default;
  OwnedTensor(const Shape& shape, DType dtype) : buffer_(shape.elements() * SizeOf(dtype)), view_(buffer_.View(0, shape, dtype)) {}
  const Tensor& get() const { return view_; }
  const Tensor& operator*() const { return view_; }
  const Tensor* operator->() const { return &view_; }

 private:
  Buffer buffer_;
  Tensor view_;
};

}  // namespace conclave

#endif  // CONCLAVE_TENSOR_TENSOR_H_
