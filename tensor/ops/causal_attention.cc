// Causal self-attention over equal sequences.
#include "base/trace.h"
#include "tensor/kernels/attention.h"
#include "tensor/ops/ops.h"

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
  });
  return y;
}

}  // namespace conclave
