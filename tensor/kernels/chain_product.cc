#include "tensor/kernels/chain_product.h"

#include <algorithm>
#include <array>
#include <utility>

#include <immintrin.h>

#include "base/check.h"
#include "tensor/kernels/bf16.h"
#include "tensor/kernels/transpose512.h"
#include "tensor/tensor.h"

#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq")

namespace conclave::cpu {
namespace {

// The register tile: 6 rows by four vectors are 24 sums; four vectors of b and one number of a are beside them. Of the shapes that fit into
// 32 registers it has about the fewest loads a product, which counts where another program shares the core.
constexpr int kTileHeight = 6;
constexpr int kTileVectors = 4;
constexpr int64_t kVector = 16, kPanel = kTileVectors * kVector;
// Floats of packed b that stay in the second-level cache, and columns of c whose part of a is packed at a time.
constexpr int64_t kMostPacked = int64_t{1} << 18;
constexpr int64_t kMostHeight = 84 * kTileHeight;
static_assert(ChainOptions::kRows % kTileHeight == 0);

constexpr int64_t RoundUp(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// A tile of c: `a` in rows of `a_row`, or packed with the numbers of a term side by side (a_row 0).
struct ChainTile {
  const float* a = nullptr;
  int64_t a_row = 0;
  const float* b = nullptr;  // [terms, kPanel]
  int64_t terms = 0;
  float* c = nullptr;
  int64_t c_row = 0, columns = 0;
  const float* bias = nullptr;
  bool add = false;
  const float* ahead = nullptr;  // rows of a that come later: a line of each every kVector terms
  int64_t ahead_rows = 0;
};

CONCLAVE_INLINE __mmask16 MaskOf(int64_t columns) {
  return static_cast<__mmask16>(columns >= kVector ? 0xFFFF : columns <= 0 ? 0 : (1u << columns) - 1);
}

template <int kRows, int kVectors, bool kPacked>
struct TileSums {
  __m512 sum[kRows][kVectors];

  // Terms [p, p + 1) from a and b on.
  CONCLAVE_INLINE void Add(const float* a, const float* a3, int64_t a_row, const float* b) {
    __m512 x[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) x[v] = _mm512_loadu_ps(b + v * kVector);
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
      const float* const at = kPacked ? a + i : i < 3 ? a + i * a_row : a3 + (i - 3) * a_row;
      const __m512 y = _mm512_set1_ps(*at);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[i][v] = _mm512_fmadd_ps(y, x[v], sum[i][v]);
    }
  }
};

template <int kRows, int kVectors, bool kPacked>
void MultiplyTile(const ChainTile& t) {
  const __mmask16 last = MaskOf(t.columns - (kVectors - 1) * kVector);
  const auto mask = [&](int v) __attribute__((always_inline)) { return v + 1 < kVectors ? __mmask16{0xFFFF} : last; };
  TileSums<kRows, kVectors, kPacked> s;
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
    float* const c = t.c + i * t.c_row;
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      __builtin_prefetch(c + v * kVector, 1);
      s.sum[i][v] = _mm512_setzero_ps();
    }
  }
  const float *a = t.a, *a3 = t.a + 3 * t.a_row, *b = t.b;
  const int64_t row = t.a_row;
  constexpr int64_t kStep = kPacked ? kTileHeight : 1;
  int64_t left = t.terms;
  for (; left >= kVector; left -= kVector) {
    for (int64_t r = 0; r < t.ahead_rows; ++r) __builtin_prefetch(t.ahead + r * row + (t.terms - left), 0, 2);
    for (int64_t p = 0; p < kVector; p += 4) {
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) s.Add(a + q * kStep, a3 + q * kStep, row, b + q * kPanel);
      a += 4 * kStep, a3 += 4 * kStep, b += 4 * kPanel;
    }
  }
  for (; left > 0; --left, a += kStep, a3 += kStep, b += kPanel) s.Add(a, a3, row, b);
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
    float* const c = t.c + i * t.c_row;
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      if (t.add) s.sum[i][v] = _mm512_add_ps(_mm512_maskz_loadu_ps(mask(v), c + v * kVector), s.sum[i][v]);
      if (t.bias != nullptr) s.sum[i][v] = _mm512_add_ps(s.sum[i][v], _mm512_maskz_loadu_ps(mask(v), t.bias + v * kVector));
      _mm512_mask_storeu_ps(c + v * kVector, mask(v), s.sum[i][v]);
    }
  }
}

using TileFunction = void (*)(const ChainTile&);
template <bool kPacked, int kRows>
constexpr std::array<TileFunction, kTileVectors> kTilesOfRows = {MultiplyTile<kRows, 1, kPacked>, MultiplyTile<kRows, 2, kPacked>,
                                                                 MultiplyTile<kRows, 3, kPacked>, MultiplyTile<kRows, 4, kPacked>};
