// LayerNorm and RmsNorm.
#include "tensor/ops/ops.h"

#include "base/trace.h"
#include "tensor/kernels/norm.h"

namespace conclave {
namespace {

template <typename T>
T* GradientOrNull(Tape& tape, Var v) {
  return tape.wants_gradient(v) ? tape.gradient(v).data<T>() : nullptr;
}

struct NormVars {
  Var x, gain, bias;
};

Var Norm(Tape& tape, cpu::NormKind kind, const NormVars& in, double epsilon) {
  const TraceSpan span("norm");
  const Tensor x = tape.value(in.x), gain = tape.value(in.gain);
  const Tensor bias = in.bias.defined() ? tape.value(in.bias) : Tensor();
  CHECK_EQ(x.shape().dims(), 2);
  const int64_t n = x.dim(0), h = x.dim(1);
  CHECK(h > 0 && gain.elements() == h && (!in.bias.defined() || bias.elements() == h))
      << x.shape().ToString() << ' ' << gain.shape().ToString();
  const Tensor out = tape.arena().New(x.shape(), x.dtype());
  const Tensor statistics = tape.arena().New({n, 2}, x.dtype());
  DispatchFloat(x.dtype(), [&](auto t) {
    using T = decltype(t);
    const T* shift = in.bias.defined() ? bias.data<T>() : nullptr;
    cpu::NormForward(kind, {x.data<T>(), gain.data<T>(), statistics.data<T>(), n, h}, shift, epsilon, out.data<T>());
  });
  const Var y = tape.Record(out, {in.x, in.gain, in.bias});
  tape.OnBackward(y, [in, y, kind, statistics, n, h](Tape& tape) {
    const TraceSpan span("norm backward");
    const Tensor x = tape.value(in.x), gain = tape.value(in.gain), dy = tape.gradient(y);
    DispatchFloat(x.dtype(), [&](auto t) {
      using T = decltype(t);
      cpu::NormBackward(kind, {x.data<T>(), gain.data<T>(), statistics.data<T>(), n, h}, dy.data<T>(),
                        {GradientOrNull<T>(tape, in.x), GradientOrNull<T>(tape, in.gain), GradientOrNull<T>(tape, in.bias)});
    });
  });
  return y;
}

}  // namespace

Var LayerNorm(Tape& tape, Var x, Var gain, Var bias, double epsilon) { return Norm(tape, cpu::NormKind::kLayer, {x, gain, bias}, epsilon); }

Var RmsNorm(Tape& tape, Var x, Var gain, double epsilon) { return Norm(tape, cpu::NormKind::kRms, {x, gain, {}}, epsilon); }

}  // namespace conclave
