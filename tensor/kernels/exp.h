// exp, log, tanh and the logistic function as straight-line code, so that loops over them vectorise (calls into the C library do not).
// f32: own polynomials, within 2 ulp (3 for tanh and sigmoid); infinities and NaN as in <cmath>. f64: the C library. Polynomials: Cephes
// (Moshier).
#ifndef CONCLAVE_TENSOR_KERNELS_EXP_H_
#define CONCLAVE_TENSOR_KERNELS_EXP_H_

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "base/simd.h"

namespace conclave::cpu {

CONCLAVE_INLINE double Exp(double x) { return std::exp(x); }
CONCLAVE_INLINE double ExpOfScore(double x) { return std::exp(x); }
CONCLAVE_INLINE double NormalExp(double x) { return std::exp(x); }
CONCLAVE_INLINE double LogOfSum(double x) { return std::log(x); }
CONCLAVE_INLINE double Tanh(double x) { return std::tanh(x); }

// e^x = 2^k e^r with k = round(x / ln 2).
struct ExpParts {
  float e_r;  // in [0.7, 1.42]
  int32_t k;
};
CONCLAVE_INLINE ExpParts ExpPartsOf(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves round(x) in the low bits
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
  return {p, std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRound)};
}

// 2^k is applied in two halves, since k reaches 128 (overflow) and -150 (denormal results).
CONCLAVE_INLINE float Exp(float x) {
  x = x > 89.0f ? 89.0f : x;  // in this order NaN stays NaN
  x = x < -104.0f ? -104.0f : x;
  const auto [e_r, k] = ExpPartsOf(x);
  const int32_t half = k >> 1;
  const float scale1 = std::bit_cast<float>((half + 127) << 23);
  const float scale2 = std::bit_cast<float>((k - half + 127) << 23);
  return e_r * scale1 * scale2;
}

// For x <= 88: the same bits down to -87, and e^-87 below it. A third fewer instructions.
CONCLAVE_INLINE float ExpOfScore(float x) {
  x = x < -87.0f ? -87.0f : x;
  const auto [e_r, k] = ExpPartsOf(x);
  return e_r * std::bit_cast<float>((k + 127) << 23);
}

// The same for any x, and infinity from 88.4 on.
CONCLAVE_INLINE float NormalExp(float x) { return ExpOfScore(x > 89.0f ? 89.0f : x); }

// log x for x >= 1; infinity and NaN give themselves. x = 2^k (1 + m) with 1 + m in [0.7, 1.42).
CONCLAVE_INLINE float LogOfSum(float x) {
  constexpr int32_t kRootOfHalf = 0x3f3504f3;
  const int32_t bits = std::bit_cast<int32_t>(x), exponent = (bits - kRootOfHalf) >> 23;
  const float k = static_cast<float>(exponent), m = std::bit_cast<float>(bits - (exponent << 23)) - 1.0f;
  float p = 7.0376836292e-2f;
  p = p * m + -1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m + -1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m + -1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m + -2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  const float square = m * m;
  const float low = p * m * square + k * -2.12194440e-4f - 0.5f * square;
  const float log = m + low + k * 0.693359375f;
  return x <= std::numeric_limits<float>::max() ? log : x;
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
  return T(1) / (T(1) + NormalExp(-x));
}

}  // namespace conclave::cpu

#endif  // CONCLAVE_TENSOR_KERNELS_EXP_H_
