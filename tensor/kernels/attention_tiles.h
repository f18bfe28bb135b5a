// Copies between rows of qkv and the padded tiles of attention.
#ifndef CONCLAVE_TENSOR_KERNELS_ATTENTION_TILES_H_
#define CONCLAVE_TENSOR_KERNELS_ATTENTION_TILES_H_

#include <algorithm>

#include "tensor/kernels/attention.h"

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

template <typename T>
struct HeadColumns {
  const T* first;  // of row 0
  int64_t row;     // elements between rows
  int64_t length, dim;
};

// to: [padded_length, padded_dim] = scale * x, zero where there is nothing.
template <typename T>
void CopyHead(const AttentionShape& shape, const HeadColumns<T>& x, T scale, T* to) {
  const int64_t width = shape.padded_dim();
  for (int64_t i = 0; i < x.length; ++i) {
    for (int64_t d = 0; d < x.dim; ++d) to[i * width + d] = scale * x.first[i * x.row + d];
    std::fill(to + i * width + x.dim, to + (i + 1) * width, T(0));
  }
  std::fill(to + x.length * width, to + shape.padded_length() * width, T(0));
}

// to: [head_dim][kAttentionTile], the transposed rows of one tile of a copied head.
template <typename T>
void TransposeTile(const AttentionShape& shape, const T* rows, T* to) {
  const int64_t width = shape.padded_dim();
  for (int64_t d = 0; d < shape.head_dim; ++d) {
    for (int64_t i = 0; i < kAttentionTile; ++i) to[d * kAttentionTile + i] = rows[i * width + d];
  }
}

// Rows of tile `tile` that exist, rounded up to whole register tiles.
inline int64_t TileRows(const AttentionShape& shape, int64_t tile) {
  return std::min(kAttentionTile, (shape.length - tile * kAttentionTile + 7) / 8 * 8);
}

}  // namespace conclave::cpu

#endif  // CONCLAVE_TENSOR_KERNELS_ATTENTION_TILES_H_