template <bool kPacked>
void Multiply(const ChainTile& tile, int64_t rows) {
  static constexpr std::array<std::array<TileFunction, kTileVectors>, kTileHeight> kTiles = {
      kTilesOfRows<kPacked, 1>, kTilesOfRows<kPacked, 2>, kTilesOfRows<kPacked, 3>,
      kTilesOfRows<kPacked, 4>, kTilesOfRows<kPacked, 5>, kTilesOfRows<kPacked, 6>};
  kTiles[rows - 1][(tile.columns + kVector - 1) / kVector - 1](tile);
}

float* ChainSpace(int which, int64_t floats) {
  thread_local std::array<Buffer, 3> space;
  const int64_t bytes = floats * static_cast<int64_t>(sizeof(float));
  if (space[which].bytes() < bytes) space[which] = Buffer(bytes);
  return reinterpret_cast<float*>(space[which].data());
}

// The packing functions stay out of line: inlined into the loops around the tiles, their loops are left without registers.

// to[panel, p, lane] = b[p * b_row + panel * kPanel + lane], zero beyond the last column; some terms at a time, whose rows stay near.
[[gnu::noinline]] void PackRows(const float* b, int64_t b_row, int64_t columns, int64_t terms, float* to) {
  for (int64_t begin = 0; begin < terms; begin += kVector) {
    const int64_t end = std::min(begin + kVector, terms);
    for (int64_t j = 0; j < columns; j += kPanel) {
      float* panel = to + j * terms + begin * kPanel;
      const float* row = b + begin * b_row + j;
      for (int64_t p = begin; p < end; ++p, panel += kPanel, row += b_row) {
#pragma GCC unroll 4
        for (int64_t v = 0; v < kPanel; v += kVector) {
          const __m512 there = columns - j >= kPanel ? _mm512_loadu_ps(row + v) : _mm512_maskz_loadu_ps(MaskOf(columns - j - v), row + v);
          _mm512_storeu_ps(panel + v, there);
        }
      }
    }
  }
}

// The same of b that lies by columns: b[(panel * kPanel + lane) * b_column + p].
[[gnu::noinline]] void PackTurned(const float* b, int64_t b_column, int64_t columns, int64_t terms, float* to) {
  for (int64_t j = 0; j < columns; j += kPanel, to += terms * kPanel) {
    const int64_t there = std::min(kPanel, columns - j);
    for (int64_t l = 0; l < kPanel; l += kVector) {
      const int64_t squares = there >= l + kVector ? terms / kVector * kVector : 0;
      const float* const from = b + (j + l) * b_column;
      for (int64_t p = 0; p < squares; p += kVector) {
        for (int64_t i = kVector; i < 2 * kVector; ++i) __builtin_prefetch(from + i * b_column + p);
        TransposeSquare512(from + p, b_column, to + p * kPanel + l, kPanel);
      }
      for (int64_t p = squares; p < terms; ++p) {
        for (int64_t i = 0; i < kVector; ++i) to[p * kPanel + l + i] = l + i < there ? from[i * b_column + p] : 0.0f;
      }
    }
  }
}

// to[strip, p, i] = a[p * a_column + strip * kTileHeight + i]; what lies beyond the last strip's rows is not written.
[[gnu::noinline]] void PackTurnedRows(const float* a, int64_t a_column, int64_t rows, int64_t terms, float* to) {
  for (int64_t begin = 0; begin < terms; begin += kVector) {
    const int64_t end = std::min(begin + kVector, terms);
    for (int64_t i = 0; i < rows; i += kTileHeight) {
      const auto there = static_cast<__mmask8>(MaskOf(std::min<int64_t>(kTileHeight, rows - i)));
      float* strip = to + i * terms + begin * kTileHeight;
      const float* row = a + begin * a_column + i;
      for (int64_t p = begin; p < end; ++p, strip += kTileHeight, row += a_column) {
        _mm256_mask_storeu_ps(strip, there, _mm256_maskz_loadu_ps(there, row));
      }
    }
  }
}

// [rows, k] of a, rounded, one row after the other.
const float* RoundedRows(const float* a, int64_t a_row, int64_t rows, int64_t k) {
  float* const rounded = ChainSpace(2, ChainOptions::kRows * k);
  for (int64_t i = 0; i < rows; ++i) RoundToBf16(a + i * a_row, rounded + i * k, k);
  return rounded;
}

