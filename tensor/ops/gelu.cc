#include "tensor/ops/ops.h"

#include "base/trace.h"
#include "tensor/kernels/gelu.h"

namespace conclave {

Var Gelu(Tape& tape, Var x) {
  const TraceSpan span("gelu");
  const Tensor in = tape.value(x);
  const Tensor out = tape.arena().New(in.shape(), in.dtype());
  DispatchFloat(in.dtype(), [&](auto t) {
    using T = decltype(t);
    Stream stream;
    cpu::GeluForward(in.data<T>(), out.data<T>(), in.elements(), stream);
  });
  const Var y = tape.Record(out, {x});
  tape.OnBackward(y, [x, y](Tape& tape) {
    const TraceSpan span("gelu backward");
    const Tensor in = tape.value(x), dy = tape.gradient(y);
    const bool in_place = tape.TakeGradient(y, x);
    const Tensor dx = tape.gradient(x);
    DispatchFloat(in.dtype(), [&](auto t) {
      using T = decltype(t);
      if (in_place) return cpu::GeluBackwardInPlace(in.data<T>(), dx.data<T>(), in.elements());
      Stream stream;
      cpu::GeluBackward(in.data<T>(), dy.data<T>(), dx.data<T>(), in.elements(), stream);
    });
  });
  return y;
}

}  // namespace conclave
