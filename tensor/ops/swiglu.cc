#include "tensor/ops/ops.h"

#include "base/trace.h"
#include "tensor/kernels/swiglu.h"

namespace conclave {

Var SwiGlu(Tape& tape, Var gate_up) {
  const TraceSpan span("swiglu");
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
    const TraceSpan span("swiglu backward");
    const Tensor in = tape.value(gate_up), dy = tape.gradient(y);
    const Tape::GradientTarget dx = tape.gradient_target(gate_up);
    DispatchFloat(in.dtype(), [&](auto t) {
      using T = decltype(t);
      cpu::SwiGluBackward(cpu::SwiGluGradient<T>{in.data<T>(), dy.data<T>(), dx.tensor.data<T>(), n, f, dx.accumulate});
    });
  });
  return y;
}

}  // namespace conclave
