// Whole-tensor questions asked about gradients and parameters.
#ifndef CONCLAVE_TENSOR_REDUCE_H_
#define CONCLAVE_TENSOR_REDUCE_H_

#include "tensor/tensor.h"

namespace conclave {

// Sum of squares in f64, over fixed chunks of 4,096 elements: the same bits on every CPU and device. x: f32 or f64, any shape.
double SumOfSquares(const Tensor& x);

// Whether no element is infinite or NaN. Integers are finite.
bool AllFinite(const Tensor& x);

// The first element that is infinite or NaN; -1: none. And an element as f64. x: f32 or f64, any shape.
int64_t FirstNotFinite(const Tensor& x);
double ValueAt(const Tensor& x, int64_t index);

}  // namespace conclave

#endif  // CONCLAVE_TENSOR_REDUCE_H_
