#include <immintrin.h>

#include "tensor/kernels/chain_product.h"
#include "tensor/kernels/panel_tiles.h"

#pragma GCC target("avx512f,avx512dq")

namespace conclave::cpu {
namespace {

constexpr int64_t kVector = 16, kVectors = kTileColumns / kVector;

// By hand, since sums that are arrays are cleared and stored in memory by the compiler.
CONCLAVE_INLINE void Tile512(const TileOperands<float>& o, float* out, int64_t out_row, bool add) {
  constexpr int64_t kRows = kTileRows<float>;
  __m512 sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int64_t i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int64_t v = 0; v < kVectors; ++v) sum[i][v] = _mm512_setzero_ps();
  }
  const float *a = o.a, *b = o.b;
  for (int64_t p = 0; p < o.k; ++p, a += o.a_column, b += o.b_row) {
    __m512 x[kVectors];
#pragma GCC unroll 2
    for (int64_t v = 0; v < kVectors; ++v) x[v] = _mm512_loadu_ps(b + v * kVector);
#pragma GCC unroll 8
    for (int64_t i = 0; i < kRows; ++i) {
      const __m512 y = _mm512_set1_ps(a[i * o.a_row]);
#pragma GCC unroll 2
      for (int64_t v = 0; v < kVectors; ++v) sum[i][v] = _mm512_fmadd_ps(y, x[v], sum[i][v]);
    }
  }
#pragma GCC unroll 8
  for (int64_t i = 0; i < kRows; ++i) {
    float* const to = out + i * out_row;
#pragma GCC unroll 2
    for (int64_t v = 0; v < kVectors; ++v) {
      if (add) sum[i][v] = _mm512_add_ps(_mm512_loadu_ps(to + v * kVector), sum[i][v]);
      _mm512_storeu_ps(to + v * kVector, sum[i][v]);
    }
  }
}

}  // namespace

void PanelProduct512(const PanelOperands<float>& operands) {
  PanelTiles(operands, [](const TileOperands<float>& o, float* out, int64_t out_row, bool add) { Tile512(o, out, out_row, add); });
}

}  // namespace conclave::cpu
