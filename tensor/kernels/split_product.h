// Products of f32 out of products of bf16: every f32 number is the sum of three bf16 numbers, and the matrix unit (AMX) multiplies those.
#ifndef CONCLAVE_TENSOR_KERNELS_SPLIT_PRODUCT_H_
#define CONCLAVE_TENSOR_KERNELS_SPLIT_PRODUCT_H_

#include "tensor/kernels/linear_blocks.h"

namespace conclave::cpu {

// Whether this processor and system have AMX for bf16; asks the system for it at the first call.
bool SplitProductsWork();

// Whether vectors multiply bf16 pairs slower than f32 here: Intel's cores with AVX-512 FP16, whose unit for bf16 is AMX, start half as many
// products a cycle (docs/adr/0020-bf16-without-a-matrix-unit.md).
bool Bf16VectorsAreSlow();

// How operands are taken, and what happens to rows of c that are final.
struct SplitRowsOptions {
  int parts = 3;                // of an operand; 1: it is rounded to bf16, to nearest, ties to even
  const float* bias = nullptr;  // [n], added to every row; null: none
  // Called as done(context, begin, rows) in order, for at most kRows rows at a time, while they are in the cache; null: never.
  void (*done)(void* context, int64_t begin, int64_t rows) = nullptr;
  void* context = nullptr;
  static constexpr int64_t kRows = 128;
};

// c = a b (+ bias), or c += with accumulate, as cpu::BlockOperands say; one stride of a and one of b must be 1, m, n, k >= 1. Needs
// SplitProductsWork().
//
// With x = x1 + x2 + x3 (x1: the upper 8 bits of the significand cut off, x2 and x3: the rest in 8 bits each, to nearest; exact), a product
// is a1 b3 + a1 b2 + a2 b2 + a2 b1 + a3 b1 + a1 b1: what is left out is below 2^-21 of |a b|, and of random sign. Products are exact, sums
// are f32, first over 32 terms of the inner dimension, then over those sums in order; slabs of terms are summed from zero and then
// added to c in order: as kSplitSlab says where a_column is not 1 (sums over rows), of one to four times kSplitSlab
// terms, by n, elsewhere. The bits of an element depend on its row of a and its column of b alone (and on c and the bias).
//
// With one part, products are those of the rounded operands, exact, and summed likewise.
//
// Infinite operands and NaN give NaN (an infinity in one part may stay one); no finite operand overflows in the split. The unit takes
// numbers below 2^-126 for zero, so a term is off by up to 2^-126 (|a| + |b|) + 2^-126. Cost: 12 m n k FLOP of bf16, which the unit makes
// 16 times as fast as f32 (2 m n k with one part), and splitting: about 0.15 ns an element of a and b. Scratch of the calling thread: at
// most 1.7 MiB, kept.
void SplitProduct(const BlockOperands<float>& operands, const SplitRowsOptions& options = {});

// Sums over rows are cut at multiples of kSplitSlab; a rest that is shorter than kSplitRest goes with the piece before it. So a caller that
// cuts at such multiples too, and leaves kSplitSlab rows or more to the last call, changes no bit.
inline constexpr int64_t kSplitSlab = 256, kSplitRest = 128;

}  // namespace conclave::cpu

#endif  // CONCLAVE_TENSOR_KERNELS_SPLIT_PRODUCT_H_
