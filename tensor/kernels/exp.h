// exp, tanh and the logistic function as straight-line code, so that loops over them vectorise (calls into the C library do not).
// f32: own polynomials, within 2 ulp (3 for tanh and sigmoid); infinities and NaN as in <cmath>. f64: the C library. Polynomials: Cephes
// (Moshier).
#ifndef CONCLAVE_TENSOR_KERNELS_EXP_H_
#define CONCLAVE_TENSOR_KERNELS_EXP_H_

#include <bit>
#include <cmath>
#include <cstdint>

#include "base/simd.h"

namespace conclave::cpu {

CONCLAVE_INLINE double Exp(double x) { return std::exp(x); }
CONCLAVE_INLINE double Tanh(double x) { return std::tanh(x); }

// e^x = 2^k e^r with k = round(x / ln 2). 2^k is applied in two halves, since k reaches 128 (overflow) and -150 (denormal results).
CONCLAVE_INLINE float Exp(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves round(x) in the low bits
  x = x > 89.0f ? 89.0f : x;             // in this order NaN stays NaN
  x = x < -104.0f ? -104.0f : x;
  const float shifted = x * 1.44269504088896341f + kRound;
  const float k = shifted - kRound;
  float r = x - k * 0.693359375f;
  r = r - k * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const int32_t exponent = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRound);
  const int32_t half = exponent >> 1;
  const float scale1 = std::bit_cast<float>((half + 127) << 23);
  const float scale2 = std::bit_cast<float>((exponent - half + 127) << 23);
  return p * scale1 * scale2;
}

// Near 0 an odd polynomial, elsewhere 1 - 2 / (e^2|x| + 1) with the sign of x; both are computed and one is chosen.
CONCLAVE_INLINE float Tanh(float x) {
  const float z = x * x;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z + -5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z + -3.33332819422e-1f;
  const float near = p * z * x + x;
  const float magnitude = std::fabs(x);
  const float far = std::copysign(1.0f - 2.0f / (Exp(2.0f * magnitude) + 1.0f), x);
  return magnitude < 0.625f ? near : far;
}

template <typename T>
CONCLAVE_INLINE T Sigmoid(T x) {
  return T(1) / (T(1) + Exp(-x));
}

}  // namespace conclave::cpu

#endif  // CONCLAVE_TENSOR_KERNELS_EXP_H_
