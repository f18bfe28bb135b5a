// The row and column work around a product: adding a bias, and its gradient.
#ifndef CONCLAVE_TENSOR_KERNELS_LINEAR_ROWS_H_
#define CONCLAVE_TENSOR_KERNELS_LINEAR_ROWS_H_

#include <cstdint>

namespace conclave::cpu {

// y[r, j] += bias[j]. y: [n, h].
void AddRow(const float* bias, float* y, int64_t n, int64_t h);
void AddRow(const double* bias, double* y, int64_t n, int64_t h);

// sums[j] += sum over r of x[r, j], rows in ascending order from 0. x: [n, h].
void AddColumnSums(const float* x, float* sums, int64_t n, int64_t h);
void AddColumnSums(const double* x, double* sums, int64_t n, int64_t h);

}  // namespace conclave::cpu

#endif  // CONCLAVE_TENSOR_KERNELS_LINEAR_ROWS_H_
