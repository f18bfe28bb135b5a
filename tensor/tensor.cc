#include "tensor/tensor.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include <sys/mman.h>

#include "absl/strings/str_format.h"

namespace conclave {
namespace {

constexpr int64_t kBufferAlignment = 64;

thread_local int64_t buffer_bytes = 0;  // what Buffer::OfThisThread tells

constexpr int64_t kHugePage = int64_t{2} << 20;

int64_t AlignmentOf(int64_t bytes) { return bytes >= 2 * kHugePage ? kHugePage : kBufferAlignment; }

int64_t RoundedUp(int64_t bytes) {
  const int64_t unit = AlignmentOf(bytes);
  return std::max(unit, (bytes + unit - 1) / unit * unit);
}

}  // namespace

int64_t SizeOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return 4;
    case DType::kBF16:
      return 2;
    case DType::kF64:
      return 8;
    case DType::kI32:
      return 4;
    case DType::kI64:
      return 8;
    case DType::kU8:
      return 1;
  }
  return 0;
}

const char* NameOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "f32";
    case DType::kBF16:
      return "bf16";
    case DType::kF64:
      return "f64";
    case DType::kI32:
      return "i32";
    case DType::kI64:
      return "i64";
    case DType::kU8:
      return "u8";
  }
  return "?";
}

Shape::Shape(std::initializer_list<int64_t> dims) : Shape(std::span<const int64_t>(dims.begin(), dims.size())) {}

Shape::Shape(std::span<const int64_t> dims) : count_(static_cast<int>(dims.size())) {
  CHECK_LE(count_, kMaxDims);
  std::copy(dims.begin(), dims.end(), dims_.begin());
}

int64_t Shape::elements() const {
  int64_t n = 1;
  for (int i = 0; i < count_; ++i) n *= dims_[i];
  return n;
}

std::string Shape::ToString() const {
  std::string text = "[";
  for (int i = 0; i < count_; ++i) absl::StrAppendFormat(&text, i == 0 ? "%d" : ", %d", dims_[i]);
  return text + "]";
}

Tensor Tensor::Reshape(const Shape& shape) const {
  CHECK_EQ(shape.elements(), elements()) << shape_.ToString() << " to " << shape.ToString();
  return Tensor(data_, shape, dtype_, device_);
}

Tensor Tensor::Slice(int64_t begin, int64_t count) const {
  CHECK(begin >= 0 && count >= 0 && begin + count <= shape_[0]) << begin << '+' << count << " of " << shape_.ToString();
  std::array<int64_t, Shape::kMaxDims> dims{count};
  int64_t row = 1;
  for (int i = 1; i < shape_.dims(); ++i) row *= dims[i] = shape_[i];
  return Tensor(static_cast<std::byte*>(data_) + begin * row * SizeOf(dtype_), Shape(std::span<const int64_t>(dims.data(), shape_.dims())),
                dtype_, device_);
}

void Tensor::Zero() const {
  if (bytes() > 0) std::memset(data_, 0, bytes());
}

void Tensor::CopyFrom(const Tensor& source) const {
  CHECK(source.dtype_ == dtype_ && source.elements() == elements()) << source.shape_.ToString() << " into " << shape_.ToString();
  if (bytes() > 0 && data_ != source.data_) std::memcpy(data_, source.data_, bytes());
}

void Tensor::Fill(double value) const {
  DispatchFloat(dtype_, [&](auto t) {
    using T = decltype(t);
    std::ranges::fill(span<T>(), static_cast<T>(value));
  });
}

// Large buffers lie on huge pages where the system grants them: the tiles of a product touch a page a row, more than the processor's page
// table cache holds of small ones.
Buffer Buffer::Uncleared(int64_t bytes) {
  Buffer buffer;
  const int64_t rounded = RoundedUp(bytes);
  buffer.memory_ = static_cast<std::byte*>(std::aligned_alloc(AlignmentOf(bytes), rounded));
  CHECK(buffer.memory_ != nullptr) << "out of memory for " << rounded << " bytes";
  if (AlignmentOf(bytes) == kHugePage) madvise(buffer.memory_, rounded, MADV_HUGEPAGE);  // a hint: what comes of it changes speed alone
  buffer.bytes_ = bytes;
  buffer_bytes += rounded;
  return buffer;
}

Buffer::Buffer(int64_t bytes) : Buffer(Uncleared(bytes)) { std::memset(memory_, 0, RoundedUp(bytes)); }

void Buffer::Release() {
  if (memory_ == nullptr) return;
  buffer_bytes -= RoundedUp(bytes_);
  std::free(memory_);
  memory_ = nullptr;
}

int64_t Buffer::OfThisThread() { return buffer_bytes; }

Tensor Buffer::View(int64_t offset_bytes, const Shape& shape, DType dtype) const {
  CHECK(offset_bytes >= 0 && offset_bytes + shape.elements() * SizeOf(dtype) <= bytes_) << offset_bytes << ' ' << shape.ToString();
  return Tensor(memory_ + offset_bytes, shape, dtype);
}

}  // namespace conclave
