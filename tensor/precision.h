// How exactly matrix products are made.
#ifndef CONCLAVE_TENSOR_PRECISION_H_
#define CONCLAVE_TENSOR_PRECISION_H_

#include <cstdint>

namespace conclave {

enum class ProductPrecision : uint8_t {
  kFull,         // as the operands are; f32 by kernels of our own where the processor has AMX or AVX-512 (tensor/products.h)
  kFullLibrary,  // as the operands are, f32 by the library everywhere
  kBf16,         // f32 operands are rounded to bf16 (to nearest, ties to even), products are summed in f32; of no effect on f64
};

}  // namespace conclave

#endif  // CONCLAVE_TENSOR_PRECISION_H_
