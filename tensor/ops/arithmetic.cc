// Add, Sub, Mul, Div with the second argument broadcast over leading dims.
#include "tensor/ops/ops.h"

#include "base/trace.h"
#include "tensor/kernels/broadcast.h"
#include "tensor/kernels/linear_rows.h"

namespace conclave {
namespace {

// How y is repeated over x: [rows, width] beside [width], or beside one element.
struct Fit {
  int64_t rows = 0, width = 0;
  bool scalar = false;
};

Fit FitSuffix(const Tensor& x, const Tensor& y) {
  const int64_t width = y.elements();
  if (width == 1) return {.rows = 1, .width = x.elements(), .scalar = true};
  CHECK(x.dtype() == y.dtype()) << NameOf(x.dtype()) << " and " << NameOf(y.dtype());
  const int skipped = x.shape().dims() - y.shape().dims();
  CHECK_GE(skipped, 0) << x.shape().ToString() << " and " << y.shape().ToString();
  int64_t rows = 1;
  for (int i = 0; i < skipped; ++i) rows *= x.dim(i);
  for (int i = 0; i < y.shape().dims(); ++i)
    CHECK_EQ(x.dim(i + skipped), y.dim(i)) << x.shape().ToString() << " and " << y.shape().ToString();
  return {.rows = rows, .width = width};
}

// A scalar argument may have another float dtype than x (losses are f64): `converted` holds it in x's.
template <typename T>
cpu::Broadcast<T> Arguments(const Tensor& x, const Tensor& y, const Fit& fit, T* converted) {
  const T* data = static_cast<const T*>(y.raw());
  if (fit.scalar) {
    *converted = DispatchFloat(y.dtype(), [&](auto u) { return static_cast<T>(*y.data<decltype(u)>()); });
    data = converted;
  }
  return {x.data<T>(), data, fit.rows, fit.width, fit.scalar};
}

template <typename T>
void BackwardY(cpu::BinaryOp op, const cpu::Broadcast<T>& args, const T* dz, const Tensor& dy) {
  if (!args.scalar) return cpu::BroadcastBackwardY(op, args, dz, dy.data<T>());
  const double sum = cpu::BroadcastScalarGradient(op, args, dz);
  DispatchFloat(dy.dtype(), [&](auto u) { *dy.data<decltype(u)>() += static_cast<decltype(u)>(sum); });
}

// An argument of a sum that nothing has flowed into yet gets dz as it is: a copy instead of zeros and an addition. False: nothing was done.
bool CopyGradient(Tape& tape, cpu::BinaryOp op, Var argument, const Tensor& dz) {
  if (op != cpu::BinaryOp::kAdd || tape.value(argument).elements() != dz.elements() || tape.value(argument).dtype() != dz.dtype())
    return false;
  const Tape::GradientTarget target = tape.gradient_target(argument);
  if (!target.accumulate) target.tensor.CopyFrom(dz);
  return !target.accumulate;
}

// Records `out`, which holds the result; in y's memory if it is that of y's value.
Var RecordBinary(Tape& tape, Var x, Var y, cpu::BinaryOp op, const Tensor& out) {
  const Fit fit = FitSuffix(tape.value(x), tape.value(y));
  const bool into = out.raw() == tape.value(y).raw();
  const Var z = tape.Record(out, {x, y});
  tape.OnBackward(z, [x, y, z, op, fit, into](Tape& tape) {
    const TraceSpan span("arithmetic backward");
    const Tensor a = tape.value(x), b = tape.value(y), dz = tape.gradient(z);
    DispatchFloat(a.dtype(), [&](auto t) {
      using T = decltype(t);
      T scalar{};
      const cpu::Broadcast<T> args = Arguments<T>(a, b, fit, &scalar);
      const bool taken = into && tape.wants_gradient(x) && tape.TakeGradient(z, x), lent = taken && tape.LendGradient(x, y);
      if (tape.wants_gradient(y) && !lent && !CopyGradient(tape, op, y, dz)) BackwardY(op, args, dz.data<T>(), tape.gradient(y));
      if (taken || !tape.wants_gradient(x) || (op == cpu::BinaryOp::kAdd && tape.TakeGradient(z, x))) return;
      cpu::BroadcastBackwardX(op, args, dz.data<T>(), tape.gradient(x).data<T>());
    });
  });
  return z;
}

Var Binary(Tape& tape, Var x, Var y, cpu::BinaryOp op) {
  const TraceSpan span("arithmetic");
  const Tensor a = tape.value(x), b = tape.value(y);
  const Fit fit = FitSuffix(a, b);
  const Tensor out = tape.arena().New(a.shape(), a.dtype());
  DispatchFloat(a.dtype(), [&](auto t) {
    using T = decltype(t);
    T scalar{};
    cpu::BroadcastForward(op, Arguments<T>(a, b, fit, &scalar), out.data<T>());
  });
  return RecordBinary(tape, x, y, op, out);
}

}  // namespace

Var AddInto(Tape& tape, Var x, Var y) {
  const TraceSpan span("arithmetic");
  const Tensor a = tape.value(x), out = tape.value(y);
  CHECK(a.dtype() == out.dtype() && a.shape() == out.shape()) << a.shape().ToString() << " and " << out.shape().ToString();
  DispatchFloat(a.dtype(), [&](auto t) { cpu::AddRow(a.data<decltype(t)>(), out.data<decltype(t)>(), 1, a.elements()); });
  return RecordBinary(tape, x, y, cpu::BinaryOp::kAdd, out);
}
Var Add(Tape& tape, Var x, Var y) { return Binary(tape, x, y, cpu::BinaryOp::kAdd); }
Var Sub(Tape& tape, Var x, Var y) { return Binary(tape, x, y, cpu::BinaryOp::kSub); }
Var Mul(Tape& tape, Var x, Var y) { return Binary(tape, x, y, cpu::BinaryOp::kMul); }
Var Div(Tape& tape, Var x, Var y) { return Binary(tape, x, y, cpu::BinaryOp::kDiv); }

}  // namespace conclave
