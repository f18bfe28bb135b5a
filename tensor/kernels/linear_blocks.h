// Dense products by register tiles: the f64 products, small batched products and the tiles of attention. No library is involved, so that
// the bits of a row of c depend on that row of a alone: every element is one chain of multiply-adds in ascending order of p, cut into
// blocks at fixed places.
#ifndef CONCLAVE_TENSOR_KERNELS_LINEAR_BLOCKS_H_
#define CONCLAVE_TENSOR_KERNELS_LINEAR_BLOCKS_H_

#include <cstdint>

#include "base/simd.h"

namespace conclave::cpu {

// The register tile: kTileRows<T> rows of c by kTileColumns columns.
template <typename T>
inline constexpr int64_t kTileRows = sizeof(T) == 4 ? 8 : 4;
inline constexpr int64_t kTileColumns = 32;

// c[i, j] = sum_p a(i, p) b(p, j), or += with accumulate. a(i, p) = a[i * a_row + p * a_column], b likewise; c[i * c_row + j]. Any sizes, 0
// included.
template <typename T>
struct BlockOperands {
  const T* a;
  int64_t a_row, a_column;
  const T* b;
  int64_t b_row, b_column;
  T* c;
  int64_t c_row;
  int64_t m, n, k;
  bool accumulate = false;
};
// Packs both operands into thread-local scratch. Cost: 2 m n k FLOP, at about the rate of a library.
void BlockProduct(const BlockOperands<float>& operands);
void BlockProduct(const BlockOperands<double>& operands);

// What a panel product may leave out, for operands that are triangular in units of one tile row (attention's diagonal).
enum class Band {
  kAll,
  kLowerA,  // a(i, p) = 0 for p > i
  kUpperA,  // a(i, p) = 0 for p < i
  kLowerC,  // c(i, j) is not wanted for j > i and may be left unwritten
  kUpperC,  // c(i, j) is not wanted for j < i and may be left unwritten
};

// Lines of memory that are asked for along the way, `lines` for each tile row of c: so many at a time do not delay the product.
struct ReadAhead {
  const char* from = nullptr;
  int64_t lines = 0;
};

// The same product straight from memory, without packing: m a multiple of kTileRows<T>, n of kTileColumns, and b has unit column stride.
template <typename T>
struct PanelOperands {
  const T* a;
  int64_t a_row, a_column;
  const T* b;
  int64_t b_row;
  T* c;
  int64_t c_row;
  int64_t m, n, k;
  bool accumulate = false;
  Band band = Band::kAll;
  ReadAhead ahead;
};
void PanelProduct(const PanelOperands<float>& operands);
void PanelProduct(const PanelOperands<double>& operands);

}  // namespace conclave::cpu

#endif  // CONCLAVE_TENSOR_KERNELS_LINEAR_BLOCKS_H_
