#include "tensor/ops/ops.h"

#include "tensor/kernels/gelu.h"

namespace conclave {

Var Gelu(Tape& tape, Var x) {
  const Tensor in = tape.value(x);
  const Tensor out = tape.arena().New(in.shape(), in.dtype());
  DispatchFloat(in.dtype(), [&](auto t) {
    using T = decltype(t);
    Stream stream;
    cpu::GeluForward(in.data<T>(), out.data<T>(), in.elements(), stream);
  });
  const Var y = tape.Record(out, {x});
  tape.OnBackward(y, [x, y](Tape& tape) {
    const Tensor in = tape.value(x), dy = tape.gradient(y), dx = tape.gradient(x);
    DispatchFloat(in.dtype(), [&](auto t) {
      using T = decltype(t);
      Stream stream;
      cpu::GeluBackward(in.data<T>(), dy.data<T>(), dx.data<T>(), in.elements(), stream);
    });
  });
  return y;
}

}  // namespace conclave
