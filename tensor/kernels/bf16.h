// Rounding of f32 to bf16.
#ifndef CONCLAVE_TENSOR_KERNELS_BF16_H_
#define CONCLAVE_TENSOR_KERNELS_BF16_H_

#include <cstdint>

namespace conclave::cpu {

// to[i] = the bits of x[i] in bf16: FloatToBf16 of base/float16.h, many at a time.
void RoundToBf16(const float* x, uint16_t* to, int64_t n);
// The same numbers as floats.
void RoundToBf16(const float* x, float* to, int64_t n);

}  // namespace conclave::cpu

#endif  // CONCLAVE_TENSOR_KERNELS_BF16_H_
