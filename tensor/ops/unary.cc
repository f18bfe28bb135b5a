// Elementwise ops of one argument.
#include "tensor/ops/ops.h"

#include "tensor/kernels/unary.h"

namespace conclave {
namespace {

Var Unary(Tape& tape, Var x, cpu::UnaryOp op) {
  const Tensor in = tape.value(x);
  const Tensor out = tape.arena().New(in.shape(), in.dtype());
  DispatchFloat(in.dtype(), [&](auto t) {
    using T = decltype(t);
    cpu::UnaryForward(op, in.data<T>(), out.data<T>(), in.elements());
  });
  const Var y = tape.Record(out, {x});
  tape.OnBackward(y, [x, y, op](Tape& tape) {
    const Tensor in = tape.value(x), out = tape.value(y), dy = tape.gradient(y), dx = tape.gradient(x);
    DispatchFloat(in.dtype(), [&](auto t) {
      using T = decltype(t);
      cpu::UnaryBackward(op, cpu::UnaryGradient<T>{in.data<T>(), out.data<T>(), dy.data<T>(), dx.data<T>(), in.elements()});
    });
  });
  return y;
}

}  // namespace

Var Exp(Tape& tape, Var x) { return Unary(tape, x, cpu::UnaryOp::kExp); }
Var Log(Tape& tape, Var x) { return Unary(tape, x, cpu::UnaryOp::kLog); }
Var Tanh(Tape& tape, Var x) { return Unary(tape, x, cpu::UnaryOp::kTanh); }
Var Sigmoid(Tape& tape, Var x) { return Unary(tape, x, cpu::UnaryOp::kSigmoid); }
Var Softplus(Tape& tape, Var x) { return Unary(tape, x, cpu::UnaryOp::kSoftplus); }
Var Square(Tape& tape, Var x) { return Unary(tape, x, cpu::UnaryOp::kSquare); }

Var Affine(Tape& tape, Var x, double scale, double shift) {
  const Tensor in = tape.value(x);
  const Tensor out = tape.arena().New(in.shape(), in.dtype());
  DispatchFloat(in.dtype(), [&](auto t) {
    using T = decltype(t);
    cpu::AffineForward(static_cast<T>(scale), static_cast<T>(shift), in.data<T>(), out.data<T>(), in.elements());
  });
  const Var y = tape.Record(out, {x});
  tape.OnBackward(y, [x, y, scale](Tape& tape) {
    const Tensor dy = tape.gradient(y), dx = tape.gradient(x);
    DispatchFloat(dy.dtype(), [&](auto t) {
      using T = decltype(t);
      cpu::AddScaled(static_cast<T>(scale), dy.data<T>(), dx.data<T>(), dy.elements());
    });
  });
  return y;
}

}  // namespace conclave
