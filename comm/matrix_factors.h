// Thin factors of a matrix: what PowerSGD and the low-rank codec compute with. The order of every sum is written down, so that results have
// the same bits on every instruction set.
#ifndef CONCLAVE_COMM_MATRIX_FACTORS_H_
#define CONCLAVE_COMM_MATRIX_FACTORS_H_

#include "tensor/tensor.h"

namespace conclave {

struct MatrixSize {
  int64_t rows = 0, cols = 0;
};

// A block as a matrix: its first dimension by all others. No rows: it is none, having fewer than two dimensions or no elements.
MatrixSize MatrixOf(const Shape& shape);

// Of f32 or f64 tensors of any shapes with these elements: x [rows, cols], q [cols, width], a [rows, width]. 2 rows cols width operations
// each.
void TimesFactor(const Tensor& x, const Tensor& q, const Tensor& a, const MatrixSize& size, int64_t width);            // a = x q
void TransposedTimesFactor(const Tensor& x, const Tensor& a, const Tensor& q, const MatrixSize& size, int64_t width);  // q = x^T a
void FactorsProduct(const Tensor& a, const Tensor& q, const Tensor& x, const MatrixSize& size, int64_t width);  // x = a q^T, never -0

// The columns of a [rows, width] become orthonormal, by modified Gram-Schmidt, twice, in double. A column that is all but dependent on
// those before becomes zero: it adds nothing.
void Orthonormalise(const Tensor& a, int64_t rows, int64_t width);

}  // namespace conclave

#endif  // CONCLAVE_COMM_MATRIX_FACTORS_H_
