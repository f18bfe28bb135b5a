// Products of one row tile, of f32 or bf16 operands, summed in f32: oneDNN primitives made once a shape and thread.
#ifndef CONCLAVE_TENSOR_PRODUCTS_TILE_H_
#define CONCLAVE_TENSOR_PRODUCTS_TILE_H_

#include <compare>
#include <cstdint>

#include "tensor/precision.h"

namespace conclave {

// x: [rows, in] or, for kTN, what y's rows are summed over.
enum class ProductKind : uint8_t {
  kNT,  // y[rows, out] = x[rows, in] w[out, in]^T (+ bias)
  kNN,  // y[rows, in] = x[rows, out] w[out, in]
  kTN,  // y[out, in] = x[rows, out]^T w[rows, in]
};

struct TileShape {
  ProductKind kind = ProductKind::kNT;
  bool accumulate = false;  // y += instead of y =
  bool bias = false;        // kNT only
  int64_t rows = 0, in = 0, out = 0;
  ProductPrecision precision = ProductPrecision::kFull;
  auto operator<=>(const TileShape&) const = default;
};

// x and w are f32, or bf16 with kBf16.
struct TileData {
  const void* x;
  const void* w;
  const float* bias;
  float* y;
};

// Runs the primitive of `shape`, which is made at its first use in this thread. rows, in, out >= 1. kNT and kNN: data.w is what PackWeights
// wrote.
void RunTile(const TileShape& shape, const TileData& data);

// The weights of a kNT or kNN product, f32, in the order in which the library's kernel reads them, rounded where the precision says so; it
// does not depend on the tile's rows. Cost: 0.1 to 0.2 ns an element, about what ten rows of f32 cost. The memory is this thread's, valid
// until its next call. shape: kind, precision, in and out are used.
const void* PackWeights(const TileShape& shape, const float* w);

// Whether this CPU's kernel of choice gives every row of a tile the same bits in a tile of any height. It does where oneDNN has its
// batch-reduce kernels (AVX-512; with kBf16, AVX-512 BF16 or AMX); older CPUs get a packed GEMM that promises nothing.
bool TilesAreRowIndependent(ProductPrecision precision = ProductPrecision::kFull);

}  // namespace conclave

#endif  // CONCLAVE_TENSOR_PRODUCTS_TILE_H_
