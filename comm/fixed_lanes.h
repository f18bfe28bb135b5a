// Sums whose order is written down, so that they have the same bits on every instruction set: eight lanes in double, element i in lane i %
// 8, added up pairwise at the end.
#ifndef CONCLAVE_COMM_FIXED_LANES_H_
#define CONCLAVE_COMM_FIXED_LANES_H_

#include "tensor/tensor.h"

namespace conclave {

double SumOfMagnitudes(const Tensor& x);  // f32 or f64
double F32SumOfSquares(const Tensor& x);

}  // namespace conclave

#endif  // CONCLAVE_COMM_FIXED_LANES_H_
