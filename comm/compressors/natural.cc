// Natural compression (Horvath et al., arXiv 1905.10988): 2^e (1 + m), 0 <= m < 1, becomes 2^(e+1) with probability m, else 2^e; below the
// smallest normal number 2^-126 it becomes 2^-126 or 0. E Q(x) = x, E |Q(x)|^2 <= (9/8) |x|^2 above 2^-126.
// The bits of an f32 hold exponent and mantissa side by side: adding 23 random bits below the exponent carries into it with probability m,
// exactly. f64 values round with 32 random bits to the same powers of two.
// Wire: d biased exponents (0: zero) of a byte, then d signs, 8 a byte: 9 d bits.
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/simd.h"
#include "comm/codec_draws.h"
#include "comm/compressors.h"

namespace conclave {
namespace {

constexpr int64_t kNaturalChunk = 1024;

// Returns the largest code. draws: 32 bits a value.
CONCLAVE_SIMD uint32_t RoundExponents(const float* x, const uint32_t* draws, uint8_t* codes, int64_t n) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t code = ((std::bit_cast<uint32_t>(x[i]) & 0x7FFFFFFF) + (draws[i] >> 9)) >> 23;
    codes[i] = static_cast<uint8_t>(code);
    largest = std::max(largest, code);
  }
  return largest;
}

CONCLAVE_SIMD uint32_t RoundExponents(const double* x, const uint32_t* draws, uint8_t* codes, int64_t n) {
  constexpr int64_t kBias = 1023 - 127;
  uint32_t largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint64_t magnitude = std::bit_cast<uint64_t>(x[i]) & 0x7FFFFFFFFFFFFFFF;
    const int64_t rounded = static_cast<int64_t>(((magnitude >> 20) + draws[i]) >> 32) - kBias;
    // Below 2^-126: 2^-126 with probability |x| / 2^-126.
    const double chance = std::bit_cast<double>(magnitude) * 0x1p126;
    const int64_t tiny = chance * 0x1p32 > static_cast<double>(draws[i]) ? 1 : 0;
    const auto code = static_cast<uint32_t>(chance < 1 ? tiny : std::min<int64_t>(rounded, 255));
    codes[i] = static_cast<uint8_t>(code);
    largest = std::max(largest, code);
  }
  return largest;
}

bool HasAvx512() {
  static const bool has = __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512dq") != 0;
  return has;
}

template <typename T>
CONCLAVE_INLINE void PackSignsLoop(const T* x, uint8_t* signs, int64_t bytes) {
  for (int64_t j = 0; j < bytes; ++j) {
    uint32_t byte = 0;
    for (int b = 0; b < 8; ++b) byte |= static_cast<uint32_t>(std::signbit(x[8 * j + b])) << b;
    signs[j] = static_cast<uint8_t>(byte);
  }
}
CONCLAVE_SIMD void PackSignsPlain(const float* x, uint8_t* signs, int64_t bytes) { PackSignsLoop(x, signs, bytes); }
// Signs are masks there: no compiler sees that in the loops.
__attribute__((target("avx512f,avx512dq"))) void PackSignsAvx512(const float* x, uint8_t* signs, int64_t bytes) {
  const int64_t whole = bytes / 2 * 2;
  for (int64_t j = 0; j < whole; j += 2) {
    const __mmask16 mask = _mm512_movepi32_mask(_mm512_loadu_si512(x + 8 * j));
    std::memcpy(signs + j, &mask, sizeof(mask));
  }
  if (whole < bytes) PackSignsLoop(x + 8 * whole, signs + whole, bytes - whole);
}
void PackSigns(const float* x, uint8_t* signs, int64_t bytes) { (HasAvx512() ? PackSignsAvx512 : PackSignsPlain)(x, signs, bytes); }
CONCLAVE_SIMD void PackSigns(const double* x, uint8_t* signs, int64_t bytes) { PackSignsLoop(x, signs, bytes); }

CONCLAVE_INLINE float Power(uint32_t code, uint32_t negative, float) {
  return std::bit_cast<float>(code == 0 ? 0 : (negative << 31) | (code << 23));
}
CONCLAVE_INLINE double Power(uint32_t code, uint32_t negative, double) {
  return std::bit_cast<double>(code == 0 ? 0 : (uint64_t{negative} << 63) | (uint64_t{code + 1023 - 127} << 52));
}

