// Causal self-attention over equal sequences.
#include <algorithm>
#include <initializer_list>

#include "base/trace.h"
#include "tensor/kernels/attention.h"
#include "tensor/ops/ops.h"
#include "tensor/product_tally.h"

namespace conclave {
namespace {

cpu::AttentionShape ShapeOf(const Tensor& qkv, const AttentionOptions& options) {
  const int64_t columns = options.heads + 2 * options.kv_heads;
  CHECK(qkv.shape().dims() == 2 && options.sequences > 0 && qkv.dim(0) % options.sequences == 0)
      << qkv.shape().ToString() << " in " << options.sequences << " sequences";
  CHECK(options.kv_heads > 0 && options.heads >= options.kv_heads && qkv.dim(1) % columns == 0)
      << qkv.shape().ToString() << " in " << options.heads << " + 2 * " << options.kv_heads << " heads";
  return {options.sequences, qkv.dim(0) / options.sequences, options.heads, options.kv_heads, qkv.dim(1) / columns};
}

// Adds the products of attention that a causal mask leaves, as whole tiles: for each of `kinds` one query by key by head_dim product per
// head. Their time is not taken: what lies around a tile's product takes as long as the product.
void TallyTiles(const cpu::AttentionShape& shape, std::initializer_list<ProductKind> kinds) {
  ProductTally* const tally = ProductTally::OfThread();
  if (tally == nullptr) return;
  const int64_t tile = cpu::kAttentionTile, pairs = shape.length * (shape.length + 1) / 2;
  const int64_t rows = shape.sequences * shape.heads * pairs / tile;
  for (const ProductKind kind : kinds) tally->Add({kind, shape.head_dim, tile}, {std::max<int64_t>(rows / tile, 1), rows, 0});
}

}  // namespace

Var CausalAttention(Tape& tape, Var qkv, const AttentionOptions& options) {
  const TraceSpan span("attention");
  const Tensor in = tape.value(qkv);
  const cpu::AttentionShape shape = ShapeOf(in, options);
  const Tensor out = tape.arena().New({in.dim(0), shape.heads * shape.head_dim}, in.dtype());
  const Tensor log_sum_exp = tape.arena().New({in.dim(0), shape.heads}, in.dtype());
  const Arena::Mark mark = tape.arena().Here();
  const Tensor scratch = tape.arena().New({cpu::AttentionForwardScratch(shape)}, in.dtype());
  DispatchFloat(in.dtype(), [&](auto t) {
    using T = decltype(t);
    cpu::AttentionForward(cpu::AttentionForwardArgs<T>{shape, in.data<T>(), out.data<T>(), log_sum_exp.data<T>(), scratch.data<T>()});
  });
  tape.arena().Rewind(mark);
  TallyTiles(shape, {ProductKind::kNT, ProductKind::kNN});  // scores, sums of values

  const Var y = tape.Record(out, {qkv});
  tape.OnBackward(y, [qkv, y, log_sum_exp, shape](Tape& tape) {
    const TraceSpan span("attention backward");
    const Tensor in = tape.value(qkv), out = tape.value(y), d_out = tape.gradient(y);
    const Tape::GradientTarget d_in = tape.gradient_target(qkv);
    const Arena::Mark mark = tape.arena().Here();
    const Tensor scratch = tape.arena().New({cpu::AttentionBackwardScratch(shape)}, in.dtype());
    DispatchFloat(in.dtype(), [&](auto t) {
      using T = decltype(t);
      cpu::AttentionBackward(cpu::AttentionBackwardArgs<T>{shape, in.data<T>(), out.data<T>(), log_sum_exp.data<T>(), d_out.data<T>(),
                                                           d_in.tensor.data<T>(), scratch.data<T>(), d_in.accumulate});
    });
    tape.arena().Rewind(mark);
    // Gradients of the probabilities, of queries, of keys and of values; that the scores are made again is not counted.
    TallyTiles(shape, {ProductKind::kNT, ProductKind::kNN, ProductKind::kTN, ProductKind::kTN});
  });
  return y;
}

}  // namespace conclave
