// GELU in its tanh form: y = x/2 (1 + tanh u) = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3). Source: Hendrycks and Gimpel, 2016.
#ifndef CONCLAVE_TENSOR_KERNELS_GELU_H_
#define CONCLAVE_TENSOR_KERNELS_GELU_H_

#include <cstdint>

#include "tensor/stream.h"

namespace conclave::cpu {

void GeluForward(const float* x, float* y, int64_t n, Stream& stream);
void GeluForward(const double* x, double* y, int64_t n, Stream& stream);
// dx += dy * d y / d x.
void GeluBackward(const float* x, const float* dy, float* dx, int64_t n, Stream& stream);
void GeluBackward(const double* x, const double* dy, double* dx, int64_t n, Stream& stream);
// d *= d y / d x: dy in, dx out.
void GeluBackwardInPlace(const float* x, float* d, int64_t n);
void GeluBackwardInPlace(const double* x, double* d, int64_t n);
// The same, and y = gelu(x).
void GeluAgainAndBackward(const float* x, float* y, float* d, int64_t n);
void GeluAgainAndBackward(const double* x, double* y, double* d, int64_t n);

}  // namespace conclave::cpu

namespace conclave::cuda {

void GeluForward(const float* x, float* y, int64_t n, Stream& stream);
void GeluForward(const double* x, double* y, int64_t n, Stream& stream);
void GeluBackward(const float* x, const float* dy, float* dx, int64_t n, Stream& stream);
void GeluBackward(const double* x, const double* dy, double* dx, int64_t n, Stream& stream);

}  // namespace conclave::cuda

#endif  // CONCLAVE_TENSOR_KERNELS_GELU_H_
