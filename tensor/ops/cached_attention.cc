// Causal self-attention of new rows to all rows before them, which are kept.
#include <cstring>

#include "tensor/kernels/attention.h"
#include "tensor/ops/ops.h"

namespace conclave {
namespace {

// rows: [n, q + kv], or where they begin; kept: [n, kv]. Copies the last kv columns of each row from one to the other.
struct KeptColumns {
  std::byte *rows, *kept;
  int64_t n, row_bytes, kept_bytes;
  std::byte* Row(int64_t i) const { return rows + i * row_bytes + (row_bytes - kept_bytes); }
  void Keep() const {
    for (int64_t i = 0; i < n; ++i) std::memcpy(kept + i * kept_bytes, Row(i), kept_bytes);
  }
  // What else is in the rows becomes 0.
  void Restore() const {
    for (int64_t i = 0; i < n; ++i) {
      std::memset(rows + i * row_bytes, 0, row_bytes - kept_bytes);
      std::memcpy(Row(i), kept + i * kept_bytes, kept_bytes);
    }
  }
};

}  // namespace

Var CachedAttention(Tape& tape, Var qkv, const AttentionOptions& options, std::span<const Tensor> cache) {
  const Tensor in = tape.value(qkv);
  const int64_t sequences = static_cast<int64_t>(cache.size()), columns = options.heads + 2 * options.kv_heads;
  CHECK_EQ(static_cast<int64_t>(options.first.size()), sequences);
  CHECK(in.dim(1) % columns == 0 && (sequences > 0 ? in.dim(0) % sequences == 0 : in.dim(0) == 0)) << in.shape().ToString();
  const int64_t added = sequences > 0 ? in.dim(0) / sequences : 0, dim = in.dim(1) / columns;
  const Tensor out = tape.arena().New({in.dim(0), options.heads * dim}, in.dtype());
  for (int64_t s = 0; s < sequences && added > 0; ++s) {
    const int64_t first = options.first[s];
    CHECK(first + added <= cache[s].dim(0) && cache[s].dim(1) == 2 * options.kv_heads * dim) << cache[s].shape().ToString();
    const Tensor fresh = in.Slice(s * added, added);
    const int64_t row_bytes = in.dim(1) * SizeOf(in.dtype()), kept_bytes = cache[s].dim(1) * SizeOf(in.dtype());
    KeptColumns{fresh.AsBytes().data(), cache[s].AsBytes().data() + first * kept_bytes, added, row_bytes, kept_bytes}.Keep();
    const cpu::AttentionShape shape{1, first + added, options.heads, options.kv_heads, dim};
    const Arena::Mark mark = tape.arena().Here();
    const Tensor qkv_rows = tape.arena().New({first + added, in.dim(1)}, in.dtype());  // earlier queries are not asked again
    KeptColumns{qkv_rows.AsBytes().data(), cache[s].AsBytes().data(), first, row_bytes, kept_bytes}.Restore();
    qkv_rows.Slice(first, added).CopyFrom(fresh);
    const Tensor scratch = tape.arena().New({cpu::AttentionForwardScratch(shape)}, in.dtype());
    const Tensor log_sum_exp = tape.arena().New({added, options.heads}, in.dtype());
    DispatchFloat(in.dtype(), [&](auto t) {
      using T = decltype(t);
      cpu::AttentionForward(cpu::AttentionForwardArgs<T>{.shape = shape,
                                                         .qkv = qkv_rows.data<T>(),
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
