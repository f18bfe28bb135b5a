// f32 products of one row tile: oneDNN primitives made once a shape and thread.
#ifndef CONCLAVE_TENSOR_PRODUCTS_TILE_H_
#define CONCLAVE_TENSOR_PRODUCTS_TILE_H_

#include <compare>
#include <cstdint>

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
  auto operator<=>(const TileShape&) const = default;
};

struct TileData {
  const float* x;
  const float* w;
  const float* bias;
  float* y;
};

// Runs the primitive of `shape`, which is made at its first use in this thread. rows, in, out >= 1. kNT and kNN: data.w is what PackWeights
// wrote.
void RunTile(const TileShape& shape, const TileData& data);

// The weights of a kNT or kNN product in the order in which the library's kernel reads them; it does not depend on the tile's rows.
// Cost: 0.1 to 0.2 ns an element, about what ten rows cost. The memory is this thread's, valid until its next call.
const float* PackWeights(ProductKind kind, int64_t in, int64_t out, const float* w);

// Whether this CPU's kernel of choice gives every row of a tile the same bits in a tile of any height. It does where oneDNN has its
// batch-reduce kernels (AVX-512); older CPUs get a packed GEMM that promises nothing.
bool TilesAreRowIndependent();

}  // namespace conclave

#endif  // CONCLAVE_TENSOR_PRODUCTS_TILE_H_
