// bfloat16, to the nearest, ties to even: an error of at most 2^-8 of each coordinate, so contractive with 1 - 1/delta = 2^-16 above the
// smallest normal number 2^-126 (below it, the error is at most 2^-134).
// Wire: d numbers of 16 bits.
#include <algorithm>
#include <cmath>

#include "base/float16.h"
#include "base/simd.h"
#include "comm/compressors.h"

namespace conclave {
namespace {

// Returns the largest magnitude's bits.
template <typename T>
CONCLAVE_INLINE uint32_t RoundLoop(const T* x, uint8_t* out, int64_t n) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint16_t h = FloatToBf16(static_cast<float>(x[i]));
    out[2 * i] = static_cast<uint8_t>(h);
    out[2 * i + 1] = static_cast<uint8_t>(h >> 8);
    largest = std::max<uint32_t>(largest, h & 0x7FFF);
  }
  return largest;
}
CONCLAVE_SIMD uint32_t Round(const float* x, uint8_t* out, int64_t n) { return RoundLoop(x, out, n); }
CONCLAVE_SIMD uint32_t Round(const double* x, uint8_t* out, int64_t n) { return RoundLoop(x, out, n); }

template <typename T>
CONCLAVE_INLINE uint32_t ExpandLoop(const uint8_t* in, T* x, int64_t n) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    const auto h = static_cast<uint16_t>(in[2 * i] | (in[2 * i + 1] << 8));
    x[i] = static_cast<T>(Bf16ToFloat(h)) + T{0};
    largest = std::max<uint32_t>(largest, h & 0x7FFF);
  }
  return largest;
}
CONCLAVE_SIMD uint32_t Expand(const uint8_t* in, float* x, int64_t n) { return ExpandLoop(in, x, n); }
CONCLAVE_SIMD uint32_t Expand(const uint8_t* in, double* x, int64_t n) { return ExpandLoop(in, x, n); }

constexpr uint32_t kInfinite = 0x7F80;

class Bf16Codec final : public Compressor {
 public:
  explicit Bf16Codec(const CompressorContext& context) : d_(context.shape.elements()), dtype_(context.dtype) {}

  CodecContract Contract() const override { return {.unbiased = false, .delta = 1 / (1 - 0x1p-16), .wire_bits = 16 * d_}; }
  int64_t MaxWireBytes() const override { return 2 * d_; }

  int64_t Encode(const Tensor& x, const CodecKey&, std::span<std::byte> wire) const override {
    CHECK_EQ(x.elements(), d_);
    auto* const out = reinterpret_cast<uint8_t*>(wire.data());
    const uint32_t largest = DispatchFloat(dtype_, [&](auto t) { return Round(x.data<decltype(t)>(), out, d_); });
    return largest < kInfinite ? 2 * d_ : kBeyondRange;
  }

  absl::Status Decode(std::span<const std::byte> wire, const CodecKey& key, const Tensor& x) const override {
    if (static_cast<int64_t>(wire.size()) != 2 * d_) return WrongLength("bf16", key, 2 * d_, wire.size());
    const auto* const in = reinterpret_cast<const uint8_t*>(wire.data());
    const uint32_t largest = DispatchFloat(dtype_, [&](auto t) { return Expand(in, x.data<decltype(t)>(), d_); });
    return largest < kInfinite ? absl::OkStatus() : Malformed("bf16", key, "a value is not finite");
  }

 private:
  const int64_t d_;
  const DType dtype_;
};

}  // namespace

CompressorOr MakeBf16Codec(const Bf16CodecConfig&, const CompressorContext& context) { return std::make_unique<Bf16Codec>(context); }

}  // namespace conclave
