// The one sum of squares behind norms: chunks of 4,096 elements, each summed in 32 lanes (element i in lane i % 32) in double, lanes folded
// in halves, chunks added in order. Products are rounded before they are added (no fused multiply-add). So every device and vector width
// gives the same bits.
#ifndef CONCLAVE_TENSOR_KERNELS_SUM_SQUARES_H_
#define CONCLAVE_TENSOR_KERNELS_SUM_SQUARES_H_

#include <cstdint>

#include "tensor/stream.h"

namespace conclave {

inline constexpr int64_t kSumChunk = 4096;
inline constexpr int kSumLanes = 32;

}  // namespace conclave

namespace conclave::cpu {

// *sum = sum of x^2. x and sum lie in the memory of the stream's device.
void SumSquares(const float* x, int64_t n, double* sum, Stream& stream);
void SumSquares(const double* x, int64_t n, double* sum, Stream& stream);

}  // namespace conclave::cpu

namespace conclave::cuda {

void SumSquares(const float* x, int64_t n, double* sum, Stream& stream);
void SumSquares(const double* x, int64_t n, double* sum, Stream& stream);

}  // namespace conclave::cuda

#endif  // CONCLAVE_TENSOR_KERNELS_SUM_SQUARES_H_
