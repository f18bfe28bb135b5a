#include "tensor/kernels/linear.h"

#include "tensor/products.h"

namespace conclave::cpu {
namespace {

template <typename T>
Tensor Matrix(const T* data, int64_t rows, int64_t columns) {
  return Tensor(const_cast<T*>(data), {rows, columns}, DTypeOf<T>());
}

template <typename T>
void Forward(const LinearShape& s, const LinearInputs<T>& in, T* y) {
  const Tensor bias = in.bias == nullptr ? Tensor() : Tensor(const_cast<T*>(in.bias), {s.out}, DTypeOf<T>());
  ProductNT(Matrix(in.x, s.n, s.in), Matrix(in.w, s.out, s.in), bias, Matrix(y, s.n, s.out));
}

}  // namespace

void LinearForward(const LinearShape& shape, const LinearInputs<float>& inputs, float* y, Stream&) { Forward(shape, inputs, y); }
void LinearForward(const LinearShape& shape, const LinearInputs<double>& inputs, double* y, Stream&) { Forward(shape, inputs, y); }

void LinearBackwardInput(const LinearShape& s, const float* dy, const float* w, float* dx, Stream&) {
  ProductNN(Matrix(dy, s.n, s.out), Matrix(w, s.out, s.in), Matrix(dx, s.n, s.in), {.accumulate = true});
}
void LinearBackwardInput(const LinearShape& s, const double* dy, const double* w, double* dx, Stream&) {
  ProductNN(Matrix(dy, s.n, s.out), Matrix(w, s.out, s.in), Matrix(dx, s.n, s.in), {.accumulate = true});
}
void LinearBackwardWeight(const LinearShape& s, const float* dy, const float* x, float* dw, Stream&) {
  ProductTN(Matrix(dy, s.n, s.out), Matrix(x, s.n, s.in), Matrix(dw, s.out, s.in), {.accumulate = true});
}
void LinearBackwardWeight(const LinearShape& s, const double* dy, const double* x, double* dw, Stream&) {
  ProductTN(Matrix(dy, s.n, s.out), Matrix(x, s.n, s.in), Matrix(dw, s.out, s.in), {.accumulate = true});
}

}  // namespace conclave::cpu
