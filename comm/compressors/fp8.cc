// 8-bit floats, e4m3: 4 exponent bits (bias 7) and 3 of mantissa, to the nearest, ties to even, after a power of two that brings the
// largest magnitude into [128, 256). An error of at most 2^-4 of each coordinate, or of 2^-10 below the smallest normal number 2^-6 while
// the norm is at least 128: contractive with 1 - 1/delta = 2^-8 + d 2^-34. Wire: the power's exponent, a byte (biased by 127), then d bytes
// of sign, exponent, mantissa.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "base/simd.h"
#include "comm/compressors.h"

namespace conclave {
namespace {

constexpr int kTop = 7;         // exponent of the largest magnitude after scaling
constexpr int kBias = 127;      // of the power's exponent
constexpr uint8_t kNaN = 0x7F;  // the one pattern of e4m3 that is no number

// |y| <= 256.
CONCLAVE_INLINE uint8_t ToE4m3(float y) {
  const uint32_t bits = std::bit_cast<uint32_t>(y), sign = (bits >> 24) & 0x80, magnitude = bits & 0x7FFFFFFF;
  // Adding 2^14 puts the unit of the last place at 2^-9: the addition rounds.
  const uint32_t subnormal = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0x1p14f) - std::bit_cast<uint32_t>(0x1p14f);
  const uint32_t normal = (magnitude + 0x7FFFF + ((magnitude >> 20) & 1) - ((127u - 7u) << 23)) >> 20;
  return static_cast<uint8_t>(sign | (magnitude < 0x3C800000 ? subnormal : normal));
}

constexpr std::array<float, 256> Numbers() {
  std::array<float, 256> numbers{};
  for (int code = 0; code < 256; ++code) {
    const int exponent = (code >> 3) & 15, mantissa = code & 7;
    float value = static_cast<float>(exponent == 0 ? mantissa : mantissa + 8);
    for (int e = exponent == 0 ? 1 : exponent; e < 10; ++e) value /= 2;
    for (int e = 10; e < exponent; ++e) value *= 2;
    numbers[static_cast<size_t>(code)] = (code & 0x80) != 0 && value != 0 ? -value : value;
  }
  return numbers;
}
constexpr std::array<float, 256> kNumbers = Numbers();

CONCLAVE_SIMD void Round(const float* x, double scale, uint8_t* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = ToE4m3(static_cast<float>(static_cast<double>(x[i]) * scale));
}
CONCLAVE_SIMD void Round(const double* x, double scale, uint8_t* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = ToE4m3(static_cast<float>(x[i] * scale));
}

class Fp8Codec final : public Compressor {
 public:
  explicit Fp8Codec(const CompressorContext& context) : d_(context.shape.elements()), dtype_(context.dtype) {}

  CodecContract Contract() const override {
    return {.unbiased = false, .delta = 1 / (1 - 0x1p-8 - static_cast<double>(d_) * 0x1p-34), .wire_bits = 8 + 8 * d_};
  }
  int64_t MaxWireBytes() const override { return 1 + d_; }

  int64_t Encode(const Tensor& x, const CodecKey&, std::span<std::byte> wire) const override {
    CHECK_EQ(x.elements(), d_);
    return DispatchFloat(dtype_, [&](auto t) {
      using T = decltype(t);
      const T* const values = x.data<T>();
      T largest = 0;
      for (int64_t i = 0; i < d_; ++i) largest = std::max(largest, std::abs(values[i]));
      const int power = largest > 0 ? std::max(std::ilogb(largest) - kTop, -kBias) : -kBias;
      if (power > kBias - kTop) return kBeyondRange;
      wire[0] = static_cast<std::byte>(power + kBias);
      Round(values, std::ldexp(1.0, -power), reinterpret_cast<uint8_t*>(wire.data() + 1), d_);
      return 1 + d_;
    });
  }

  absl::Status Decode(std::span<const std::byte> wire, const CodecKey& key, const Tensor& x) const override {
    if (static_cast<int64_t>(wire.size()) != 1 + d_) return WrongLength("fp8", key, 1 + d_, wire.size());
    const int power = std::to_integer<int>(wire[0]) - kBias;
    if (power > kBias - kTop) return Malformed("fp8", key, "its scale is beyond the range");
    const auto* const codes = reinterpret_cast<const uint8_t*>(wire.data() + 1);
    bool numbers = true;
    DispatchFloat(dtype_, [&](auto t) {
      using T = decltype(t);
      T* const out = x.data<T>();
      const T scale = std::ldexp(T{1}, power);
      for (int64_t i = 0; i < d_; ++i) {
        numbers &= (codes[i] & kNaN) != kNaN;
        out[i] = static_cast<T>(kNumbers[codes[i]]) * scale + T{0};
      }
    });
    return numbers ? absl::OkStatus() : Malformed("fp8", key, "a value is not a number");
  }

 private:
  const int64_t d_;
  const DType dtype_;
};

}  // namespace

CompressorOr MakeFp8Codec(const Fp8CodecConfig&, const CompressorContext& context) { return std::make_unique<Fp8Codec>(context); }

}  // namespace conclave
