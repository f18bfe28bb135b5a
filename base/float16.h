// The 16-bit floats as bit patterns: bfloat16 (8 exponent bits, 7 of mantissa) and IEEE half (5 and 10; read only).
// Rounding is to nearest, ties to even. A NaN stays a NaN of the same sign (made quiet); infinities, zeros and their signs are kept.
#ifndef CONCLAVE_BASE_FLOAT16_H_
#define CONCLAVE_BASE_FLOAT16_H_

#include <bit>
#include <cstdint>

namespace conclave {

// A bfloat16 number as it lies in memory; the element type of bf16 tensors.
struct BFloat16 {
  uint16_t bits = 0;
};

inline float Bf16ToFloat(uint16_t h) { return std::bit_cast<float>(uint32_t{h} << 16); }

inline uint16_t FloatToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return static_cast<uint16_t>((bits >> 16) | 0x0040);
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

inline float Fp16ToFloat(uint16_t h) {
  const uint32_t sign = uint32_t{h & 0x8000u} << 16, magnitude = h & 0x7FFF;
  if (magnitude >= 0x7C00) {  // infinity or NaN
    const uint32_t quiet = magnitude > 0x7C00 ? 0x00400000 : 0;
    return std::bit_cast<float>(sign | 0x7F800000 | ((magnitude & 0x3FF) << 13) | quiet);
  }
  if (magnitude < 0x0400) {  // zero or subnormal: a multiple of 2^-24, exact in float
    const float value = static_cast<float>(magnitude) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | sign);
  }
  return std::bit_cast<float>(sign | ((magnitude << 13) + ((127 - 15) << 23)));
}

}  // namespace conclave

#endif  // CONCLAVE_BASE_FLOAT16_H_
