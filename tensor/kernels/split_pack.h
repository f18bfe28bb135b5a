// Operands of the matrix unit's products: f32 numbers cut into three planes of bf16, or rounded to one, in the order in which the unit
// reads them. For split_product.cc alone: inlined, for processors with AVX-512.
#ifndef CONCLAVE_TENSOR_KERNELS_SPLIT_PACK_H_
#define CONCLAVE_TENSOR_KERNELS_SPLIT_PACK_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <immintrin.h>

#include "base/simd.h"
#include "tensor/kernels/transpose512.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq")

namespace conclave::cpu {

// A register of the matrix unit: 16 rows of 64 bytes. Registers stand in pairs: 32 strips of an operand.
inline constexpr int64_t kTileBytes = 16 * 64, kPair = 2 * kSquare;
// A step of the inner dimension: 32 terms of a pair, two registers a plane.
inline constexpr int64_t kStepTerms = 32, kPlaneBytes = 2 * kTileBytes;
template <int kPlanes>
inline constexpr int64_t kStepBytes = kPlanes* kPlaneBytes;

inline constexpr int64_t PairsOf(int64_t strips) { return (strips + kPair - 1) / kPair; }
inline constexpr int64_t StepsOf(int64_t terms) { return (terms + kStepTerms - 1) / kStepTerms; }

typedef uint32_t SplitBits __attribute__((vector_size(64)));

CONCLAVE_INLINE SplitBits BitsOf(SquareRow x) { return reinterpret_cast<SplitBits>(x); }
CONCLAVE_INLINE SquareRow UpperHalf(SplitBits x) { return reinterpret_cast<SquareRow>(x & 0xFFFF0000); }

// The upper halves of 16 numbers beside those of 16 others, as the unit multiplies them: in pairs.
CONCLAVE_INLINE void PutPlane(SplitBits low, SplitBits high, std::byte* to) {
  const __m512i pairs = _mm512_ternarylogic_epi32(_mm512_set1_epi32(static_cast<int>(0xFFFF0000)), reinterpret_cast<__m512i>(high),
                                                  reinterpret_cast<__m512i>(low >> 16), 0xCA);
  _mm512_store_si512(to, pairs);
}

// The planes of 32 numbers. Cutting x1 off, instead of rounding, keeps the largest numbers finite; rounding x2 gives what the products
// leave out a random sign.
CONCLAVE_INLINE void SplitRow(SquareRow low, SquareRow high, std::byte* to) {
  PutPlane(BitsOf(low), BitsOf(high), to);
  const SquareRow low_rest = low - UpperHalf(BitsOf(low)), high_rest = high - UpperHalf(BitsOf(high));
  const SplitBits low_second = BitsOf(low_rest) + 0x8000, high_second = BitsOf(high_rest) + 0x8000;
  PutPlane(low_second, high_second, to + kPlaneBytes);
  PutPlane(BitsOf(low_rest - UpperHalf(low_second)), BitsOf(high_rest - UpperHalf(high_second)), to + 2 * kPlaneBytes);
}

// To nearest, ties to even; NaN stays NaN.
CONCLAVE_INLINE SplitBits Rounded(SquareRow x) {
  const SplitBits bits = BitsOf(x), rounded = bits + 0x7FFF + ((bits >> 16) & 1);
  return (bits & 0x7FFFFFFF) > 0x7F800000 ? bits | 0x00400000 : rounded;
}

// One register a plane: 16 strips (rows of a, columns of b) of 32 terms, of which terms i and i + 16 are a pair. low and high: 16 x 16
// numbers, transposed on the way if asked for.
template <int kPlanes, bool kTurn>
CONCLAVE_INLINE void PackSquares(const float* low, const float* high, int64_t row, std::byte* to) {
  alignas(64) float turned[2][kSquare * kSquare];
  if constexpr (kTurn) {
    TransposeSquare512(low, row, turned[0], kSquare);
    TransposeSquare512(high, row, turned[1], kSquare);
    low = turned[0], high = turned[1], row = kSquare;
  }
  for (int64_t r = 0; r < kSquare; ++r) {
    SquareRow a, b;
    std::memcpy(&a, low + r * row, sizeof(a));
    std::memcpy(&b, high + r * row, sizeof(b));
    if constexpr (kPlanes == 1) {
      PutPlane(Rounded(a), Rounded(b), to + r * 64);
    } else {
      SplitRow(a, b, to + r * 64);
    }
  }
}

// An operand's part: element (strip i, term t) is x[i * strip + t * term], one of the strides 1.
struct SplitPart {
  const float* x;
  int64_t strip, term;
  int64_t strips, terms;
};

template <int kPlanes, bool kTurn>
CONCLAVE_INLINE void PackAt(const SplitPart& p, int64_t strip, int64_t term, std::byte* to) {
  const float* const low = p.x + strip * p.strip + term * p.term;
  const int64_t strips = std::min(kSquare, p.strips - strip), terms = p.terms - term, row = p.term == 1 ? p.strip : p.term;
  if (strips == kSquare && terms >= kStepTerms) return PackSquares<kPlanes, kTurn>(low, low + kSquare * p.term, row, to);
  alignas(64) float squares[2][kSquare * kSquare] = {};
  for (int64_t h = 0; h < 2; ++h) {
    const int64_t there = std::clamp(terms - h * kSquare, int64_t{0}, kSquare);
    const int64_t rows = p.term == 1 ? strips : there, columns = p.term == 1 ? there : strips;
    for (int64_t r = 0; r < rows; ++r) std::memcpy(squares[h] + r * kSquare, low + h * kSquare * p.term + r * row, columns * sizeof(float));
  }
  PackSquares<kPlanes, kTurn>(squares[0], squares[1], kSquare, to);
}

// to: [pair of strips][step][plane][strip of the pair / 16], zeros where there is nothing. Memory is read row by row; with `ahead` it is
// asked for a row of squares before.
template <int kPlanes, bool kTurn>
void PackPart(const SplitPart& p, bool ahead, std::byte* to) {
  const int64_t steps = StepsOf(p.terms), row = p.term == 1 ? p.strip : p.term;
  const auto square = [&](int64_t strip, int64_t term, int64_t next) __attribute__((always_inline)) {
    for (int64_t r = 0; ahead && r < kSquare; ++r) {
      const float* const line = p.x + strip * p.strip + term * p.term + next + r * row;
      __builtin_prefetch(line, 0, 2);
      __builtin_prefetch(line + kSquare * p.term, 0, 2);
    }
    PackAt<kPlanes, kTurn>(p, strip, term,
                           to + (strip / kPair * steps + term / kStepTerms) * kStepBytes<kPlanes> + strip % kPair / kSquare * kTileBytes);
  };
  if (p.term == 1) {
    for (int64_t strip = 0; strip < p.strips; strip += kSquare) {
      for (int64_t term = 0; term < p.terms; term += kStepTerms) square(strip, term, kSquare * p.strip);
    }
  } else {
    for (int64_t term = 0; term < p.terms; term += kStepTerms) {
      for (int64_t strip = 0; strip < p.strips; strip += kSquare) square(strip, term, kStepTerms * p.term);
    }
  }
}

// Rows of memory that will be packed soon, asked for along the way.
class RowsAhead {
 public:
  struct Rows {
    const float* x;
    int64_t row, rows, width;
  };
  RowsAhead() = default;
  // `at_a_time` rows in `asks` calls of Ask.
  RowsAhead(const Rows& rows, int64_t at_a_time, int64_t asks)
      : rows_(rows), lines_((rows.width + kLine - 1) / kLine), share_((at_a_time * lines_ + asks - 1) / asks) {}

  CONCLAVE_INLINE void Ask() {
    for (int64_t i = 0; i < share_ && rows_.rows > 0; ++i) {
      __builtin_prefetch(rows_.x + kLine * line_, 0, 2);
      if (++line_ < lines_) continue;
      line_ = 0;
      rows_.x += rows_.row;
      --rows_.rows;
    }
  }

 private:
  static constexpr int64_t kLine = 16;
  Rows rows_{};
  int64_t lines_ = 0, share_ = 0, line_ = 0;
};

}  // namespace conclave::cpu

#pragma GCC pop_options

#endif  // CONCLAVE_TENSOR_KERNELS_SPLIT_PACK_H_
