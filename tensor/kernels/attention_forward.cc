#include <cmath>
#include <limits>

#include "tensor/kernels/attention.h"
#include "tensor/kernels/attention_tiles.h"
#include "tensor/kernels/exp.h"
#include "tensor/kernels/linear_blocks.h"

namespace conclave::cpu {
namespace {

constexpr int64_t kTile = kAttentionTile;
constexpr int kLane = static_cast<int>(kTile);  // 32-bit lane counters: compared beside floats, they vectorise

// The running softmax of a tile of queries.
template <typename T>
struct RowState {
  T* max;    // [kTile], largest score so far
  T* sum;    // [kTile], sum of exp(score - max)
  T* decay;  // [kTile], what the last step multiplied sums by
};

// s: [keys][kTile queries], scores in, exp(score - max) out; keys after the query (diagonal tile) give 0. Works on columns, so that
// 64 queries go side by side and no sum is reordered; 16 queries that are all before a key are passed over, as they are in the products.
template <typename T>
CONCLAVE_INLINE void SoftmaxTile(T* __restrict s, int64_t keys, bool diagonal, const RowState<T>& state) {
  constexpr int kChunk = 16;
  T max[kTile], sum[kTile];
  for (int q = 0; q < kLane; ++q) max[q] = state.max[q];
  for (int64_t j = 0; j < keys; ++j) {
    const int64_t first = diagonal ? j : 0, begin = first / kChunk * kChunk;
    for (int64_t q = begin; q < first; ++q) s[j * kTile + q] = -std::numeric_limits<T>::infinity();
    for (int64_t c = begin; c < kLane; c += kChunk) {
      T* const score = s + j * kTile + c;
      for (int q = 0; q < kChunk; ++q) max[c + q] = score[q] > max[c + q] ? score[q] : max[c + q];
    }
  }
  for (int q = 0; q < kLane; ++q) {
    const T decay = Exp(state.max[q] - max[q]);
    state.decay[q] = decay;
    sum[q] = state.sum[q] * decay;
  }
  for (int64_t j = 0; j < keys; ++j) {
    const int64_t first = diagonal ? j : 0, begin = first / kChunk * kChunk;
    for (int64_t c = begin; c < kLane; c += kChunk) {
      T* __restrict score = s + j * kTile + c;
      for (int q = 0; q < kChunk; ++q) {
        score[q] = ExpOfScore(score[q] - max[c + q]);
        sum[c + q] += score[q];  // of keys after the query e^-87, which changes no sum: its own key has been there
      }
    }
    for (int64_t q = begin; q < first; ++q) s[j * kTile + q] = T(0);
  }
  for (int q = 0; q < kLane; ++q) {
    state.max[q] = max[q];
    state.sum[q] = sum[q];
  }
}

// out: [rows, width] *= decay[row].
template <typename T>
CONCLAVE_INLINE void DecayRows(const T* __restrict decay, T* __restrict out, int64_t rows, int64_t width) {
  for (int64_t q = 0; q < rows; ++q) {
    for (int64_t d = 0; d < width; ++d) out[q * width + d] *= decay[q];
  }
}

CONCLAVE_SIMD void Softmax(float* s, int64_t keys, bool diagonal, const RowState<float>& state) { SoftmaxTile(s, keys, diagonal, state); }
CONCLAVE_SIMD void Softmax(double* s, int64_t keys, bool diagonal, const RowState<double>& state) { SoftmaxTile(s, keys, diagonal, state); }
CONCLAVE_SIMD void Decay(const float* decay, float* out, int64_t rows, int64_t width) { DecayRows(decay, out, rows, width); }
CONCLAVE_SIMD void Decay(const double* decay, double* out, int64_t rows, int64_t width) { DecayRows(decay, out, rows, width); }

template <typename T>
struct HeadTiles {
  TiledRows<T> q, k;
  T* v;                  // [padded_length, padded_dim]
  T *q_space, *k_space;  // the same, for rows that are copied
  T* q_tile;             // [head_dim][kTile], scaled
  T* s;                  // [kTile keys][kTile queries]
  T* out;                // [kTile, padded_dim]
  RowState<T> state;
};

// Attention of one tile of queries to all keys up to them; leaves unnormalised sums in h.out.
template <typename T>
CONCLAVE_INLINE void QueryTile(const AttentionShape& shape, const HeadTiles<T>& h, int64_t tile, NextSequence& next) {
  const int64_t width = shape.padded_dim(), rows = TileRows(shape, tile);
  TransposeTile(shape, h.q, tile, h.q_tile);
  const T scale = T(1) / std::sqrt(static_cast<T>(shape.head_dim));
  for (int64_t i = 0; i < shape.head_dim * kTile; ++i) h.q_tile[i] *= scale;
  std::fill(h.state.max, h.state.max + kTile, -std::numeric_limits<T>::infinity());
  std::fill(h.state.sum, h.state.sum + kTile, T(0));
  for (int64_t u = 0; u <= tile; ++u) {
    const bool diagonal = u == tile;
    const int64_t keys = diagonal ? rows : kTile;
    PanelProduct(PanelOperands<T>{.a = h.k.Tile(u),
                                  .a_row = h.k.row,
                                  .a_column = 1,
                                  .b = h.q_tile,
                                  .b_row = kTile,  // [keys, d] [d, queries]
                                  .c = h.s,
                                  .c_row = kTile,
                                  .m = keys,
                                  .n = kTile,
                                  .k = shape.head_dim,
                                  .band = diagonal ? Band::kUpperC : Band::kAll,
                                  .ahead = next.Take()});
    Softmax(h.s, keys, diagonal, h.state);
    if (u > 0) Decay(h.state.decay, h.out, rows, width);
    PanelProduct(PanelOperands<T>{.a = h.s,
                                  .a_row = 1,
                                  .a_column = kTile,
                                  .b = h.v + u * kTile * width,
                                  .b_row = width,  // [queries, keys] [keys, d]
                                  .c = h.out,
                                  .c_row = width,
                                  .m = rows,
                                  .n = width,
                                  .k = keys,
                                  .accumulate = u > 0,
                                  .band = diagonal ? Band::kLowerA : Band::kAll,
                                  .ahead = next.Take()});
  }
}

template <typename T>
HeadTiles<T> Cut(const AttentionShape& shape, T* memory) {
  Scratch<T> scratch(memory);
  const int64_t whole = shape.padded_length() * shape.padded_dim();
  HeadTiles<T> h;
  h.q_space = scratch.Take(whole);
  h.k_space = scratch.Take(whole);
  h.v = scratch.Take(whole);
  h.q_tile = scratch.Take(shape.head_dim * kTile);
  h.s = scratch.Take(kTile * kTile);
  h.out = scratch.Take(kTile * shape.padded_dim());
  h.state = {scratch.Take(kTile), scratch.Take(kTile), scratch.Take(kTile)};
  return h;
}

template <typename T>
CONCLAVE_INLINE void Head(const AttentionForwardArgs<T>& args, HeadTiles<T>& h, int64_t sequence, int64_t head, NextSequence& next) {
  const AttentionShape& shape = args.shape;
  const int64_t width = shape.padded_dim(), dim = shape.head_dim, first_row = sequence * shape.length;
  const T* qkv = args.qkv + first_row * shape.row();
  const auto columns = [&](int64_t column) { return HeadColumns<T>{qkv + column, shape.row(), shape.length, dim}; };
  h.q = TilesOf(shape, columns(head * dim), h.q_space);
  if (head == 0 || shape.KeyColumn(head) != shape.KeyColumn(head - 1)) {
    h.k = TilesOf(shape, columns(shape.KeyColumn(head)), h.k_space);
    CopyHead(shape, columns(shape.ValueColumn(head)), T(1), h.v);
  }
  for (int64_t tile = args.first / kTile; tile * kTile < shape.length; ++tile) {
    QueryTile(shape, h, tile, next);
    for (int64_t q = std::max<int64_t>(args.first - tile * kTile, 0); q < std::min(kTile, shape.length - tile * kTile); ++q) {
      const int64_t row = first_row + tile * kTile + q - args.first;
      const T scale = T(1) / h.state.sum[q];
      const T* __restrict__ sums = h.out + q * width;
      T* __restrict__ out = args.out + (row * shape.heads + head) * dim;
      for (int64_t d = 0; d < dim; ++d) out[d] = scale * sums[d];
      args.log_sum_exp[row * shape.heads + head] = h.state.max[q] + LogOfSum(h.state.sum[q]);
    }
  }
}

template <typename T>
CONCLAVE_INLINE void Forward(const AttentionForwardArgs<T>& args) {
  HeadTiles<T> h = Cut(args.shape, args.scratch);
  const AttentionShape& shape = args.shape;
  const int64_t tiles = shape.padded_length() / kTile, elements = shape.length * shape.row(),
                out = shape.length * shape.heads * shape.head_dim;
  const auto upcoming = [&](int64_t sequence) {
    NextSequence next(shape.heads * tiles * (tiles + 1));
    if (sequence == shape.sequences) return next;
    next.Add(args.qkv + sequence * elements, elements);
    if (args.first == 0) next.Add(args.out + sequence * out, out);
    return next;
  };
  upcoming(0).AskForAll();
  for (int64_t sequence = 0; sequence < shape.sequences; ++sequence) {
    NextSequence next = upcoming(sequence + 1);
    for (int64_t head = 0; head < shape.heads; ++head) Head(args, h, sequence, head, next);
  }
}

}  // namespace

int64_t AttentionForwardScratch(const AttentionShape& shape) {
  return 3 * shape.padded_length() * shape.padded_dim() + kTile * (shape.head_dim + kTile + shape.padded_dim() + 3);
}

CONCLAVE_SIMD void AttentionForward(const AttentionForwardArgs<float>& args) { Forward(args); }
CONCLAVE_SIMD void AttentionForward(const AttentionForwardArgs<double>& args) { Forward(args); }

}  // namespace conclave::cpu
