// Two linear layers around an activation, in pieces of an expert's rows: what lies between the products stays in the second-level cache.
#include "tensor/ops/ops.h"

#include <algorithm>
#include <memory>

#include "base/trace.h"
#include "tensor/kernels/gelu.h"
#include "tensor/kernels/linear_rows.h"
#include "tensor/kernels/swiglu.h"
#include "tensor/ops/mlp_pieces.h"
#include "tensor/products.h"

namespace conclave {
namespace {

// A recording: plain values and arena memory.
struct MlpRecord {
  Var x, y;
  const Var *up, *up_bias, *down, *down_bias;  // biases: null for none
  RowGroups groups;
  Activation activation;
  int64_t active_width;
  Tensor hidden;  // [m, rows of up]: before the activation
};

Tensor BiasOf(const Tape& tape, const Var* bias, int expert) { return bias == nullptr ? Tensor() : tape.value(bias[expert]); }

void Activate(Activation activation, const Tensor& hidden, const Tensor& active) {
  const TraceSpan span("activation");
  DispatchFloat(hidden.dtype(), [&](auto t) {
    using T = decltype(t);
    if (activation == Activation::kSwiGlu) return cpu::SwiGluForward(hidden.data<T>(), active.data<T>(), active.dim(0), active.dim(1));
    Stream stream;
    cpu::GeluForward(hidden.data<T>(), active.data<T>(), hidden.elements(), stream);
  });
}

// active: of `hidden`, once more. d_hidden: for GELU it holds the gradient of `active` before.
void ActivateBackward(Activation activation, const Tensor& hidden, const Tensor& d_active, const Tensor& active, const Tensor& d_hidden) {
  const TraceSpan span("activation backward");
  const int64_t n = active.dim(0), f = active.dim(1);
  DispatchFloat(hidden.dtype(), [&](auto t) {
    using T = decltype(t);
    if (activation == Activation::kGelu)
      return cpu::GeluAgainAndBackward(hidden.data<T>(), active.data<T>(), d_hidden.data<T>(), hidden.elements());
    cpu::SwiGluAgainAndBackward(cpu::SwiGluGradient<T>{hidden.data<T>(), d_active.data<T>(), d_hidden.data<T>(), n, f, false},
                                active.data<T>());
  });
}

// dw += d^T x and dbias += the column sums of d, in the lane that the piece belongs to.
void AddLayerGradients(Tape& tape, Var w, Var bias, const Tensor& d, const Tensor& x, int lane) {
  const auto lane_of = [&](Var v) { return tape.lanes(v) > 1 ? lane : 0; };
  if (tape.wants_gradient(w)) {
    const Tape::GradientTarget dw = tape.gradient_target(w, lane_of(w));
    ProductTN(d, x, dw.tensor, {.accumulate = dw.accumulate, .precision = tape.products()});
  }
  if (!tape.wants_gradient(bias)) return;
  const Tensor db = tape.gradient(bias, lane_of(bias));
  DispatchFloat(d.dtype(), [&](auto t) {
    using T = decltype(t);
    cpu::AddColumnSums(d.data<T>(), db.data<T>(), d.dim(0), d.dim(1));
  });
}

bool SplitsLanes(const Tape& tape, const MlpRecord& m) {
  bool split = false;
  for (const Var* block : {m.up, m.up_bias, m.down, m.down_bias}) {
    for (int e = 0; block != nullptr && e < m.groups.experts; ++e) {
      if (!tape.wants_gradient(block[e]) || tape.lanes(block[e]) == 1) continue;
      CHECK_EQ(tape.lanes(block[e]), m.groups.lanes) << "gradient lanes";
      split = true;
    }
  }
  return split;
}

// An expert's blocks, the last one first, as they lie behind each other in a model: what backward finishes is wanted in falling order.
absl::Status FinishExpert(Tape& tape, const MlpRecord& m, int expert) {
  for (const Var* blocks : {m.down_bias, m.down, m.up_bias, m.up}) {
    if (blocks != nullptr) RETURN_IF_ERROR(tape.Finish(blocks[expert]));
  }
  return absl::OkStatus();
}

// Experts in falling order; no sum is over two of them. The gradients of one may travel while the next ones' are formed.
absl::Status MlpBackward(Tape& tape, const MlpRecord& m) {
  const TraceSpan span("mlp backward");
  const Tensor dy = tape.gradient(m.y), x = tape.value(m.x);
  const bool wanted = tape.wants_gradient(m.x), gelu = m.activation == Activation::kGelu;
  const Tape::GradientTarget dx = wanted ? tape.gradient_target(m.x) : Tape::GradientTarget{};  // the groups cover all its rows
  const Arena::Mark mark = tape.arena().Here();
  const int64_t most = std::min(kMlpPiece + kMlpRest, x.dim(0)), width = m.hidden.dim(1);
  const Tensor active_space = tape.arena().New({most, m.active_width}, x.dtype());
  const Tensor hidden_space = tape.arena().New({most, width}, x.dtype());
  const Tensor between = gelu ? hidden_space : tape.arena().New({most, m.active_width}, x.dtype());
  const auto walk_piece = [&](const MlpPiece& p) {
    tape.Progress();
    const Tensor dy_rows = dy.Slice(p.begin, p.rows), x_rows = x.Slice(p.begin, p.rows);
    const Tensor active = active_space.Slice(0, p.rows), d_hidden = hidden_space.Slice(0, p.rows), d_active = between.Slice(0, p.rows);
    const auto activate = [&](int64_t begin, int64_t rows) {
      ActivateBackward(m.activation, m.hidden.Slice(p.begin + begin, rows), d_active.Slice(begin, rows), active.Slice(begin, rows),
                       d_hidden.Slice(begin, rows));
    };
    ProductNN(dy_rows, tape.value(m.down[p.expert]), d_active, AfterRows(activate, tape.products()));
    const auto bias = [&](const Var* biases) { return biases == nullptr ? Var{} : biases[p.expert]; };
    AddLayerGradients(tape, m.down[p.expert], bias(m.down_bias), dy_rows, active, p.lane);
    AddLayerGradients(tape, m.up[p.expert], bias(m.up_bias), d_hidden, x_rows, p.lane);
    if (wanted)
      ProductNN(d_hidden, tape.value(m.up[p.expert]), dx.tensor.Slice(p.begin, p.rows),
                {.accumulate = dx.accumulate, .precision = tape.products()});
  };
  const bool by_lane = SplitsLanes(tape, m);
  int64_t begin = x.dim(0);
  for (int e = m.groups.experts - 1; e >= 0; --e) {
    for (int l = 0; l < m.groups.lanes; ++l) begin -= m.groups.rows[e * m.groups.lanes + l];
    ForEachMlpPieceOf(m.groups, e, begin, by_lane, walk_piece);
    RETURN_IF_ERROR(FinishExpert(tape, m, e));
  }
  tape.arena().Rewind(mark);
  return absl::OkStatus();
}

}  // namespace

Var GroupedMlp(Tape& tape, Var x, const MlpWeights& weights, Activation activation, const RowGroups& groups) {
  const TraceSpan span("mlp");
  const Tensor in = tape.value(x);
  const size_t experts = static_cast<size_t>(groups.experts);
  CHECK(weights.up.size() == experts && weights.down.size() == experts && experts > 0) << weights.up.size() << ' ' << weights.down.size();
  CHECK(weights.up_bias.empty() || weights.up_bias.size() == experts) << weights.up_bias.size();
  CHECK(weights.down_bias.empty() || weights.down_bias.size() == experts) << weights.down_bias.size();
  int64_t rows = 0;
  for (const int64_t n : groups.rows) rows += n;
  CHECK_EQ(rows, in.dim(0)) << "rows in groups";
  const int64_t hidden_width = tape.value(weights.up[0]).dim(0);
  const int64_t active_width = activation == Activation::kSwiGlu ? hidden_width / 2 : hidden_width;

  Var* inputs = static_cast<Var*>(tape.arena().Allocate(static_cast<int64_t>((1 + 4 * experts) * sizeof(Var))));
  size_t count = 0;
  inputs[count++] = x;
  const auto keep = [&](std::span<const Var> blocks) -> const Var* {
    Var* const first = inputs + count;
    std::ranges::copy(blocks, first);
    count += blocks.size();
    return blocks.empty() ? nullptr : first;
  };
  MlpRecord m{.x = x, .groups = groups, .activation = activation, .active_width = active_width};
  m.up = keep(weights.up), m.up_bias = keep(weights.up_bias), m.down = keep(weights.down), m.down_bias = keep(weights.down_bias);
  m.hidden = tape.arena().New({in.dim(0), hidden_width}, in.dtype());
  const Tensor out = tape.arena().New({in.dim(0), tape.value(m.down[0]).dim(0)}, in.dtype());
  const Arena::Mark mark = tape.arena().Here();
  const Tensor space = tape.arena().New({std::min(kMlpPiece + kMlpRest, in.dim(0)), active_width}, in.dtype());
  ForEachMlpPiece(groups, false, [&](const MlpPiece& p) {
    tape.Progress();
    const Tensor hidden = m.hidden.Slice(p.begin, p.rows), active = space.Slice(0, p.rows);
    const auto activate = [&](int64_t begin, int64_t rows) { Activate(activation, hidden.Slice(begin, rows), active.Slice(begin, rows)); };
    ProductNT(in.Slice(p.begin, p.rows), tape.value(m.up[p.expert]), BiasOf(tape, m.up_bias, p.expert), hidden,
              AfterRows(activate, tape.products()));
    ProductNT(active, tape.value(m.down[p.expert]), BiasOf(tape, m.down_bias, p.expert), out.Slice(p.begin, p.rows),
              {.precision = tape.products()});
  });
  tape.arena().Rewind(mark);
  m.y = tape.Record(out, std::span<const Var>(inputs, count));
  tape.OnBackward(m.y, [m](Tape& tape) { return MlpBackward(tape, m); });
  return m.y;
}

}  // namespace conclave
