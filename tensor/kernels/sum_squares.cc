// Compiled without contraction to fused multiply-adds (see the folder's CMakeLists.txt).
#include "tensor/kernels/sum_squares.h"

#include <algorithm>

#include "base/simd.h"
#include "tensor/kernels/ahead.h"

namespace conclave::cpu {
namespace {

template <typename T>
CONCLAVE_INLINE double Chunk(const T* x, int64_t n) {
  double lanes[kSumLanes] = {};
  int64_t i = 0;
  for (; i + kSumLanes <= n; i += kSumLanes) {
    AskAhead(i, kSumLanes, x);
    for (int l = 0; l < kSumLanes; ++l) lanes[l] += static_cast<double>(x[i + l]) * static_cast<double>(x[i + l]);
  }
  for (int l = 0; i < n; ++i, ++l) lanes[l] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  for (int half = kSumLanes / 2; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

template <typename T>
CONCLAVE_INLINE double Chunks(const T* x, int64_t n) {
  double sum = 0;
  for (int64_t begin = 0; begin < n; begin += kSumChunk) sum += Chunk(x + begin, std::min(kSumChunk, n - begin));
  return sum;
}

}  // namespace

CONCLAVE_SIMD void SumSquares(const float* x, int64_t n, double* sum, Stream&) { *sum = Chunks(x, n); }
CONCLAVE_SIMD void SumSquares(const double* x, int64_t n, double* sum, Stream&) { *sum = Chunks(x, n); }

}  // namespace conclave::cpu
