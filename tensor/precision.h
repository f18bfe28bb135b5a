// How exactly matrix products are made.
#ifndef CONCLAVE_TENSOR_PRECISION_H_
#define CONCLAVE_TENSOR_PRECISION_H_

#include <cstdint>

namespace conclave {

enum class ProductPrecision : uint8_t {
  kFull,         // as the operands are; f32 through the matrix unit where the processor has one (tensor/kernels/split_product.h)
  kFullLibrary,  // as the operands are, f32 by the library everywhere
  kBf16,         // f32 operands are rounded to bf16 (to nearest, ties to even), products are summed in f32; of no effect on f64
};

}  // namespace conclave

#endif  // CONCLAVE_TENSOR_PRECISION_H_
