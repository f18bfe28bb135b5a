#include "models/modules/mixture.h"

#include <cmath>
#include <cstring>

#include "absl/strings/str_format.h"

namespace conclave {
namespace {

// Index of the first non-finite row of x [n, w], or -1.
int64_t FirstNonFiniteRow(const Tensor& x) {
  return DispatchFloat(x.dtype(), [&](auto t) -> int64_t {
    using T = decltype(t);
    const T* v = x.data<T>();
    for (int64_t i = 0; i < x.elements(); ++i) {
      if (!std::isfinite(v[i])) return i / x.dim(1);
    }
    return -1;
  });
}

// A copy of x in which non-finite elements are 0.
Tensor Sanitized(Arena& arena, const Tensor& x) {
  const Tensor copy = arena.New(x.shape(), x.dtype());
  copy.CopyFrom(x);
  DispatchFloat(x.dtype(), [&](auto t) {
    using T = decltype(t);
    for (T& v : copy.span<T>()) v = std::isfinite(v) ? v : T{0};
  });
  return copy;
}

void CountExperts(const Tensor& ids, std::span<int64_t> counts) {
  for (const int32_t e : ids.span<int32_t>()) ++counts[e];
}

}  // namespace

Routing RecordRouter(Recorder& r, Var logits, const RouterOptions& o, int layer) {
  Tape& tape = r.tape();
  Routing routing{.logits = logits};
  const int64_t n = tape.value(logits).dim(0);
  routing.ids = tape.arena().New({n, o.top_k}, DType::kI32);
  routing.probabilities = Softmax(tape, logits);
  Tensor scores = tape.value(o.post ? logits : routing.probabilities);
  if (const int64_t bad = FirstNonFiniteRow(tape.value(logits)); bad >= 0) {
    r.Poison(
        Internal("router of MoE layer %d: logits of token %d are not finite; the step is refused (check the learning rate)", layer, bad));
    scores = Sanitized(tape.arena(), scores);
  }
  TopK(scores, o.top_k, routing.ids);
  if (o.post) {
    routing.weights = Softmax(tape, GatherColumns(tape, logits, routing.ids));
  } else {
    routing.weights = GatherColumns(tape, routing.probabilities, routing.ids);
    if (o.renormalize) routing.weights = NormalizeRows(tape, routing.weights);
  }
  return routing;
}

Var BalanceLoss(Tape& tape, const Routing& routing, const BalanceArgs& args) {
  const Tensor p = tape.value(routing.probabilities);
  const int64_t n = p.dim(0), experts = p.dim(1), k = routing.ids.dim(1);
  // aux = sum over tokens and experts of p * factor, factor[t, i] = E f_i(scope of t) / tokens of the scope.
  const Tensor factor = tape.arena().NewZeroed(p.shape(), p.dtype());
  const int64_t groups = args.scope == MoeConfig::SEQUENCE ? args.sequences : 1;
  const Tensor counts = tape.arena().New({experts}, DType::kI64);
  for (int64_t g = 0; n > 0 && g < groups; ++g) {
    const int64_t rows = n / groups;
    if (args.scope == MoeConfig::GLOBAL) {
      std::memcpy(counts.raw(), args.counts.data(), counts.bytes());
    } else {
      counts.Zero();
      CountExperts(routing.ids.Slice(g * rows, rows), counts.span<int64_t>());
    }
    int64_t total = 0;
    for (const int64_t c : counts.span<int64_t>()) total += c;
    if (args.scope != MoeConfig::GLOBAL) CHECK_EQ(total, rows * k);
    DispatchFloat(p.dtype(), [&](auto t) {
      using T = decltype(t);
      T* f = factor.data<T>() + g * rows * experts;
      for (int64_t i = 0; i < experts; ++i) {
        const double value =
            static_cast<double>(experts) * static_cast<double>(counts.data<int64_t>()[i]) / (static_cast<double>(total) * n);
        for (int64_t row = 0; row < rows; ++row) f[row * experts + i] = static_cast<T>(value);
      }
    });
  }
  return Dot(tape, routing.probabilities, tape.Constant(factor));
}

Var RouterZSum(Tape& tape, Var logits) { return SumAll(tape, Square(tape, LogSumExp(tape, logits))); }

MixtureLayer MixtureLayer::Register(ParameterSet& parameters, const std::string& name, const Options& o) {
  MixtureLayer layer;
  layer.options_ = o;
  layer.router_ = LinearLayer::Register(parameters, name + ".router", {.in = o.expert.width, .out = o.router.experts, .std = o.expert.std});
  for (int e = 0; e < o.router.experts; ++e) {
    const std::string prefix = absl::StrFormat("%s.experts.%d", name, e);
    const auto add = [&](const char* part, const Shape& shape, const Init& init) {
      return parameters.Add(
          {.name = prefix + part, .shape = shape, .kind = BlockKind::kExpert, .expert = e, .moe_layer = o.layer, .init = init});
    };
    layer.up_.push_back(add(".up.weight", {o.expert.up_rows(), o.expert.width}, {Init::Kind::kNormal, o.expert.std}));
    if (o.expert.bias) layer.up_bias_.push_back(add(".up.bias", {o.expert.up_rows()}, {}));
    layer.down_.push_back(add(".down.weight", {o.expert.width, o.expert.hidden}, {Init::Kind::kNormal, o.expert.residual_std}));
    if (o.expert.bias) layer.down_bias_.push_back(add(".down.bias", {o.expert.width}, {}));
  }
  return layer;
}

absl::Status MixtureLayer::RecordLosses(Recorder& r, const Routing& routing, int64_t sequences) const {
  Tape& tape = r.tape();
  const int64_t experts = options_.router.experts, n = routing.ids.dim(0);
  const std::span<int64_t> mine = r.counters().subspan(options_.layer * experts, experts);
  CountExperts(routing.ids, mine);
  const MixtureTerms& terms = options_.terms;
  BalanceArgs args{.scope = options_.router.scope, .sequences = sequences};
  if (terms.balance >= 0 && args.scope == MoeConfig::GLOBAL) {
    const Tensor sum = tape.arena().New({experts}, DType::kI64);
    std::memcpy(sum.raw(), mine.data(), sum.bytes());
    RETURN_IF_ERROR(r.dispatch().SumOverTokens(sum));
    const std::span<int64_t> running = r.running_counts().subspan(options_.layer * experts, experts);
    for (int64_t i = 0; i < experts; ++i) running[i] += sum.data<int64_t>()[i];
    args.counts = running;
  }
  if (n == 0) return absl::OkStatus();
  if (terms.balance >= 0) r.AddTerm(terms.balance, BalanceLoss(tape, routing, args));
  if (terms.z >= 0) r.AddTerm(terms.z, RouterZSum(tape, routing.logits), 1.0 / static_cast<double>(n));
  return absl::OkStatus();
}

absl::StatusOr<Var> MixtureLayer::RecordExperts(Recorder& r, Var rows, const DispatchPlan& plan) const {
  const ExpertPlacement& placement = r.dispatch().placement();
  const int slots = placement.slots(options_.layer);
  Arena& arena = r.tape().arena();
  const auto local = [&](const std::vector<BlockId>& blocks) -> std::span<const Var> {
    if (blocks.empty()) return {};
    Var* vars = static_cast<Var*>(arena.Allocate(slots * sizeof(Var)));
    for (int s = 0; s < slots; ++s) vars[s] = r.Parameter(blocks[placement.expert_at(options_.layer, r.dispatch().coordinate(), s)]);
    return {vars, static_cast<size_t>(slots)};
  };
  const Var hidden = GroupedLinear(r.tape(), rows, local(up_), local(up_bias_), plan.groups);
  const Var active = RecordActivation(r.tape(), hidden, options_.expert.swiglu);
  return GroupedLinear(r.tape(), active, local(down_), local(down_bias_), plan.groups);
}

absl::StatusOr<Var> MixtureLayer::Record(Recorder& r, Var x, int64_t sequences) const {
  const Routing routing = RecordRouter(r, router_.Record(r, x), options_.router, options_.layer);
  RETURN_IF_ERROR(RecordLosses(r, routing, sequences));
  DispatchPlan plan;
  ASSIGN_OR_RETURN(const Var rows, r.dispatch().Dispatch(r.tape(), x, routing.ids, options_.layer, &plan));
  ASSIGN_OR_RETURN(const Var out, RecordExperts(r, rows, plan));
  return r.dispatch().Combine(r.tape(), out, routing.weights, plan);
}

}  // namespace conclave
