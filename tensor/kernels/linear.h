// The three products of a linear layer, y = x w^T + bias. On the CPU through tensor/products.h, on CUDA through cuBLASLt (f32 products in
// f32, no TF32).
#ifndef CONCLAVE_TENSOR_KERNELS_LINEAR_H_
#define CONCLAVE_TENSOR_KERNELS_LINEAR_H_

#include <cstdint>

#include "tensor/stream.h"

namespace conclave {

struct LinearShape {
  int64_t n, in, out;
};

// x: [n, in], w: [out, in], bias: [out] or null.
template <typename T>
struct LinearInputs {
  const T* x;
  const T* w;
  const T* bias;
};

}  // namespace conclave

namespace conclave::cpu {

// y = x w^T + bias. y: [n, out].
void LinearForward(const LinearShape& shape, const LinearInputs<float>& inputs, float* y, Stream& stream);
void LinearForward(const LinearShape& shape, const LinearInputs<double>& inputs, double* y, Stream& stream);
// dx += dy w. dx: [n, in].
void LinearBackwardInput(const LinearShape& shape, const float* dy, const float* w, float* dx, Stream& stream);
void LinearBackwardInput(const LinearShape& shape, const double* dy, const double* w, double* dx, Stream& stream);
// dw += dy^T x. dw: [out, in].
void LinearBackwardWeight(const LinearShape& shape, const float* dy, const float* x, float* dw, Stream& stream);
void LinearBackwardWeight(const LinearShape& shape, const double* dy, const double* x, double* dw, Stream& stream);

}  // namespace conclave::cpu

namespace conclave::cuda {

void LinearForward(const LinearShape& shape, const LinearInputs<float>& inputs, float* y, Stream& stream);
void LinearForward(const LinearShape& shape, const LinearInputs<double>& inputs, double* y, Stream& stream);
void LinearBackwardInput(const LinearShape& shape, const float* dy, const float* w, float* dx, Stream& stream);
void LinearBackwardInput(const LinearShape& shape, const double* dy, const double* w, double* dx, Stream& stream);
void LinearBackwardWeight(const LinearShape& shape, const float* dy, const float* x, float* dw, Stream& stream);
void LinearBackwardWeight(const LinearShape& shape, const double* dy, const double* x, double* dw, Stream& stream);

}  // namespace conclave::cuda

#endif  // CONCLAVE_TENSOR_KERNELS_LINEAR_H_