// Rows of a as they lie; b of so many columns is packed whole.
void MultiplyRows(const BlockOperands<float>& o, const ChainOptions& options, int64_t column, int64_t columns) {
  float* const b = ChainSpace(0, RoundUp(columns, kPanel) * o.k);
  const float* const from = o.b + column * o.b_column;
  o.b_column == 1 ? PackRows(from, o.b_row, columns, o.k, b) : PackTurned(from, o.b_column, columns, o.k, b);
  if (options.round) RoundToBf16(b, b, RoundUp(columns, kPanel) * o.k);
  const int64_t panels = (columns + kPanel - 1) / kPanel, ahead_rows = (kTileHeight + panels - 1) / panels;
  for (int64_t row = 0; row < o.m; row += ChainOptions::kRows) {
    const int64_t rows = std::min(ChainOptions::kRows, o.m - row);
    const float* a = o.a + row * o.a_row;
    int64_t a_row = o.a_row;
    if (options.round) a = RoundedRows(a, std::exchange(a_row, o.k), rows, o.k);
    for (int64_t j = 0; j < columns; j += kPanel) {
      // What follows this block of rows is asked for panel by panel, some rows of every strip.
      const int64_t ahead = j / kPanel * ahead_rows, asked = options.round ? 0 : std::clamp<int64_t>(kTileHeight - ahead, 0, ahead_rows);
      for (int64_t term = 0; term < o.k; term += kChainTerms) {
        const int64_t terms = std::min(kChainTerms, o.k - term);
        ChainTile tile{.a = a + term, .a_row = a_row, .b = b + j * o.k + term * kPanel, .terms = terms};
        tile.c = o.c + row * o.c_row + column + j, tile.c_row = o.c_row, tile.columns = std::min(kPanel, columns - j);
        tile.bias = term + terms == o.k && options.bias != nullptr ? options.bias + column + j : nullptr;
        tile.add = o.accumulate || term > 0;
        for (int64_t i = 0; i < rows; i += kTileHeight, tile.a += kTileHeight * a_row, tile.c += kTileHeight * o.c_row) {
          const int64_t later = row + ChainOptions::kRows + i + ahead;
          tile.ahead_rows = std::clamp<int64_t>(o.m - later, 0, asked);
          if (tile.ahead_rows > 0) tile.ahead = o.a + later * o.a_row + term;
          Multiply<false>(tile, std::min<int64_t>(kTileHeight, rows - i));
        }
      }
    }
    if (options.done != nullptr && column + columns == o.n) options.done(options.context, row, rows);
  }
}

// Sums over rows: a lies by columns, so both operands are packed, some terms at a time.
void MultiplySums(const BlockOperands<float>& o, bool round, int64_t column, int64_t columns) {
  for (int64_t first = 0; first < o.k; first += kChainRows) {
    const int64_t packed = std::min(kChainRows, o.k - first);
    // By the size of a full slab, so that the number of rows, which changes from step to step, does not make scratch grow.
    float* const b = ChainSpace(0, RoundUp(columns, kPanel) * kChainRows);
    PackRows(o.b + first * o.b_row + column, o.b_row, columns, packed, b);
    if (round) RoundToBf16(b, b, RoundUp(columns, kPanel) * packed);
    for (int64_t row = 0; row < o.m; row += kMostHeight) {
      const int64_t rows = std::min(kMostHeight, o.m - row);
      float* const a = ChainSpace(1, RoundUp(std::min(kMostHeight, o.m), kTileHeight) * kChainRows);
      PackTurnedRows(o.a + first * o.a_column + row, o.a_column, rows, packed, a);
      if (round) RoundToBf16(a, a, RoundUp(rows, kTileHeight) * packed);
      for (int64_t j = 0; j < columns; j += kPanel) {
        ChainTile tile{.b = b + j * packed, .terms = packed};
        tile.c_row = o.c_row, tile.columns = std::min(kPanel, columns - j), tile.add = o.accumulate || first > 0;
        for (int64_t i = 0; i < rows; i += kTileHeight) {
          tile.a = a + i * packed;
          tile.c = o.c + (row + i) * o.c_row + column + j;
          Multiply<true>(tile, std::min<int64_t>(kTileHeight, rows - i));
        }
      }
    }
  }
}

}  // namespace

bool ChainProductsWork() {
  static const bool work = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512vl");
  return work;
}

void ChainProduct(const BlockOperands<float>& o, const ChainOptions& options) {
  CHECK((o.a_column == 1 || o.a_row == 1) && (o.b_column == 1 || o.b_row == 1))
      << o.a_row << ' ' << o.a_column << ' ' << o.b_row << ' ' << o.b_column;
  const bool rows = o.a_column == 1;
  CHECK(rows || (o.b_column == 1 && options.bias == nullptr && options.done == nullptr)) << "sums over rows take b by rows, and no bias";
  const int64_t most = std::max(kPanel, kMostPacked / (rows ? o.k : kChainRows) / kPanel * kPanel);
  const int64_t parts = (o.n + most - 1) / most, columns = RoundUp((o.n + parts - 1) / parts, kPanel);
  for (int64_t column = 0; column < o.n; column += columns) {
    const int64_t count = std::min(columns, o.n - column);
    rows ? MultiplyRows(o, options, column, count) : MultiplySums(o, options.round, column, count);
  }
}

}  // namespace conclave::cpu