// Returns the largest code.
template <typename T>
CONCLAVE_INLINE uint32_t ExpandLoop(const uint8_t* codes, const uint8_t* signs, T* x, int64_t n) {
  uint32_t largest = 0;
  const int64_t whole = n / 8 * 8;
  for (int64_t i = 0; i < whole; i += 8) {
    const uint32_t byte = signs[i / 8];
    for (int64_t b = 0; b < 8; ++b) {
      const uint32_t code = codes[i + b];
      x[i + b] = Power(code, (byte >> b) & 1, T{});
      largest = std::max(largest, code);
    }
  }
  for (int64_t i = whole; i < n; ++i) {
    x[i] = Power(codes[i], (signs[i / 8] >> (i % 8)) & 1, T{});
    largest = std::max<uint32_t>(largest, codes[i]);
  }
  return largest;
}
CONCLAVE_SIMD uint32_t ExpandPlain(const uint8_t* codes, const uint8_t* signs, float* x, int64_t n) {
  return ExpandLoop(codes, signs, x, n);
}
__attribute__((target("avx512f,avx512dq"))) uint32_t ExpandAvx512(const uint8_t* codes, const uint8_t* signs, float* x, int64_t n) {
  constexpr __mmask16 kAll = 0xFFFF;  // the unmasked forms draw false warnings from g++ 12
  const __m512i minus = _mm512_set1_epi32(INT32_MIN);
  __m512i most = _mm512_setzero_si512();
  const int64_t whole = n / 16 * 16;
  for (int64_t i = 0; i < whole; i += 16) {
    __mmask16 negative;
    std::memcpy(&negative, signs + i / 8, sizeof(negative));
    const __m512i code = _mm512_maskz_cvtepu8_epi32(kAll, _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i)));
    const __mmask16 there = _mm512_test_epi32_mask(code, code);  // zero has no sign
    const __m512i bits = _mm512_maskz_slli_epi32(kAll, code, 23);
    _mm512_storeu_si512(x + i, _mm512_mask_or_epi32(bits, static_cast<__mmask16>(negative & there), bits, minus));
    most = _mm512_maskz_max_epu32(kAll, most, code);
  }
  std::array<uint32_t, 16> largest;
  _mm512_storeu_si512(largest.data(), most);
  return std::max(*std::ranges::max_element(largest), ExpandLoop(codes + whole, signs + whole / 8, x + whole, n - whole));
}
uint32_t Expand(const uint8_t* codes, const uint8_t* signs, float* x, int64_t n) {
  return (HasAvx512() ? ExpandAvx512 : ExpandPlain)(codes, signs, x, n);
}
CONCLAVE_SIMD uint32_t Expand(const uint8_t* codes, const uint8_t* signs, double* x, int64_t n) { return ExpandLoop(codes, signs, x, n); }

class NaturalCodec final : public Compressor {
 public:
  explicit NaturalCodec(const CompressorContext& context)
      : d_(context.shape.elements()), dtype_(context.dtype), bytes_(d_ + (d_ + 7) / 8) {}

  CodecContract Contract() const override { return {.unbiased = true, .q = 9.0 / 8, .wire_bits = 9 * d_}; }
  int64_t MaxWireBytes() const override { return bytes_; }

  int64_t Encode(const Tensor& x, const CodecKey& key, std::span<std::byte> wire) const override {
    CHECK_EQ(x.elements(), d_);
    auto* const codes = reinterpret_cast<uint8_t*>(wire.data());
    uint8_t* const signs = codes + d_;
    std::array<uint32_t, kNaturalChunk> draws;
    return DispatchFloat(dtype_, [&](auto t) {
      const auto* const values = x.data<decltype(t)>();
      uint32_t largest = 0;
      for (int64_t i = 0; i < d_; i += kNaturalChunk) {
        const int64_t n = std::min(kNaturalChunk, d_ - i);
        FillRoundingDraws(key, i, std::span(draws).first(static_cast<size_t>(n)));
        largest = std::max(largest, RoundExponents(values + i, draws.data(), codes + i, n));
      }
      PackSigns(values, signs, d_ / 8);
      if (d_ % 8 != 0) {
        uint32_t byte = 0;
        for (int64_t i = d_ / 8 * 8; i < d_; ++i) byte |= static_cast<uint32_t>(std::signbit(values[i])) << (i % 8);
        signs[d_ / 8] = static_cast<uint8_t>(byte);
      }
      return largest >= 255 ? kBeyondRange : bytes_;
    });
  }

  absl::Status Decode(std::span<const std::byte> wire, const CodecKey& key, const Tensor& x) const override {
    if (static_cast<int64_t>(wire.size()) != bytes_) return WrongLength("natural", key, bytes_, wire.size());
    const auto* const codes = reinterpret_cast<const uint8_t*>(wire.data());
    const uint32_t largest = DispatchFloat(dtype_, [&](auto t) { return Expand(codes, codes + d_, x.data<decltype(t)>(), d_); });
    return largest < 255 ? absl::OkStatus() : Malformed("natural", key, "an exponent is beyond the range");
  }

 private:
  const int64_t d_;
  const DType dtype_;
  const int64_t bytes_;
};

}  // namespace

CompressorOr MakeNaturalCodec(const NaturalConfig&, const CompressorContext& context) { return std::make_unique<NaturalCodec>(context); }

}  // namespace conclave
