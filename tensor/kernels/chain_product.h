// Products of f32 whose elements are sums of chains of fused multiply-adds: AVX-512 by hand, for processors without a matrix unit
// (docs/adr/0022-products-of-our-own-on-avx-512.md).
#ifndef CONCLAVE_TENSOR_KERNELS_CHAIN_PRODUCT_H_
#define CONCLAVE_TENSOR_KERNELS_CHAIN_PRODUCT_H_

#include "tensor/kernels/linear_blocks.h"

namespace conclave::cpu {

// Whether this processor and system have AVX-512.
bool ChainProductsWork();

struct ChainOptions {
  bool round = false;           // operands are rounded to bf16 first, to nearest, ties to even
  const float* bias = nullptr;  // [n], added to every finished row; null: none
  // Called as done(context, begin, rows) in order, for at most kRows rows at a time, while they are in the cache; null: never.
  void (*done)(void* context, int64_t begin, int64_t rows) = nullptr;
  void* context = nullptr;
  static constexpr int64_t kRows = 126;
};

// c = a b (+ bias), or c += with accumulate, as cpu::BlockOperands say; one stride of a and one of b must be 1, m, n, k >= 1. Needs
// ChainProductsWork(). Sums over rows (a_row of 1) take b by rows, neither bias nor done.
//
// A chain is fma(a(i, p), b(p, j), ... fma(a(i, q), b(q, j), 0)) over kChainTerms terms in ascending order (kChainRows in sums over rows);
// the first is written, or added to c, the others are added to it in order, then the bias. Longer chains would lose digits: errors grow
// with the length of a chain, not with that of a sum of chains. So the bits of an element depend on its row of a and its column of b alone,
// and sums over rows may be cut at multiples of kChainRows.
//
// Cost: 2 m n k FLOP, and packing: b once a call, for sums over rows a and b. Scratch of the calling thread: at most 2.5 MiB, or 64 k
// floats if that is more; kept.
inline constexpr int64_t kChainTerms = 384, kChainRows = 256;
void ChainProduct(const BlockOperands<float>& operands, const ChainOptions& options = {});

// PanelProduct with sums in registers from the first term to the last: the same bits as by any fused multiply-adds. Needs
// ChainProductsWork().
void PanelProduct512(const PanelOperands<float>& operands);

}  // namespace conclave::cpu

#endif  // CONCLAVE_TENSOR_KERNELS_CHAIN_PRODUCT_H_
