// The differentiable operations. One .cc a op (or a family of the same shape). Every op: output buffers arrive uninitialised, backward
// ACCUMULATES into the gradients of its inputs, zero rows are legal, kernels are templates over float and double. A shape mismatch is our
// own bug (CHECK): configs are validated long before. Index tensors (ids, rows, targets) must live as long as the recording. Shapes: n rows
// (tokens), h width; "scalar" results are f64 of shape [1] whatever the inputs' dtype.
#ifndef CONCLAVE_TENSOR_OPS_OPS_H_
#define CONCLAVE_TENSOR_OPS_OPS_H_

#include <optional>
#include <span>

#include "tensor/tape.h"

namespace conclave {

// ---- products (tensor/products.h) ----

// y = x w^T + bias. x: [n, in], w: [out, in], bias: [out] or none; returns [n, out]. Row i of y depends on row i of x only, bit for bit.
// products: unset: the tape's.
Var Linear(Tape& tape, Var x, Var w, Var bias = {}, std::optional<ProductPrecision> products = {});

// Rows grouped by expert, and inside an expert by lane (source rank): rows[e * lanes + l] rows each, in that order; they sum to dim 0 of x.
struct RowGroups {
  std::span<const int64_t> rows;  // [experts * lanes]; must live as long as the recording (arena)
  int experts = 0;
  int lanes = 1;
};
// Row r of group e goes through w[e] (and bias[e]). x: [m, in], w[e]: [out, in], bias[e]: [out], bias empty for none; returns [m, out].
// Rows are bitwise independent of each other. The weight gradient of (expert, lane) is formed from that lane's rows alone and accumulated
// into lane `l` of the parameter's gradient slot (into lane 0, all rows in one product, where the slot has one lane).
Var GroupedLinear(Tape& tape, Var x, std::span<const Var> w, std::span<const Var> bias, const RowGroups& groups);

// An MLP an expert, with the bits of GroupedLinear, the activation, GroupedLinear, in one op: row r of group e becomes
// down[e] act(up[e] x[r] + up_bias[e]) + down_bias[e]. up[e]: [f, in] (SwiGLU: [2 f, in], gate before up), down[e]: [out, f]; biases empty
// for none. Keeps the values before the activation alone. Gradients of weights as GroupedLinear's; those of biases are summed by pieces of
// 1,024 rows.
enum class Activation { kGelu, kSwiGlu };
struct MlpWeights {
  std::span<const Var> up, up_bias, down, down_bias;  // [experts]
};
Var GroupedMlp(Tape& tape, Var x, const MlpWeights& weights, Activation activation, const RowGroups& groups);

// c[b] = op(a[b]) op(b[b]). a: [batch, m, k] (or [batch, k, m] if transpose_a), b: [batch, k, n] (or [batch, n, k]); 2-D inputs are a batch
// of 1. Returns [batch, m, n], 2-D for 2-D.
struct MatMulOptions {
  bool transpose_a = false;
  bool transpose_b = false;
};
Var MatMul(Tape& tape, Var a, Var b, const MatMulOptions& options = {});

// ---- attention ----

// Causal self-attention over `sequences` equal sequences. qkv: [sequences * length, (heads + 2 * kv_heads) * head_dim] = q | k | v, returns
// [sequences * length, heads * head_dim]. Scale 1/sqrt(head_dim). Memory linear in length (softmax statistics only). Query heads share kv
// head floor(head * kv_heads / heads).
struct AttentionOptions {
  int64_t sequences = 1;
  int heads = 1;
  int kv_heads = 1;
  std::span<const int64_t> first;  // by sequence: the position of its first row; empty: 0
};
Var CausalAttention(Tape& tape, Var qkv, const AttentionOptions& options);

// The same for sequences that go on: of sequence s, k | v of options.first[s] earlier rows are the first rows of cache[s], [capacity,
// columns of k and v], to which those of the new ones are added. Results are those that CausalAttention gives these rows in the whole
// sequence, bit for bit. Forward only.
Var CachedAttention(Tape& tape, Var qkv, const AttentionOptions& options, std::span<const Tensor> cache);

// Rotary position embedding of the q and k parts of qkv (same layout), pairs (i, i + head_dim / 2), position = row % length + first.
// Source: Su et al., 2021.
Var Rotary(Tape& tape, Var qkv, const AttentionOptions& options, double theta);

// ---- rows ----

// table: [v, h], ids: i32 [n]; returns [n, h]. Gradient rows are added in row order.
Var Embedding(Tape& tape, Var table, const Tensor& ids);
// x: [n, h], gain, bias: [h]; bias may be none.
Var LayerNorm(Tape& tape, Var x, Var gain, Var bias, double epsilon = 1e-5);
// x: [n, h], gain: [h].
Var RmsNorm(Tape& tape, Var x, Var gain, double epsilon = 1e-5);
// Over the last dim of [n, h].
Var Softmax(Tape& tape, Var x);
// [n, h] -> [n].
Var LogSumExp(Tape& tape, Var x);
// x: [n, h], ids: i32 [n, k]; returns [n, k], y[i, j] = x[i, ids[i, j]].
Var GatherColumns(Tape& tape, Var x, const Tensor& ids);
// x / sum of its row. [n, k]. A sum of 0 gives infinities or NaN.
Var NormalizeRows(Tape& tape, Var x);
// rows: i32 [m]; returns [m, h], y[i] = x[rows[i]]; a permutation is a special case. -1 gives zeros.
Var GatherRows(Tape& tape, Var x, const Tensor& rows);
// x: [m, h], returns [n, h], y[rows[i]] += x[i] in order of i; -1 drops the row.
Var ScatterAddRows(Tape& tape, Var x, const Tensor& rows, int64_t n);

// The k largest of each row in descending order; equal scores: the lower index first; NaN counts as less than every number. Not
// differentiable. scores: [n, e] f32 or f64, ids: i32 [n, k] (filled), k <= e.
void TopK(const Tensor& scores, int k, const Tensor& ids);

// ---- losses and reductions ----

// Sum over rows of -log softmax(logits)[target], in f64; rows with target -1 count nothing. logits: [n, v], targets: i32 [n]. Returns a
// scalar.
Var CrossEntropy(Tape& tape, Var logits, const Tensor& targets);
// CrossEntropy(Linear(x, w), targets), bit for bit, by pieces of rows: no more than a piece of the logits exists at a time. Where gradients
// are wanted they are formed for a loss of weight 1 while a piece is in the cache, and multiplied by the loss's gradient later. x: [n, h],
// w: [v, h], targets: i32 [n]. Returns a scalar. Memory: gradients of x and w, beside a parameter's own, and at most 1 MiB of logits (64
// rows where that is more).
Var LinearCrossEntropy(Tape& tape, Var x, Var w, const Tensor& targets);
Var SumAll(Tape& tape, Var x);      // scalar
Var Dot(Tape& tape, Var x, Var y);  // sum of x * y, same shape; scalar. Accumulated in f64
Var SumLast(Tape& tape, Var x);     // [.., h] -> [..]
Var SumFirst(Tape& tape, Var x);    // [n, h] -> [h]

// ---- elementwise ----

// Broadcasting: y has x's shape, or is a suffix of it (a row for [n, h]), or has one element. The result has x's shape
// and dtype; a y of one element may have another float dtype (losses are f64).
Var Add(Tape& tape, Var x, Var y);
// x + y of one shape in the memory of y, whose value is gone: for a y that is fresh from an op whose backward does not read its result, and
// that nobody else reads.
Var AddInto(Tape& tape, Var x, Var y);
Var Sub(Tape& tape, Var x, Var y);
Var Mul(Tape& tape, Var x, Var y);
Var Div(Tape& tape, Var x, Var y);
Var Affine(Tape& tape, Var x, double scale, double shift);  // scale * x + shift
Var Gelu(Tape& tape, Var x);                                // tanh form
Var SwiGlu(Tape& tape, Var gate_up);                        // [n, 2 f] = gate | up -> silu(gate) * up, [n, f]
Var Exp(Tape& tape, Var x);
Var Log(Tape& tape, Var x);
Var Tanh(Tape& tape, Var x);
Var Sigmoid(Tape& tape, Var x);
Var Softplus(Tape& tape, Var x);
Var Square(Tape& tape, Var x);

// ---- shapes ----

Var Reshape(Tape& tape, Var x, const Shape& shape);                 // no copy
Var ConcatColumns(Tape& tape, std::span<const Var> parts);          // [n, a], [n, b] -> [n, a + b]
Var SliceColumns(Tape& tape, Var x, int64_t begin, int64_t count);  // [n, h] -> [n, count]
Var SliceRows(Tape& tape, Var x, int64_t begin, int64_t count);     // no copy

}  // namespace conclave

#endif  // CONCLAVE_TENSOR_OPS_OPS_H_
