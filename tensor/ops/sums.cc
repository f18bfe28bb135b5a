// Reductions: SumAll, Dot, SumLast, SumFirst.
#include "tensor/ops/ops.h"

#include <algorithm>
#include <array>

#include "tensor/kernels/sums.h"
#include "tensor/kernels/unary.h"

namespace conclave {
namespace {

Tensor NewScalar(Tape& tape, double value) {
  const Tensor scalar = tape.arena().New({1}, DType::kF64);
  *scalar.data<double>() = value;
  return scalar;
}

// y += a x.
void Accumulate(double a, const Tensor& x, const Tensor& y) {
  DispatchFloat(y.dtype(), [&](auto t) {
    using T = decltype(t);
    cpu::AddScaled(static_cast<T>(a), x.data<T>(), y.data<T>(), y.elements());
  });
}

}  // namespace

Var SumAll(Tape& tape, Var x) {
  const Tensor in = tape.value(x);
  const double sum = DispatchFloat(in.dtype(), [&](auto t) { return cpu::Sum(in.data<decltype(t)>(), in.elements()); });
  const Var y = tape.Record(NewScalar(tape, sum), {x});
  tape.OnBackward(y, [x, y](Tape& tape) {
    const double g = *tape.gradient(y).data<double>();
    const Tensor dx = tape.gradient(x);
    DispatchFloat(dx.dtype(), [&](auto t) {
      using T = decltype(t);
      const T number = static_cast<T>(g);
      cpu::AddToRows(&number, dx.data<T>(), 1, dx.elements());
    });
  });
  return y;
}

Var Dot(Tape& tape, Var x, Var y) {
  const Tensor a = tape.value(x), b = tape.value(y);
  CHECK(a.elements() == b.elements() && a.dtype() == b.dtype()) << a.shape().ToString() << ' ' << b.shape().ToString();
  const double sum = DispatchFloat(a.dtype(), [&](auto t) {
    using T = decltype(t);
    return cpu::Dot(a.data<T>(), b.data<T>(), a.elements());
  });
  const Var z = tape.Record(NewScalar(tape, sum), {x, y});
  tape.OnBackward(z, [x, y, z](Tape& tape) {
    const double g = *tape.gradient(z).data<double>();
    if (tape.wants_gradient(x)) Accumulate(g, tape.value(y), tape.gradient(x));
    if (tape.wants_gradient(y)) Accumulate(g, tape.value(x), tape.gradient(y));
  });
  return z;
}

Var SumLast(Tape& tape, Var x) {
  const Tensor in = tape.value(x);
  const int dims = in.shape().dims();
  CHECK_GE(dims, 1);
  const int64_t h = in.dim(-1);
  std::array<int64_t, Shape::kMaxDims> kept{1};
  int64_t n = 1;
  for (int i = 0; i + 1 < dims; ++i) n *= kept[i] = in.dim(i);
  const Tensor out = tape.arena().New(Shape(std::span<const int64_t>(kept.data(), std::max(1, dims - 1))), in.dtype());
  DispatchFloat(in.dtype(), [&](auto t) {
    using T = decltype(t);
    cpu::SumLast(in.data<T>(), out.data<T>(), n, h);
  });
  const Var y = tape.Record(out, {x});
  tape.OnBackward(y, [x, y, n, h](Tape& tape) {
    const Tensor dy = tape.gradient(y), dx = tape.gradient(x);
    DispatchFloat(dy.dtype(), [&](auto t) {
      using T = decltype(t);
      cpu::AddToRows(dy.data<T>(), dx.data<T>(), n, h);
    });
  });
  return y;
}

Var SumFirst(Tape& tape, Var x) {
  const Tensor in = tape.value(x);
  CHECK_EQ(in.shape().dims(), 2);
  const int64_t n = in.dim(0), h = in.dim(1);
  const Tensor out = tape.arena().New({h}, in.dtype());
  DispatchFloat(in.dtype(), [&](auto t) {
    using T = decltype(t);
    cpu::SumFirst(in.data<T>(), out.data<T>(), n, h);
  });
  const Var y = tape.Record(out, {x});
  tape.OnBackward(y, [x, y, n, h](Tape& tape) {
    const Tensor dy = tape.gradient(y), dx = tape.gradient(x);
    DispatchFloat(dy.dtype(), [&](auto t) {
      using T = decltype(t);
      cpu::AddToColumns(dy.data<T>(), dx.data<T>(), n, h);
    });
  });
  return y;
}

}  // namespace conclave
