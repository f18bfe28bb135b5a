// How often scores are right.
#ifndef CONCLAVE_MODELS_MODULES_ACCURACY_H_
#define CONCLAVE_MODELS_MODULES_ACCURACY_H_

#include "tensor/tensor.h"

namespace conclave {

// Rows of scores [n, classes], f32 or f64, whose largest is that of their target [n], i32; of equal scores the first counts. Rows of no
// target (-1) are never right.
int64_t CountRight(const Tensor& scores, const Tensor& targets);

}  // namespace conclave

#endif  // CONCLAVE_MODELS_MODULES_ACCURACY_H_
