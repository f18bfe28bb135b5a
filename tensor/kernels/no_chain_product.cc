// Where the compiler knows no AVX-512.
#include "base/check.h"
#include "tensor/kernels/chain_product.h"

namespace conclave::cpu {

bool ChainProductsWork() { return false; }

void ChainProduct(const BlockOperands<float>&, const ChainOptions&) { CHECK(false) << "no AVX-512 in this build"; }

void PanelProduct512(const PanelOperands<float>&) { CHECK(false) << "no AVX-512 in this build"; }

}  // namespace conclave::cpu
