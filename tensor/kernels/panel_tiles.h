// The loop around the tiles of a panel product, whoever multiplies these.
#ifndef CONCLAVE_TENSOR_KERNELS_PANEL_TILES_H_
#define CONCLAVE_TENSOR_KERNELS_PANEL_TILES_H_

#include <algorithm>

#include "base/simd.h"
#include "tensor/kernels/linear_blocks.h"

namespace conclave::cpu {

template <typename T>
struct TileOperands {
  const T* a;
  int64_t a_row, a_column;
  const T* b;
  int64_t b_row;
  int64_t k;
};

// tile(operands, out, out_row, add): out[kTileRows, kTileColumns] = or += a b.
template <typename T, typename Tile>
CONCLAVE_INLINE void PanelTiles(const PanelOperands<T>& o, const Tile& tile) {
  constexpr int64_t kRows = kTileRows<T>;
  const char* ahead = o.ahead.from;
  for (int64_t i = 0; i < o.m; i += kRows) {
    for (int64_t l = 0; l < o.ahead.lines; ++l, ahead += 64) __builtin_prefetch(ahead, 0, 2);
    const int64_t begin = o.band == Band::kUpperA ? std::min(i, o.k) : 0;
    const int64_t end = o.band == Band::kLowerA ? std::min(i + kRows, o.k) : o.k;
    for (int64_t j = 0; j < o.n; j += kTileColumns) {
      if (o.band == Band::kLowerC && j >= i + kRows) continue;
      if (o.band == Band::kUpperC && j + kTileColumns <= i) continue;
      const TileOperands<T> operands{
          o.a + i * o.a_row + begin * o.a_column, o.a_row, o.a_column, o.b + begin * o.b_row + j, o.b_row, end - begin};
      tile(operands, o.c + i * o.c_row + j, o.c_row, o.accumulate);
    }
  }
}

}  // namespace conclave::cpu

#endif  // CONCLAVE_TENSOR_KERNELS_PANEL_TILES_H_
