#include "tensor/ops/ops.h"

#include "tensor/kernels/swiglu.h"

namespace conclave {

Var SwiGlu(Tape& tape, Var gate_up) {
  const Tensor in = tape.value(gate_up);
  CHECK(in.shape().dims() == 2 && in.dim(1) % 2 == 0) << in.shape().ToString();
  const int64_t n = in.dim(0), f = in.dim(1) / 2;
  const Tensor out = tape.arena().New({n, f}, in.dtype());
  DispatchFloat(in.dtype(), [&](auto t) {
    using T = decltype(t);
    cpu::SwiGluForward(in.data<T>(), out.data<T>(), n, f);
  });
  const Var y = tape.Record(out, {gate_up});
  tape.OnBackward(y, [gate_up, y, n, f](Tape& tape) {
    const Tensor in = tape.value(gate_up), dy = tape.gradient(y), dx = tape.gradient(gate_up);
    DispatchFloat(in.dtype(), [&](auto t) {
      using T = decltype(t);
      cpu::SwiGluBackward(in.data<T>(), dy.data<T>(), dx.data<T>(), n, f);
    });
  });
  return y;
}

}  // namespace conclave
