// y = x w^T + bias.
#include "base/trace.h"
#include "tensor/kernels/linear_rows.h"
#include "tensor/ops/ops.h"
#include "tensor/products.h"

namespace conclave {

// dx += dy w; dw += dy^T x; dbias += column sums of dy.
Var Linear(Tape& tape, Var x, Var w, Var bias, std::optional<ProductPrecision> products) {
  const TraceSpan span("linear");
  const Tensor in = tape.value(x), weight = tape.value(w);
  CHECK(in.shape().dims() == 2 && weight.shape().dims() == 2 && in.dim(1) == weight.dim(1))
      << in.shape().ToString() << " by " << weight.shape().ToString();
  const Tensor out = tape.arena().New({in.dim(0), weight.dim(0)}, in.dtype());
  const ProductPrecision precision = products.value_or(tape.products());
  ProductNT(in, weight, bias.defined() ? tape.value(bias) : Tensor(), out, {.precision = precision});
  const Var y = tape.Record(out, {x, w, bias});
  tape.OnBackward(y, [x, w, bias, y, precision](Tape& tape) {
    const TraceSpan span("linear backward");
    const Tensor dy = tape.gradient(y);  // [n, out]
    if (tape.wants_gradient(x)) {
      const Tape::GradientTarget dx = tape.gradient_target(x);
      ProductNN(dy, tape.value(w), dx.tensor, {.accumulate = dx.accumulate, .precision = precision});
    }
    if (tape.wants_gradient(w)) {
      const Tape::GradientTarget dw = tape.gradient_target(w);
      ProductTN(dy, tape.value(x), dw.tensor, {.accumulate = dw.accumulate, .precision = precision});
    }
    if (!tape.wants_gradient(bias)) return;
    const Tensor db = tape.gradient(bias);
    DispatchFloat(dy.dtype(), [&](auto t) {
      using T = decltype(t);
      cpu::AddColumnSums(dy.data<T>(), db.data<T>(), dy.dim(0), dy.dim(1));
    });
  });
  return y;
}

}  // namespace conclave
