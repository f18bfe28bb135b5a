#include "tensor/kernels/sums.h"

#include <algorithm>

#include "tensor/kernels/lanes.h"

namespace conclave::cpu {
namespace {

template <typename T>
CONCLAVE_INLINE void AddRow(const T* __restrict__ x, T* __restrict__ y, int64_t h) {
  for (int64_t j = 0; j < h; ++j) y[j] += x[j];
}

template <typename T>
CONCLAVE_INLINE void AddNumber(T a, T* y, int64_t h) {
  for (int64_t j = 0; j < h; ++j) y[j] += a;
}

template <typename T>
CONCLAVE_INLINE void Last(const T* x, T* y, int64_t n, int64_t h) {
  for (int64_t i = 0; i < n; ++i) y[i] = LaneSum<T>(h, Element<T, T>{x + i * h});
}
template <typename T>
CONCLAVE_INLINE void LastBackward(const T* y, T* x, int64_t n, int64_t h) {
  for (int64_t i = 0; i < n; ++i) AddNumber(y[i], x + i * h, h);
}
template <typename T>
CONCLAVE_INLINE void First(const T* x, T* y, int64_t n, int64_t h) {
  std::fill_n(y, h, T(0));
  for (int64_t i = 0; i < n; ++i) AddRow(x + i * h, y, h);
}
template <typename T>
CONCLAVE_INLINE void FirstBackward(const T* y, T* x, int64_t n, int64_t h) {
  for (int64_t i = 0; i < n; ++i) AddRow(y, x + i * h, h);
}

}  // namespace

CONCLAVE_SIMD double Sum(const float* x, int64_t n) { return LaneSum<double>(n, Element<double, float>{x}); }
CONCLAVE_SIMD double Sum(const double* x, int64_t n) { return LaneSum<double>(n, Element<double, double>{x}); }
CONCLAVE_SIMD double Dot(const float* x, const float* y, int64_t n) { return LaneSum<double>(n, Product<double, float>{x, y}); }
CONCLAVE_SIMD double Dot(const double* x, const double* y, int64_t n) { return LaneSum<double>(n, Product<double, double>{x, y}); }
CONCLAVE_SIMD void SumLast(const float* x, float* y, int64_t n, int64_t h) { Last(x, y, n, h); }
CONCLAVE_SIMD void SumLast(const double* x, double* y, int64_t n, int64_t h) { Last(x, y, n, h); }
CONCLAVE_SIMD void AddToRows(const float* y, float* x, int64_t n, int64_t h) { LastBackward(y, x, n, h); }
CONCLAVE_SIMD void AddToRows(const double* y, double* x, int64_t n, int64_t h) { LastBackward(y, x, n, h); }
CONCLAVE_SIMD void SumFirst(const float* x, float* y, int64_t n, int64_t h) { First(x, y, n, h); }
CONCLAVE_SIMD void SumFirst(const double* x, double* y, int64_t n, int64_t h) { First(x, y, n, h); }
CONCLAVE_SIMD void AddToColumns(const float* y, float* x, int64_t n, int64_t h) { FirstBackward(y, x, n, h); }
CONCLAVE_SIMD void AddToColumns(const double* y, double* x, int64_t n, int64_t h) { FirstBackward(y, x, n, h); }

}  // namespace conclave::cpu
