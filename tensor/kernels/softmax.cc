#include "tensor/kernels/softmax.h"

#include <algorithm>

#include "tensor/kernels/exp.h"
#include "tensor/kernels/lanes.h"

namespace conclave::cpu {
namespace {

template <typename T>
CONCLAVE_INLINE void ExpRow(const T* __restrict__ x, T shift, T* __restrict__ y, int64_t h) {
  for (int64_t j = 0; j < h; ++j) y[j] = Exp(x[j] - shift);
}

template <typename T>
CONCLAVE_INLINE void ScaleRow(T scale, T* __restrict__ y, int64_t h) {
  for (int64_t j = 0; j < h; ++j) y[j] *= scale;
}

template <typename T>
CONCLAVE_INLINE void Softmax(const T* x, T* y, int64_t n, int64_t h) {
  for (int64_t i = 0; i < n; ++i, x += h, y += h) {
    ExpRow(x, LaneMax(x, h), y, h);
    ScaleRow(T(1) / LaneSum<T>(h, Element<T, T>{y}), y, h);
  }
}

template <typename T>
CONCLAVE_INLINE void SoftmaxRowBackward(const T* __restrict__ y, const T* __restrict__ dy, T* __restrict__ dx, int64_t h) {
  const T dot = LaneSum<T>(h, Product<T, T>{y, dy});
  for (int64_t j = 0; j < h; ++j) dx[j] += y[j] * (dy[j] - dot);
}

template <typename T>
CONCLAVE_INLINE void NormalizeRow(const T* __restrict__ x, T* __restrict__ y, T* scale, int64_t h) {
  *scale = T(1) / LaneSum<T>(h, Element<T, T>{x});
  for (int64_t j = 0; j < h; ++j) y[j] = x[j] * *scale;
}

template <typename T>
CONCLAVE_INLINE void NormalizeRowBackward(const T* __restrict__ y, const T* __restrict__ dy, T scale, T* __restrict__ dx, int64_t h) {
  const T dot = LaneSum<T>(h, Product<T, T>{y, dy});
  for (int64_t j = 0; j < h; ++j) dx[j] += (dy[j] - dot) * scale;
}

// sum of exp(x - shift): by pieces through a small buffer, so that the exponentials are one plain loop; pieces are added in
// double, in order.
template <typename T>
CONCLAVE_INLINE double SumExp(const T* x, T shift, int64_t h) {
  constexpr int64_t kPiece = 256;
  T piece[kPiece];
  double sum = 0;
  for (int64_t j = 0; j < h; j += kPiece) {
    const int64_t count = std::min(kPiece, h - j);
    ExpRow(x + j, shift, piece, count);
    sum += static_cast<double>(LaneSum<T>(count, Element<T, T>{piece}));
  }
  return sum;
}

template <typename T>
CONCLAVE_INLINE void LogSumExp(const T* x, T* statistics, double* y, int64_t n, int64_t h) {
  for (int64_t i = 0; i < n; ++i) {
    const T shift = LaneMax(x + i * h, h);
    const double sum = SumExp(x + i * h, shift, h);
    statistics[2 * i] = shift;
    statistics[2 * i + 1] = static_cast<T>(1 / sum);
    y[i] = static_cast<double>(shift) + std::log(sum);
  }
}

template <typename T>
CONCLAVE_INLINE void LogSumExpRowBackward(const T* __restrict__ x, T shift, T weight, T* __restrict__ dx, int64_t h) {
  for (int64_t j = 0; j < h; ++j) dx[j] += weight * Exp(x[j] - shift);
}

template <typename T>
CONCLAVE_INLINE void SoftmaxInPlace(T shift, T scale, T* __restrict__ x, int64_t h) {
  for (int64_t j = 0; j < h; ++j) x[j] = scale * Exp(x[j] - shift);
}

template <typename T>
CONCLAVE_INLINE void SoftmaxRowsBackward(const RowsGradient<T>& a) {
  for (int64_t i = 0; i < a.n; ++i) SoftmaxRowBackward(a.y + i * a.h, a.dy + i * a.h, a.dx + i * a.h, a.h);
}
template <typename T>
CONCLAVE_INLINE void NormalizeRows(const T* x, T* y, T* scale, int64_t n, int64_t h) {
  for (int64_t i = 0; i < n; ++i) NormalizeRow(x + i * h, y + i * h, scale + i, h);
}
template <typename T>
CONCLAVE_INLINE void NormalizeRowsBackward(const RowsGradient<T>& a, const T* scale) {
  for (int64_t i = 0; i < a.n; ++i) NormalizeRowBackward(a.y + i * a.h, a.dy + i * a.h, scale[i], a.dx + i * a.h, a.h);
}
template <typename T>
CONCLAVE_INLINE void LogSumExpBackward(const LogSumExpGradient<T>& a, int64_t row, T dy) {
  LogSumExpRowBackward(a.x + row * a.h, a.statistics[2 * row], dy * a.statistics[2 * row + 1], a.dx + row * a.h, a.h);
}

}  // namespace

CONCLAVE_SIMD void SoftmaxForward(const float* x, float* y, int64_t n, int64_t h) { Softmax(x, y, n, h); }
CONCLAVE_SIMD void SoftmaxForward(const double* x, double* y, int64_t n, int64_t h) { Softmax(x, y, n, h); }
CONCLAVE_SIMD void SoftmaxBackward(const RowsGradient<float>& args) { SoftmaxRowsBackward(args); }
CONCLAVE_SIMD void SoftmaxBackward(const RowsGradient<double>& args) { SoftmaxRowsBackward(args); }
CONCLAVE_SIMD void NormalizeForward(const float* x, float* y, float* scale, int64_t n, int64_t h) { NormalizeRows(x, y, scale, n, h); }
CONCLAVE_SIMD void NormalizeForward(const double* x, double* y, double* scale, int64_t n, int64_t h) { NormalizeRows(x, y, scale, n, h); }
CONCLAVE_SIMD void NormalizeBackward(const RowsGradient<float>& args, const float* scale) { NormalizeRowsBackward(args, scale); }
CONCLAVE_SIMD void NormalizeBackward(const RowsGradient<double>& args, const double* scale) { NormalizeRowsBackward(args, scale); }
CONCLAVE_SIMD void LogSumExpForward(const float* x, float* statistics, double* y, int64_t n, int64_t h) {
  LogSumExp(x, statistics, y, n, h);
}
CONCLAVE_SIMD void LogSumExpForward(const double* x, double* statistics, double* y, int64_t n, int64_t h) {
  LogSumExp(x, statistics, y, n, h);
}
CONCLAVE_SIMD void SoftmaxRowInPlace(const float* statistics, float* x, int64_t row, int64_t h) {
  SoftmaxInPlace(statistics[2 * row], statistics[2 * row + 1], x + row * h, h);
}
CONCLAVE_SIMD void SoftmaxRowInPlace(const double* statistics, double* x, int64_t row, int64_t h) {
  SoftmaxInPlace(statistics[2 * row], statistics[2 * row + 1], x + row * h, h);
}
CONCLAVE_SIMD void LogSumExpBackwardRow(const LogSumExpGradient<float>& args, int64_t row, float dy) { LogSumExpBackward(args, row, dy); }
CONCLAVE_SIMD void LogSumExpBackwardRow(const LogSumExpGradient<double>& args, int64_t row, double dy) { LogSumExpBackward(args, row, dy); }

}  // namespace conclave::cpu
