// Rows grouped by expert, each group through its expert's weights.
#include <algorithm>

#include "base/trace.h"
#include "tensor/kernels/linear_rows.h"
#include "tensor/ops/ops.h"
#include "tensor/products.h"

namespace conclave {
namespace {

// A recording: plain values and arena memory, so that the backward closure may keep it.
struct Grouped {
  Var x, y;
  const Var* w;
  const Var* bias;  // null: none
  RowGroups groups;
};

int64_t RowsOf(const RowGroups& groups, int expert) {
  int64_t rows = 0;
  for (int l = 0; l < groups.lanes; ++l) rows += groups.rows[expert * groups.lanes + l];
  return rows;
}

void AddBiasGradient(const Tensor& dy, const Tensor& db) {
  DispatchFloat(dy.dtype(), [&](auto t) {
    using T = decltype(t);
    cpu::AddColumnSums(dy.data<T>(), db.data<T>(), dy.dim(0), dy.dim(1));
  });
}

// dw and dbias of one expert, whose rows are dy: [n, out] and x: [n, in]. A parameter with one lane gets all rows in one product.
void ParameterGradients(Tape& tape, const Grouped& g, int expert, const Tensor& dy, const Tensor& x) {
  const Var w = g.w[expert], bias = g.bias == nullptr ? Var{} : g.bias[expert];
  const bool split_w = tape.wants_gradient(w) && tape.lanes(w) > 1, split_bias = tape.wants_gradient(bias) && tape.lanes(bias) > 1;
  if (tape.wants_gradient(w) && !split_w) {
    const Tape::GradientTarget dw = tape.gradient_target(w);
    ProductTN(dy, x, dw.tensor, {.accumulate = dw.accumulate, .precision = tape.products()});
  }
  if (tape.wants_gradient(bias) && !split_bias) AddBiasGradient(dy, tape.gradient(bias));
  CHECK(!split_w || tape.lanes(w) == g.groups.lanes) << tape.lanes(w) << " gradient lanes for " << g.groups.lanes;
  CHECK(!split_bias || tape.lanes(bias) == g.groups.lanes) << tape.lanes(bias) << " gradient lanes for " << g.groups.lanes;
  int64_t begin = 0;
  for (int l = 0; l < g.groups.lanes && (split_w || split_bias); ++l) {
    const int64_t rows = g.groups.rows[expert * g.groups.lanes + l];
    const Tensor dy_lane = dy.Slice(begin, rows), x_lane = x.Slice(begin, rows);
    begin += rows;
    if (rows == 0) continue;
    if (split_w) {
      const Tape::GradientTarget dw = tape.gradient_target(w, l);
      ProductTN(dy_lane, x_lane, dw.tensor, {.accumulate = dw.accumulate, .precision = tape.products()});
    }
    if (split_bias) AddBiasGradient(dy_lane, tape.gradient(bias, l));
  }
}

void Backward(Tape& tape, const Grouped& g) {
  const TraceSpan span("grouped linear backward");
  const Tensor dy = tape.gradient(g.y), x = tape.value(g.x);
  const bool wanted = tape.wants_gradient(g.x);
  const Tape::GradientTarget dx = wanted ? tape.gradient_target(g.x) : Tape::GradientTarget{};  // the groups cover all its rows
  int64_t begin = 0;
  for (int e = 0; e < g.groups.experts; ++e) {
    const int64_t rows = RowsOf(g.groups, e);
    if (rows == 0) continue;
    const Tensor dy_rows = dy.Slice(begin, rows);
    if (wanted)
      ProductNN(dy_rows, tape.value(g.w[e]), dx.tensor.Slice(begin, rows), {.accumulate = dx.accumulate, .precision = tape.products()});
    ParameterGradients(tape, g, e, dy_rows, x.Slice(begin, rows));
    begin += rows;
  }
}

}  // namespace

Var GroupedLinear(Tape& tape, Var x, std::span<const Var> w, std::span<const Var> bias, const RowGroups& groups) {
  const TraceSpan span("grouped linear");
  const Tensor in = tape.value(x);
  CHECK(groups.experts > 0 && static_cast<int>(w.size()) == groups.experts) << w.size() << " weights for " << groups.experts << " experts";
  CHECK(bias.empty() || bias.size() == w.size()) << bias.size() << " biases for " << w.size() << " weights";
  CHECK_EQ(static_cast<int64_t>(groups.rows.size()), int64_t{groups.experts} * groups.lanes);
  const int64_t width = tape.value(w[0]).dim(0);
  const Tensor out = tape.arena().New({in.dim(0), width}, in.dtype());
  int64_t begin = 0;
  for (int e = 0; e < groups.experts; ++e) {
    const int64_t rows = RowsOf(groups, e);
    const Tensor& weight = tape.value(w[e]);
    CHECK(weight.dim(0) == width && weight.dim(1) == in.dim(1)) << weight.shape().ToString() << " for " << in.shape().ToString();
    if (rows > 0)
      ProductNT(in.Slice(begin, rows), weight, bias.empty() ? Tensor() : tape.value(bias[e]), out.Slice(begin, rows),
                {.precision = tape.products()});
    begin += rows;
  }
  CHECK_EQ(begin, in.dim(0)) << "rows in groups";

  const size_t count = 1 + w.size() + bias.size();
  Var* inputs = static_cast<Var*>(tape.arena().Allocate(static_cast<int64_t>(count * sizeof(Var))));
  inputs[0] = x;
  std::ranges::copy(w, inputs + 1);
  std::ranges::copy(bias, inputs + 1 + w.size());
  const Var y = tape.Record(out, std::span<const Var>(inputs, count));
  const Grouped g{x, y, inputs + 1, bias.empty() ? nullptr : inputs + 1 + w.size(), groups};
  tape.OnBackward(y, [g](Tape& tape) { Backward(tape, g); });
  return y;
}

}  // namespace conclave
