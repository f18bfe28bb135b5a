// Sums over all elements, over the last dim and over the first.
#ifndef CONCLAVE_TENSOR_KERNELS_SUMS_H_
#define CONCLAVE_TENSOR_KERNELS_SUMS_H_

#include <cstdint>

namespace conclave::cpu {

// sum of x and of x * y, in double.
double Sum(const float* x, int64_t n);
double Sum(const double* x, int64_t n);
double Dot(const float* x, const float* y, int64_t n);
double Dot(const double* x, const double* y, int64_t n);

// y[i] = sum of row i of x: [n, h].
void SumLast(const float* x, float* y, int64_t n, int64_t h);
void SumLast(const double* x, double* y, int64_t n, int64_t h);
// x[i, j] += y[i].
void AddToRows(const float* y, float* x, int64_t n, int64_t h);
void AddToRows(const double* y, double* x, int64_t n, int64_t h);

// y[j] = sum over i, in order, of x[i, j].
void SumFirst(const float* x, float* y, int64_t n, int64_t h);
void SumFirst(const double* x, double* y, int64_t n, int64_t h);
// x[i, j] += y[j].
void AddToColumns(const float* y, float* x, int64_t n, int64_t h);
void AddToColumns(const double* y, double* x, int64_t n, int64_t h);

}  // namespace conclave::cpu

#endif  // CONCLAVE_TENSOR_KERNELS_SUMS_H_
