#include "tensor/kernels/linear_rows.h"

#include "base/simd.h"

namespace conclave::cpu {
namespace {

template <typename T>
CONCLAVE_INLINE void AddRowLoop(const T* __restrict bias, T* __restrict y, int64_t n, int64_t h) {
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t j = 0; j < h; ++j) y[r * h + j] += bias[j];
  }
}

// Columns go in strips whose sums stay in registers while all rows pass.
template <typename T>
CONCLAVE_INLINE void ColumnSumLoop(const T* __restrict x, T* __restrict sums, int64_t n, int64_t h) {
  constexpr int64_t kStrip = 64;
  int64_t j = 0;
  for (; j + kStrip <= h; j += kStrip) {
    T sum[kStrip] = {};
    for (int64_t r = 0; r < n; ++r) {
      for (int64_t l = 0; l < kStrip; ++l) sum[l] += x[r * h + j + l];
    }
    for (int64_t l = 0; l < kStrip; ++l) sums[j + l] += sum[l];
  }
  for (; j < h; ++j) {
    T sum = 0;
    for (int64_t r = 0; r < n; ++r) sum += x[r * h + j];
    sums[j] += sum;
  }
}

}  // namespace

CONCLAVE_SIMD void AddRow(const float* bias, float* y, int64_t n, int64_t h) { AddRowLoop(bias, y, n, h); }
CONCLAVE_SIMD void AddRow(const double* bias, double* y, int64_t n, int64_t h) { AddRowLoop(bias, y, n, h); }
CONCLAVE_SIMD void AddColumnSums(const float* x, float* sums, int64_t n, int64_t h) { ColumnSumLoop(x, sums, n, h); }
CONCLAVE_SIMD void AddColumnSums(const double* x, double* sums, int64_t n, int64_t h) { ColumnSumLoop(x, sums, n, h); }

}  // namespace conclave::cpu
