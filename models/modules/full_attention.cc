#include "models/modules/full_attention.h"

#include <cmath>

namespace conclave {
namespace {

struct FullShape {
  int64_t sequences, length, heads, kv_heads, head_dim;
  int64_t columns() const { return heads + 2 * kv_heads; }
};

// Rows of qkv as [sequences * length * columns, head_dim] that make [sequences, heads, length, head_dim] of a part whose head h is column
// first + h * count / heads.
Tensor HeadRowsOf(Arena& arena, const FullShape& s, int64_t first, int64_t count) {
  const Tensor rows = arena.New({s.sequences * s.heads * s.length}, DType::kI32);
  int32_t* row = rows.data<int32_t>();
  for (int64_t sequence = 0; sequence < s.sequences; ++sequence) {
    for (int64_t h = 0; h < s.heads; ++h) {
      for (int64_t t = 0; t < s.length; ++t) {
        *row++ = static_cast<int32_t>((sequence * s.length + t) * s.columns() + first + h * count / s.heads);
      }
    }
  }
  return rows;
}

// The way back: [sequences, heads, length] -> [sequences, length, heads].
Tensor PositionRowsOf(Arena& arena, const FullShape& s) {
  const Tensor rows = arena.New({s.sequences * s.length * s.heads}, DType::kI32);
  int32_t* row = rows.data<int32_t>();
  for (int64_t sequence = 0; sequence < s.sequences; ++sequence) {
    for (int64_t t = 0; t < s.length; ++t) {
      for (int64_t h = 0; h < s.heads; ++h) *row++ = static_cast<int32_t>((sequence * s.heads + h) * s.length + t);
    }
  }
  return rows;
}

}  // namespace

Var FullAttention(Tape& tape, Var qkv, const AttentionOptions& options) {
  const Tensor in = tape.value(qkv);
  const int64_t columns = options.heads + 2 * options.kv_heads;
  CHECK(options.sequences > 0 && in.dim(0) % options.sequences == 0 && in.dim(1) % columns == 0)
      << in.shape().ToString() << " in " << options.sequences << " sequences";
  const FullShape s{options.sequences, in.dim(0) / options.sequences, options.heads, options.kv_heads, in.dim(1) / columns};
  const int64_t groups = s.sequences * s.heads;
  const Var rows = Reshape(tape, qkv, {in.dim(0) * columns, s.head_dim});
  const auto part = [&](int64_t first, int64_t count) {
    return Reshape(tape, GatherRows(tape, rows, HeadRowsOf(tape.arena(), s, first, count)), {groups, s.length, s.head_dim});
  };
  const Var q = part(0, s.heads), k = part(s.heads, s.kv_heads), v = part(s.heads + s.kv_heads, s.kv_heads);
  const Var scores = Affine(tape, MatMul(tape, q, k, {.transpose_b = true}), 1 / std::sqrt(static_cast<double>(s.head_dim)), 0);
  const Var weights = Softmax(tape, Reshape(tape, scores, {groups * s.length, s.length}));
  const Var mixed = MatMul(tape, Reshape(tape, weights, {groups, s.length, s.length}), v);
  const Var back = GatherRows(tape, Reshape(tape, mixed, {groups * s.length, s.head_dim}), PositionRowsOf(tape.arena(), s));
  return Reshape(tape, back, {in.dim(0), s.heads * s.head_dim});
}

}  // namespace conclave
