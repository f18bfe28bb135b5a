// Softmax, log-sum-exp and cross-entropy, row by row. The row's maximum is subtracted first, so nothing overflows.
#ifndef CONCLAVE_TENSOR_KERNELS_SOFTMAX_H_
#define CONCLAVE_TENSOR_KERNELS_SOFTMAX_H_

#include <cstdint>

namespace conclave::cpu {

// y[i] = exp(x[i] - max) / sum. x, y: [n, h].
void SoftmaxForward(const float* x, float* y, int64_t n, int64_t h);
void SoftmaxForward(const double* x, double* y, int64_t n, int64_t h);
// dx += y (dy - sum(dy y)).
template <typename T>
struct RowsGradient {
  const T* y;
  const T* dy;
  T* dx;
  int64_t n;
  int64_t h;
};
void SoftmaxBackward(const RowsGradient<float>& args);
void SoftmaxBackward(const RowsGradient<double>& args);

// y = x / sum of the row; a row whose sum is 0 gives infinities or NaN. scale[i]: 1 / sum. dx += (dy - sum(dy y)) scale.
void NormalizeForward(const float* x, float* y, float* scale, int64_t n, int64_t h);
void NormalizeForward(const double* x, double* y, double* scale, int64_t n, int64_t h);
void NormalizeBackward(const RowsGradient<float>& args, const float* scale);
void NormalizeBackward(const RowsGradient<double>& args, const double* scale);

// statistics: [n, 2] = maximum | 1 / sum of exp(x - maximum); y[i] = log sum exp of row i. x: [n, h], h > 0.
void LogSumExpForward(const float* x, float* statistics, double* y, int64_t n, int64_t h);
void LogSumExpForward(const double* x, double* statistics, double* y, int64_t n, int64_t h);

template <typename T>
struct LogSumExpGradient {
  const T* x;
  const T* statistics;
  T* dx;
  int64_t h;
};
// x[row] = softmax(x[row]) in place, with the statistics of LogSumExpForward.
void SoftmaxRowInPlace(const float* statistics, float* x, int64_t row, int64_t h);
void SoftmaxRowInPlace(const double* statistics, double* x, int64_t row, int64_t h);
// dx[row] += dy softmax(x[row]).
void LogSumExpBackwardRow(const LogSumExpGradient<float>& args, int64_t row, float dy);
void LogSumExpBackwardRow(const LogSumExpGradient<double>& args, int64_t row, double dy);

}  // namespace conclave::cpu

#endif  // CONCLAVE_TENSOR_KERNELS_SOFTMAX_H_
