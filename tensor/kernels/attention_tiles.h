// Copies between rows of qkv and the padded tiles of attention: inlined, so that the instruction set of the caller reaches them.
#ifndef CONCLAVE_TENSOR_KERNELS_ATTENTION_TILES_H_
#define CONCLAVE_TENSOR_KERNELS_ATTENTION_TILES_H_

#include <algorithm>
#include <type_traits>

#include "base/simd.h"
#include "tensor/kernels/attention.h"
#include "tensor/kernels/linear_blocks.h"
#include "tensor/kernels/transpose.h"

namespace conclave::cpu {

// Bump allocation inside the scratch memory of a call. Pieces keep a multiple of 64 bytes if the sizes do.
template <typename T>
class Scratch {
 public:
  explicit Scratch(T* next) : next_(next) {}
  T* Take(int64_t elements) {
    T* piece = next_;
    next_ += elements;
    return piece;
  }

 private:
  T* next_;
};

// The rows of the next sequence, asked for in the order of memory while this one's heads are multiplied: heads read and write strips of
// rows, which no prefetcher foresees, and who asks for all rows at once waits for memory. What would not fit into the second-level cache is
// left alone.
class NextSequence {
 public:
  // products: how often Take will be called, and each for a product of a tile.
  explicit NextSequence(int64_t products) : products_(products) {}

  template <typename T>
  void Add(const T* x, int64_t elements) {
    parts_[count_++] = {reinterpret_cast<const char*>(x), elements * static_cast<int64_t>(sizeof(T)) / kLine};
    lines_ += parts_[count_ - 1].lines;
  }

  // The next product's share.
  CONCLAVE_INLINE ReadAhead Take() {
    if (first_ == count_ || lines_ > kMostLines) return {};
    Part& part = parts_[first_];
    const int64_t lines = std::min((lines_ + products_ - 1) / products_, part.lines);
    const ReadAhead share{part.next, (lines + kTileRowsOfProduct - 1) / kTileRowsOfProduct};
    part.next += lines * kLine;
    part.lines -= lines;
    if (part.lines == 0) ++first_;
    return share;
  }

  // All of it, at once: before the first sequence.
  void AskForAll() const {
    for (int p = 0; p < count_ && lines_ <= kMostLines; ++p) {
      for (int64_t i = 0; i < parts_[p].lines; ++i) __builtin_prefetch(parts_[p].next + i * kLine, 0, 2);
    }
  }

 private:
  static constexpr int64_t kLine = 64, kMostLines = (int64_t{5} << 18) / kLine, kTileRowsOfProduct = kAttentionTile / kTileRows<float>;
  struct Part {
    const char* next;
    int64_t lines;
  };
  Part parts_[4] = {};
  int count_ = 0, first_ = 0;
  const int64_t products_;
  int64_t lines_ = 0;
};

template <typename T>
struct HeadColumns {
  const T* first;  // of row 0
  int64_t row;     // elements between rows
  int64_t length, dim;
};

// to: [padded_length, padded_dim] = scale * x, zero where there is nothing. Whole lanes of 16 first: their number is known to the compiler.
template <typename T>
CONCLAVE_INLINE void CopyHead(const AttentionShape& shape, const HeadColumns<T>& x, T scale, T* to) {
  constexpr int64_t kChunk = 16;
  const int64_t width = shape.padded_dim(), whole = x.dim / kChunk * kChunk;
  for (int64_t i = 0; i < x.length; ++i) {
    const T* __restrict__ from = x.first + i * x.row;
    T* __restrict__ row = to + i * width;
    for (int64_t c = 0; c < whole; c += kChunk) {
      for (int64_t d = 0; d < kChunk; ++d) row[c + d] = scale * from[c + d];
    }
    if (whole == width) continue;
    for (int64_t d = whole; d < x.dim; ++d) row[d] = scale * from[d];
    for (int64_t d = x.dim; d < width; ++d) row[d] = T(0);
  }
  if (x.length < shape.padded_length()) std::fill(to + x.length * width, to + shape.padded_length() * width, T(0));
}

// Rows of a head that are read in tiles: as they lie where tiles are whole, copied and padded where they are not.
template <typename T>
struct TiledRows {
  const T* first;
  int64_t row;  // elements between rows

  const T* Tile(int64_t tile) const { return first + tile * kAttentionTile * row; }
};

template <typename T>
CONCLAVE_INLINE TiledRows<T> TilesOf(const AttentionShape& shape, const HeadColumns<T>& x, T* space) {
  if (x.length == shape.padded_length()) return {x.first, x.row};
  CopyHead(shape, x, T(1), space);
  return {space, shape.padded_dim()};
}

// to: [head_dim][kAttentionTile], the transposed rows of one tile.
template <typename T>
CONCLAVE_INLINE void TransposeTile(const AttentionShape& shape, const TiledRows<T>& x, int64_t tile, T* __restrict__ to) {
  const T* __restrict__ const rows = x.Tile(tile);
  int64_t d = 0;
  if constexpr (std::is_same_v<T, float>) {
    for (; d + kSquare <= shape.head_dim; d += kSquare) {
      for (int64_t i = 0; i < kAttentionTile; i += kSquare) {
        TransposeSquare(rows + i * x.row + d, x.row, to + d * kAttentionTile + i, kAttentionTile);
      }
    }
  }
  for (; d < shape.head_dim; ++d) {
    for (int64_t i = 0; i < kAttentionTile; ++i) to[d * kAttentionTile + i] = rows[i * x.row + d];
  }
}

// Rows of tile `tile` that exist, rounded up to whole register tiles.
inline int64_t TileRows(const AttentionShape& shape, int64_t tile) {
  return std::min(kAttentionTile, (shape.length - tile * kAttentionTile + 7) / 8 * 8);
}

}  // namespace conclave::cpu

#endif  // CONCLAVE_TENSOR_KERNELS_ATTENTION_TILES_H_
