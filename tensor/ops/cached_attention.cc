// Causal self-attention of new rows to all rows before them, which are kept.
#include <cstring>

#include "tensor/kernels/attention.h"
#include "tensor/ops/ops.h"

namespace conclave {

Var CachedAttention(Tape& tape, Var qkv, const AttentionOptions& options, std::span<const Tensor> cache) {
  const Tensor in = tape.value(qkv);
  const int64_t sequences = static_cast<int64_t>(cache.size()), columns = options.heads + 2 * options.kv_heads;
  CHECK_EQ(static_cast<int64_t>(options.first.size()), sequences);
  CHECK(in.dim(1) % columns == 0 && (sequences > 0 ? in.dim(0) % sequences == 0 : in.dim(0) == 0)) << in.shape().ToString();
  const int64_t added = sequences > 0 ? in.dim(0) / sequences : 0, dim = in.dim(1) / columns;
  const Tensor out = tape.arena().New({in.dim(0), options.heads * dim}, in.dtype());
  for (int64_t s = 0; s < sequences && added > 0; ++s) {
    const int64_t first = options.first[s];
    CHECK_LE(first + added, cache[s].dim(0));
    cache[s].Slice(first, added).CopyFrom(in.Slice(s * added, added));
    const cpu::AttentionShape shape{1, first + added, options.heads, options.kv_heads, dim};
    const Arena::Mark mark = tape.arena().Here();
    const Tensor scratch = tape.arena().New({cpu::AttentionForwardScratch(shape)}, in.dtype());
    const Tensor log_sum_exp = tape.arena().New({added, options.heads}, in.dtype());
    DispatchFloat(in.dtype(), [&](auto t) {
      using T = decltype(t);
      cpu::AttentionForward(cpu::AttentionForwardArgs<T>{.shape = shape,
                                                         .qkv = cache[s].data<T>(),
                                                         .out = out.data<T>() + s * added * options.heads * dim,
                                                         .log_sum_exp = log_sum_exp.data<T>(),
                                                         .scratch = scratch.data<T>(),
                                                         .first = first});
    });
    tape.arena().Rewind(mark);
  }
  const Var y = tape.Record(out, {qkv});
  CHECK(!tape.wants_gradient(y)) << "only whole sequences are differentiated";
  return y;
}

}  // namespace conclave
