#include <cmath>

#include "tensor/kernels/attention.h"
#include "tensor/kernels/attention_tiles.h"
#include "tensor/kernels/exp.h"
#include "tensor/kernels/lanes.h"
#include "tensor/kernels/linear_blocks.h"

namespace conclave::cpu {
namespace {

constexpr int64_t kTile = kAttentionTile;

// One head's rows: [padded_length, padded_dim] each, copied and padded, except that values are read where they lie if they can be.
template <typename T>
struct HeadRows {
  T *q, *k, *d_out, *d_q;  // q scaled
  T* v_space;              // [padded_length, padded_dim]
  T* log_sum_exp;          // [padded_length]
  T* delta;                // [padded_length], sum over d of d_out * out
  TiledRows<T> v;          // in v_space, or where they lie
};

template <typename T>
struct TileSpace {
  T *k_tile, *v_tile;  // [head_dim][kTile]
  T *p, *d_s;          // [kTile queries][kTile keys]
  T *d_k, *d_v;        // [kTile, padded_dim]
};

template <typename T>
struct ScoreTile {
  T* p;                  // in: scores; out: probabilities
  T* d_s;                // in: gradient of the probabilities; out: of the scores
  const T* log_sum_exp;  // of the tile's queries
  const T* delta;
  int64_t rows;
  bool diagonal;
};

// p = exp(s - log_sum_exp), d_s = p (d_p - delta); 0 for keys after the query, or untouched where 16 of them are.
template <typename T>
CONCLAVE_INLINE void ScoreGradientLoop(const ScoreTile<T>& t) {
  constexpr int64_t kChunk = 16;
  for (int64_t q = 0; q < t.rows; ++q) {
    T* __restrict p = t.p + q * kTile;
    T* __restrict d_s = t.d_s + q * kTile;
    const T shift = t.log_sum_exp[q], delta = t.delta[q];
    const int64_t keys = t.diagonal ? q + 1 : kTile, whole = (keys + kChunk - 1) / kChunk * kChunk;
    for (int64_t c = 0; c < whole; c += kChunk) {
      for (int64_t j = c; j < c + kChunk; ++j) {
        p[j] = ExpOfScore(p[j] - shift);
        d_s[j] = p[j] * (d_s[j] - delta);
      }
    }
    for (int64_t j = keys; j < whole; ++j) p[j] = d_s[j] = T(0);
  }
}

CONCLAVE_SIMD void ScoreGradient(const ScoreTile<float>& tile) { ScoreGradientLoop(tile); }
CONCLAVE_SIMD void ScoreGradient(const ScoreTile<double>& tile) { ScoreGradientLoop(tile); }

// With S = q k^T (q scaled), P = softmax(S), out = P v:
//   dv = P^T d_out; dP = d_out v^T; dS = P (dP - delta); dq = dS k; dk = dS^T q.
// Adds the part of (queries of `tile`, keys of `keys_tile`) to d_q and to the key tile's d_k, d_v. The first part of a tile's rows
// overwrites: that of the first keys for d_q, that of the diagonal for d_k and d_v.
template <typename T>
CONCLAVE_INLINE void TilePair(const AttentionShape& shape, const HeadRows<T>& h, const TileSpace<T>& s, int64_t tile, int64_t keys_tile,
                              NextSequence& next) {
  const int64_t width = shape.padded_dim(), rows = TileRows(shape, tile), keys = TileRows(shape, keys_tile), first = tile * kTile;
  const bool diagonal = tile == keys_tile;
  const Band wanted = diagonal ? Band::kLowerC : Band::kAll;
  const auto scores = [&](const T* a, const T* b, T* c) {  // [queries, d] [d, keys]
    PanelProduct(PanelOperands<T>{.a = a + first * width,
                                  .a_row = width,
                                  .a_column = 1,
                                  .b = b,
                                  .b_row = kTile,
                                  .c = c,
                                  .c_row = kTile,
                                  .m = rows,
                                  .n = kTile,
                                  .k = shape.head_dim,
                                  .band = wanted,
                                  .ahead = next.Take()});
  };
  scores(h.q, s.k_tile, s.p);
  scores(h.d_out, s.v_tile, s.d_s);
  ScoreGradient(ScoreTile<T>{s.p, s.d_s, h.log_sum_exp + first, h.delta + first, rows, diagonal});
  const auto to_keys = [&](const T* a, const T* b, T* c) {  // [keys, queries] [queries, d]
    PanelProduct(PanelOperands<T>{.a = a,
                                  .a_row = 1,
                                  .a_column = kTile,
                                  .b = b + first * width,
                                  .b_row = width,
                                  .c = c,
                                  .c_row = width,
                                  .m = keys,
                                  .n = width,
                                  .k = rows,
                                  .accumulate = !diagonal,
                                  .band = diagonal ? Band::kUpperA : Band::kAll,
                                  .ahead = next.Take()});
  };
  to_keys(s.p, h.d_out, s.d_v);
  to_keys(s.d_s, h.q, s.d_k);
  PanelProduct(PanelOperands<T>{.a = s.d_s,
                                .a_row = kTile,
                                .a_column = 1,
                                .b = h.k + keys_tile * kTile * width,
                                .b_row = width,
                                .c = h.d_q + first * width,
                                .c_row = width,
                                .m = rows,
                                .n = width,
                                .k = keys,
                                .accumulate = keys_tile > 0,
                                .band = diagonal ? Band::kLowerA : Band::kAll,
                                .ahead = next.Take()});  // [queries, keys] [keys, d]
}

// d[row] = scale * x[row] for the rows that exist, or +=. x: [.., padded_dim].
template <typename T>
struct RowSums {
  const T* x;
  T scale;
  int64_t rows;
  bool accumulate;
};

template <typename T>
CONCLAVE_INLINE void PutRows(const AttentionShape& shape, const RowSums<T>& sums, T* d) {
  constexpr int64_t kChunk = 16;
  const int64_t whole = shape.head_dim / kChunk * kChunk;
  const T scale = sums.scale;
  for (int64_t i = 0; i < sums.rows; ++i) {
    const T* __restrict__ from = sums.x + i * shape.padded_dim();
    T* __restrict__ to = d + i * shape.row();
    if (sums.accumulate) {
      for (int64_t j = 0; j < shape.head_dim; ++j) to[j] += scale * from[j];
      continue;
    }
    for (int64_t c = 0; c < whole; c += kChunk) {
      for (int64_t j = 0; j < kChunk; ++j) to[c + j] = scale * from[c + j];
    }
    for (int64_t j = whole; j < shape.head_dim; ++j) to[j] = scale * from[j];
  }
}

template <typename T>
CONCLAVE_INLINE void LoadHead(const AttentionBackwardArgs<T>& args, HeadRows<T>& h, int64_t first_row, int64_t head) {
  const AttentionShape& shape = args.shape;
  const int64_t dim = shape.head_dim, stride = shape.heads * dim;
  const T* qkv = args.qkv + first_row * shape.row();
  const T* out = args.out + first_row * stride + head * dim;
  const T* d_out = args.d_out + first_row * stride + head * dim;
  const auto columns = [&](int64_t column) { return HeadColumns<T>{qkv + column, shape.row(), shape.length, dim}; };
  CopyHead(shape, columns(head * dim), T(1) / std::sqrt(static_cast<T>(dim)), h.q);
  CopyHead(shape, columns(shape.KeyColumn(head)), T(1), h.k);
  h.v = TilesOf(shape, columns(shape.ValueColumn(head)), h.v_space);
  CopyHead(shape, HeadColumns<T>{d_out, stride, shape.length, dim}, T(1), h.d_out);
  for (int64_t i = 0; i < shape.padded_length(); ++i) {
    h.delta[i] = i < shape.length ? LaneSum<T>(dim, Product<T, T>{out + i * stride, d_out + i * stride}) : T(0);
    h.log_sum_exp[i] = i < shape.length ? args.log_sum_exp[(first_row + i) * shape.heads + head] : T(0);
  }
}

template <typename T>
CONCLAVE_INLINE void Head(const AttentionBackwardArgs<T>& args, HeadRows<T>& h, const TileSpace<T>& s, int64_t first_row, int64_t head,
                          NextSequence& next) {
  const AttentionShape& shape = args.shape;
  const int64_t width = shape.padded_dim(), tiles = shape.padded_length() / kTile;
  // Heads that share keys and values add to them; the first of them overwrites.
  const bool more_keys = args.accumulate || (head > 0 && shape.KeyColumn(head) == shape.KeyColumn(head - 1));
  LoadHead(args, h, first_row, head);
  for (int64_t u = 0; u < tiles; ++u) {
    TransposeTile(shape, {h.k, width}, u, s.k_tile);
    TransposeTile(shape, h.v, u, s.v_tile);
    for (int64_t tile = u; tile < tiles; ++tile) TilePair(shape, h, s, tile, u, next);
    T* rows = args.d_qkv + (first_row + u * kTile) * shape.row();
    const int64_t count = std::min(kTile, shape.length - u * kTile);
    PutRows(shape, RowSums<T>{s.d_k, T(1), count, more_keys}, rows + shape.KeyColumn(head));
    PutRows(shape, RowSums<T>{s.d_v, T(1), count, more_keys}, rows + shape.ValueColumn(head));
  }
  const T scale = T(1) / std::sqrt(static_cast<T>(shape.head_dim));
  PutRows(shape, RowSums<T>{h.d_q, scale, shape.length, args.accumulate}, args.d_qkv + first_row * shape.row() + head * shape.head_dim);
}

template <typename T>
CONCLAVE_INLINE void Backward(const AttentionBackwardArgs<T>& args) {
  const AttentionShape& shape = args.shape;
  const int64_t length = shape.padded_length(), width = shape.padded_dim();
  Scratch<T> scratch(args.scratch);
  HeadRows<T> h;
  for (T** rows : {&h.q, &h.k, &h.v_space, &h.d_out, &h.d_q}) *rows = scratch.Take(length * width);
  h.log_sum_exp = scratch.Take(length);
  h.delta = scratch.Take(length);
  TileSpace<T> s;
  for (T** tile : {&s.k_tile, &s.v_tile}) *tile = scratch.Take(shape.head_dim * kTile);
  for (T** tile : {&s.p, &s.d_s}) *tile = scratch.Take(kTile * kTile);
  for (T** tile : {&s.d_k, &s.d_v}) *tile = scratch.Take(kTile * width);
  const int64_t tiles = length / kTile, row = shape.heads * shape.head_dim;
  const auto upcoming = [&](int64_t sequence) {
    NextSequence next(shape.heads * tiles * (tiles + 1) / 2 * 5);
    if (sequence == shape.sequences) return next;
    const int64_t first_row = sequence * shape.length;
    next.Add(args.qkv + first_row * shape.row(), shape.length * shape.row());
    next.Add(args.d_out + first_row * row, shape.length * row);
    next.Add(args.out + first_row * row, shape.length * row);
    next.Add(args.d_qkv + first_row * shape.row(), shape.length * shape.row());
    return next;
  };
  upcoming(0).AskForAll();
  for (int64_t sequence = 0; sequence < shape.sequences; ++sequence) {
    NextSequence next = upcoming(sequence + 1);
    for (int64_t head = 0; head < shape.heads; ++head) Head(args, h, s, sequence * shape.length, head, next);
  }
}

}  // namespace

int64_t AttentionBackwardScratch(const AttentionShape& shape) {
  return shape.padded_length() * (5 * shape.padded_dim() + 2) + 2 * kTile * (shape.head_dim + kTile + shape.padded_dim());
}

CONCLAVE_SIMD void AttentionBackward(const AttentionBackwardArgs<float>& args) { Backward(args); }
CONCLAVE_SIMD void AttentionBackward(const AttentionBackwardArgs<double>& args) { Backward(args); }

}  // namespace conclave::cpu
