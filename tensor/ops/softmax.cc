// Softmax, LogSumExp, NormalizeRows: over the last dim of [n, h].
#include "tensor/ops/ops.h"

#include "base/trace.h"
#include "tensor/kernels/softmax.h"

namespace conclave {
namespace {

template <typename T>
cpu::RowsGradient<T> GradientArguments(Tape& tape, Var x, Var y) {
  const Tensor out = tape.value(y);
  return {out.data<T>(), tape.gradient(y).data<T>(), tape.gradient(x).data<T>(), out.dim(0), out.dim(1)};
}

}  // namespace

Var Softmax(Tape& tape, Var x) {
  const TraceSpan span("softmax");
  const Tensor in = tape.value(x);
  CHECK_EQ(in.shape().dims(), 2);
  const Tensor out = tape.arena().New(in.shape(), in.dtype());
  DispatchFloat(in.dtype(), [&](auto t) {
    using T = decltype(t);
    cpu::SoftmaxForward(in.data<T>(), out.data<T>(), in.dim(0), in.dim(1));
  });
  const Var y = tape.Record(out, {x});
  tape.OnBackward(y, [x, y](Tape& tape) {
    const TraceSpan span("softmax backward");
    DispatchFloat(tape.value(x).dtype(), [&](auto t) { cpu::SoftmaxBackward(GradientArguments<decltype(t)>(tape, x, y)); });
  });
  return y;
}

Var NormalizeRows(Tape& tape, Var x) {
  const Tensor in = tape.value(x);
  CHECK_EQ(in.shape().dims(), 2);
  const Tensor out = tape.arena().New(in.shape(), in.dtype());
  const Tensor scale = tape.arena().New({in.dim(0)}, in.dtype());
  DispatchFloat(in.dtype(), [&](auto t) {
    using T = decltype(t);
    cpu::NormalizeForward(in.data<T>(), out.data<T>(), scale.data<T>(), in.dim(0), in.dim(1));
  });
  const Var y = tape.Record(out, {x});
  tape.OnBackward(y, [x, y, scale](Tape& tape) {
    DispatchFloat(scale.dtype(), [&](auto t) {
      using T = decltype(t);
      cpu::NormalizeBackward(GradientArguments<T>(tape, x, y), scale.data<T>());
    });
  });
  return y;
}

Var LogSumExp(Tape& tape, Var x) {
  const Tensor in = tape.value(x);
  CHECK_EQ(in.shape().dims(), 2);
  const int64_t n = in.dim(0), h = in.dim(1);
  const Tensor out = tape.arena().New({n}, in.dtype());
  const Tensor statistics = tape.arena().New({n, 2}, in.dtype());
  const Arena::Mark mark = tape.arena().Here();
  double* sums = tape.arena().New({n}, DType::kF64).data<double>();
  DispatchFloat(in.dtype(), [&](auto t) {
    using T = decltype(t);
    cpu::LogSumExpForward(in.data<T>(), statistics.data<T>(), sums, n, h);
    for (int64_t i = 0; i < n; ++i) out.data<T>()[i] = static_cast<T>(sums[i]);
  });
  tape.arena().Rewind(mark);
  const Var y = tape.Record(out, {x});
  tape.OnBackward(y, [x, y, statistics, n, h](Tape& tape) {
    DispatchFloat(statistics.dtype(), [&](auto t) {
      using T = decltype(t);
      const cpu::LogSumExpGradient<T> args{tape.value(x).data<T>(), statistics.data<T>(), tape.gradient(x).data<T>(), h};
      const T* dy = tape.gradient(y).data<T>();
      for (int64_t i = 0; i < n; ++i) cpu::LogSumExpBackwardRow(args, i, dy[i]);
    });
  });
  return y;
}

}  // namespace conclave
