// Elementwise sums on raw vectors: the arithmetic of collectives and exchanges.
#ifndef CONCLAVE_COMM_SUMS_H_
#define CONCLAVE_COMM_SUMS_H_

#include <cstdint>

#include "comm/communicator.h"
#include "tensor/tensor.h"

namespace conclave {

// y = y op x, n elements. f32, f64, i32, i64, u8. One rounding an element: equal bits on every instruction set.
void ReduceInto(DType dtype, ReduceOp op, const void* x, void* y, int64_t n);

// y += x, f32 or f64.
void AddInto(DType dtype, const void* x, void* y, int64_t n);

// y += +0: turns every -0 into +0 and changes nothing else. f32 or f64.
void AddZero(DType dtype, void* y, int64_t n);

// z = x - y, f32 or f64.
void Difference(DType dtype, const void* x, const void* y, void* z, int64_t n);

// y = a * x, f32 or f64; a is rounded to the dtype first. x == y allowed.
void ScaleInto(DType dtype, double a, const void* x, void* y, int64_t n);

}  // namespace conclave

#endif  // CONCLAVE_COMM_SUMS_H_
