#include "tensor/kernels/linear_blocks.h"

#include <algorithm>

#include "tensor/kernels/chain_product.h"
#include "tensor/kernels/panel_tiles.h"
#include "tensor/tensor.h"

namespace conclave::cpu {
namespace {

// Block sizes: a packed block of b (at most kBlockK x kBlockN) and one of a (kBlockM x kBlockK) stay in the second-level cache.
// kBlockK is part of the numerics: sums are cut there.
constexpr int64_t kBlockK = 256, kBlockM = 64, kBlockN = 256;

constexpr int64_t RoundUp(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// out[kTileRows, kTileColumns] = or += a b. All bounds are constants, so that the compiler keeps `sum` in vector registers.
template <typename T>
CONCLAVE_INLINE void Tile(const TileOperands<T>& o, T* __restrict out, int64_t out_row, bool add) {
  constexpr int64_t kRows = kTileRows<T>;
  const T* __restrict a = o.a;
  const T* __restrict b = o.b;
  T sum[kRows][kTileColumns] = {};
  for (int64_t p = 0; p < o.k; ++p) {
    for (int64_t i = 0; i < kRows; ++i) {
      for (int64_t j = 0; j < kTileColumns; ++j) sum[i][j] += a[i * o.a_row + p * o.a_column] * b[p * o.b_row + j];
    }
  }
  if (add) {
    for (int64_t i = 0; i < kRows; ++i) {
      for (int64_t j = 0; j < kTileColumns; ++j) out[i * out_row + j] += sum[i][j];
    }
  } else {
    for (int64_t i = 0; i < kRows; ++i) {
      for (int64_t j = 0; j < kTileColumns; ++j) out[i * out_row + j] = sum[i][j];
    }
  }
}

// A tile of packed panels at the edge of c: computed whole, stored in part. `rows` and `columns` are what c has.
template <typename T>
CONCLAVE_INLINE void EdgeTile(const TileOperands<T>& o, T* c, int64_t c_row, int64_t rows, int64_t columns, bool add) {
  T whole[kTileRows<T> * kTileColumns];
  Tile(o, whole, kTileColumns, false);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      const T sum = whole[i * kTileColumns + j];
      c[i * c_row + j] = add ? c[i * c_row + j] + sum : sum;
    }
  }
}

// packed[panel][p][lane] = x(panel * width + lane, p), zero beyond `lanes`.
template <typename T, int64_t kWidth>
CONCLAVE_INLINE void Pack(const T* x, int64_t lane_stride, int64_t p_stride, int64_t lanes, int64_t k, T* packed) {
  for (int64_t first = 0; first < lanes; first += kWidth, packed += k * kWidth) {
    const int64_t count = std::min(kWidth, lanes - first);
    const T* from = x + first * lane_stride;
    if (count < kWidth) std::fill(packed, packed + k * kWidth, T(0));
    if (count == kWidth && lane_stride == 1) {
      for (int64_t p = 0; p < k; ++p) {
        for (int64_t l = 0; l < kWidth; ++l) packed[p * kWidth + l] = from[p * p_stride + l];
      }
    } else {
      for (int64_t p = 0; p < k; ++p) {
        for (int64_t l = 0; l < count; ++l) packed[p * kWidth + l] = from[l * lane_stride + p * p_stride];
      }
    }
  }
}

template <typename T>
struct PackedBlock {
  const T* a;  // [m / rows][k][rows]
  const T* b;  // [n / columns][k][columns]
  T* c;
  int64_t c_row, m, n, k;
  bool add;
};

template <typename T>
CONCLAVE_INLINE void MultiplyPacked(const PackedBlock<T>& x) {
  constexpr int64_t kRows = kTileRows<T>;
  for (int64_t j = 0; j < x.n; j += kTileColumns) {
    for (int64_t i = 0; i < x.m; i += kRows) {
      const TileOperands<T> tile{x.a + i * x.k, 1, kRows, x.b + j * x.k, kTileColumns, x.k};
      T* c = x.c + i * x.c_row + j;
      const int64_t rows = std::min(kRows, x.m - i), columns = std::min(kTileColumns, x.n - j);
      if (rows == kRows && columns == kTileColumns) {
        Tile(tile, c, x.c_row, x.add);
      } else {
        EdgeTile(tile, c, x.c_row, rows, columns, x.add);
      }
    }
  }
}

CONCLAVE_SIMD void PackA(const float* x, int64_t row, int64_t column, int64_t m, int64_t k, float* to) {
  Pack<float, kTileRows<float>>(x, row, column, m, k, to);
}
CONCLAVE_SIMD void PackA(const double* x, int64_t row, int64_t column, int64_t m, int64_t k, double* to) {
  Pack<double, kTileRows<double>>(x, row, column, m, k, to);
}
CONCLAVE_SIMD void PackB(const float* x, int64_t row, int64_t column, int64_t n, int64_t k, float* to) {
  Pack<float, kTileColumns>(x, column, row, n, k, to);
}
CONCLAVE_SIMD void PackB(const double* x, int64_t row, int64_t column, int64_t n, int64_t k, double* to) {
  Pack<double, kTileColumns>(x, column, row, n, k, to);
}
CONCLAVE_SIMD void Multiply(const PackedBlock<float>& x) { MultiplyPacked(x); }
CONCLAVE_SIMD void Multiply(const PackedBlock<double>& x) { MultiplyPacked(x); }

// This thread's packing space.
template <typename T>
T* Scratch() {
  thread_local const Buffer buffer((kBlockM + kBlockN) * kBlockK * static_cast<int64_t>(sizeof(T)));
  return reinterpret_cast<T*>(buffer.data());
}

template <typename T>
void Blocks(const BlockOperands<T>& o) {
  if (o.k == 0 && !o.accumulate) {
    for (int64_t i = 0; i < o.m; ++i) std::fill(o.c + i * o.c_row, o.c + i * o.c_row + o.n, T(0));
  }
  T* a = Scratch<T>();
  T* b = a + kBlockM * kBlockK;
  for (int64_t p = 0; p < o.k; p += kBlockK) {
    const int64_t k = std::min(kBlockK, o.k - p);
    for (int64_t j = 0; j < o.n; j += kBlockN) {
      const int64_t n = std::min(kBlockN, o.n - j);
      PackB(o.b + p * o.b_row + j * o.b_column, o.b_row, o.b_column, n, k, b);
      for (int64_t i = 0; i < o.m; i += kBlockM) {
        const int64_t m = std::min(kBlockM, o.m - i);
        PackA(o.a + i * o.a_row + p * o.a_column, o.a_row, o.a_column, m, k, a);
        Multiply(PackedBlock<T>{a, b, o.c + i * o.c_row + j, o.c_row, m, n, k, o.accumulate || p > 0});
      }
    }
  }
}

template <typename T>
CONCLAVE_INLINE void Panels(const PanelOperands<T>& operands) {
  PanelTiles(
      operands,
      [](const TileOperands<T>& o, T* out, int64_t out_row, bool add) __attribute__((always_inline)) { Tile(o, out, out_row, add); });
}
CONCLAVE_SIMD void CompiledPanels(const PanelOperands<float>& operands) { Panels(operands); }

}  // namespace

void BlockProduct(const BlockOperands<float>& operands) { Blocks(operands); }
void BlockProduct(const BlockOperands<double>& operands) { Blocks(operands); }

void PanelProduct(const PanelOperands<float>& operands) { ChainProductsWork() ? PanelProduct512(operands) : CompiledPanels(operands); }
CONCLAVE_SIMD void PanelProduct(const PanelOperands<double>& operands) { Panels(operands); }

}  // namespace conclave::cpu
