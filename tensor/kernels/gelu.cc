#include "tensor/kernels/gelu.h"

#include "tensor/kernels/ahead.h"
#include "tensor/kernels/exp.h"

namespace conclave::cpu {
namespace {

template <typename T>
constexpr T kTwiceRoot = T(1.5957691216057307117597842397375);  // 2 sqrt(2 / pi)
template <typename T>
constexpr T kCubic = T(0.044715);

template <typename T>
CONCLAVE_INLINE T Gate(T x) {
  return Sigmoid(kTwiceRoot<T> * x * (T(1) + kCubic<T> * x * x));
}

template <typename T>
CONCLAVE_INLINE void Forward(const T* __restrict__ x, T* __restrict__ y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * Gate(x[i]);
}

// s = sigmoid(2 u): dy/dx = s + x s (1 - s) 2 u', u' = sqrt(2 / pi) (1 + 3 * 0.044715 x^2).
template <typename T>
CONCLAVE_INLINE T Derivative(T x) {
  const T s = Gate(x);
  const T slope = kTwiceRoot<T> * (T(1) + T(3) * kCubic<T> * x * x);
  return s + x * s * (T(1) - s) * slope;
}

template <typename T>
CONCLAVE_INLINE void Backward(const T* __restrict__ x, const T* __restrict__ dy, T* __restrict__ dx, int64_t n) {
  for (int64_t i = 0; i < n; ++i) dx[i] += dy[i] * Derivative(x[i]);
}

template <typename T>
CONCLAVE_INLINE void BackwardInPlace(const T* __restrict__ x, T* __restrict__ d, int64_t n) {
  for (int64_t i = 0; i < n; ++i) d[i] *= Derivative(x[i]);
}

template <typename T>
CONCLAVE_INLINE void AgainAndBackward(const T* __restrict__ x, T* __restrict__ y, T* __restrict__ d, int64_t n) {
  const auto part = [=](int64_t begin, int64_t end) __attribute__((always_inline)) {
    for (int64_t i = begin; i < end; ++i) {
      y[i] = x[i] * Gate(x[i]);
      d[i] *= Derivative(x[i]);
    }
  };
  WithReadAhead(n, part, x);
}

}  // namespace

CONCLAVE_SIMD void GeluForward(const float* x, float* y, int64_t n, Stream&) { Forward(x, y, n); }
CONCLAVE_SIMD void GeluForward(const double* x, double* y, int64_t n, Stream&) { Forward(x, y, n); }
CONCLAVE_SIMD void GeluBackward(const float* x, const float* dy, float* dx, int64_t n, Stream&) { Backward(x, dy, dx, n); }
CONCLAVE_SIMD void GeluBackward(const double* x, const double* dy, double* dx, int64_t n, Stream&) { Backward(x, dy, dx, n); }
CONCLAVE_SIMD void GeluBackwardInPlace(const float* x, float* d, int64_t n) { BackwardInPlace(x, d, n); }
CONCLAVE_SIMD void GeluBackwardInPlace(const double* x, double* d, int64_t n) { BackwardInPlace(x, d, n); }
CONCLAVE_SIMD void GeluAgainAndBackward(const float* x, float* y, float* d, int64_t n) { AgainAndBackward(x, y, d, n); }
CONCLAVE_SIMD void GeluAgainAndBackward(const double* x, double* y, double* d, int64_t n) { AgainAndBackward(x, y, d, n); }

}  // namespace conclave::cpu
