// Where the compiler knows no AMX.
#include "base/check.h"
#include "tensor/kernels/split_product.h"

namespace conclave::cpu {

bool SplitProductsWork() { return false; }

bool Bf16VectorsAreSlow() { return false; }

void SplitProduct(const BlockOperands<float>&, const SplitRowsOptions&) { CHECK(false) << "no AMX in this build"; }

}  // namespace conclave::cpu
