// The 16-bit floats as bit patterns: bfloat16 (8 exponent bits, 7 of mantissa) and IEEE half (5 and 10).
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

inline float Bf16ToFloat(uint16_t h) {
  return std::bit_cast<float>(uint32_t{h} << 16);
}

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

inline uint16_t FloatToFp16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return static_cast<uint16_t>(sign | 0x7E00 | ((magnitude >> 13) & 0x1FF));
  if (magnitude >= 0x477FF000) return static_cast<uint16_t>(sign | 0x7C00);  // from 65520 on: rounds to infinity
  if (magnitude < 0x38800000) {                                              // below 2^-14: a subnormal, counted in units of 2^-24
    // Adding 0.5 puts the unit of the last place of the float at 2^-24, so the addition itself rounds to nearest even.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(0.5f)));
  }
  const uint32_t rounded = magnitude + 0xFFF + ((magnitude >> 13) & 1);
  return static_cast<uint16_t>(sign | ((rounded - ((127 - 15) << 23)) >> 13));
}

}  // namespace conclave

#endif  // CONCLAVE_BASE_FLOAT16_H_
