// Rotary position embedding of q and k. Source: Su et al., 2021, RoFormer.
#include <algorithm>

#include "base/trace.h"
#include "tensor/kernels/rotary.h"
#include "tensor/ops/ops.h"

namespace conclave {

// dx += the rotation back of dy (the Jacobian is orthogonal).
Var Rotary(Tape& tape, Var qkv, const AttentionOptions& options, double theta) {
  const TraceSpan span("rotary");
  const Tensor in = tape.value(qkv);
  const int64_t columns = options.heads + 2 * options.kv_heads;
  CHECK(in.shape().dims() == 2 && options.sequences > 0 && in.dim(0) % options.sequences == 0)
      << in.shape().ToString() << " in " << options.sequences << " sequences";
  CHECK(in.dim(1) % (2 * columns) == 0) << in.shape().ToString() << " in " << columns << " heads of an even width";
  const int64_t n = in.dim(0), length = n / options.sequences, half = in.dim(1) / columns / 2;
  const int64_t rotated = int64_t{options.heads + options.kv_heads} * 2 * half;
  const int64_t last = options.first.empty() ? 0 : std::ranges::max(options.first);
  CHECK(options.first.empty() || static_cast<int64_t>(options.first.size()) == options.sequences);
  const Tensor out = tape.arena().New(in.shape(), in.dtype()), table = tape.arena().New({last + length, 2, half}, in.dtype());
  DispatchFloat(in.dtype(), [&](auto t) {
    using T = decltype(t);
    cpu::RotaryTable(theta, last + length, half, table.data<T>());
    const cpu::RotaryArgs<T> all{in.data<T>(), out.data<T>(), table.data<T>(), n, in.dim(1), rotated, half, length};
    if (options.first.empty()) cpu::Rotate(all);
    for (size_t s = 0; s < options.first.size(); ++s) {
      const int64_t begin = static_cast<int64_t>(s) * length * in.dim(1);
      cpu::Rotate(cpu::RotaryArgs<T>{all.x + begin, all.y + begin, all.table + options.first[s] * 2 * half, length, in.dim(1), rotated,
                                     half, length});
    }
  });
  const Var y = tape.Record(out, {qkv});
  CHECK(options.first.empty() || !tape.wants_gradient(y)) << "only whole sequences are differentiated";
  tape.OnBackward(y, [qkv, y, table, rotated](Tape& tape) {
    const TraceSpan span("rotary backward");
    const Tensor dy = tape.gradient(y), dx = tape.gradient(qkv);
    DispatchFloat(dy.dtype(), [&](auto t) {
      using T = decltype(t);
      cpu::Rotate(cpu::RotaryArgs<T>{dy.data<T>(), dx.data<T>(), table.data<T>(), dy.dim(0), dy.dim(1), rotated, table.dim(2), table.dim(0),
                                     true, true});
    });
  });
  return y;
}

}  // namespace conclave
