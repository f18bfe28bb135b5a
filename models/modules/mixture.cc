#include "models/modules/mixture.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_format.h"
#include "base/trace.h"
#include "models/token_travel.h"

namespace conclave {

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
  if (o.shared_hidden > 0) {
    MlpOptions shared = o.expert;
    shared.hidden = o.shared_hidden;
    layer.shared_ = MlpLayer::Register(parameters, name + ".shared", shared);
    if (o.shared_gate) {
      layer.shared_gate_ = LinearLayer::Register(parameters, name + ".shared_gate", {.in = o.expert.width, .out = 1, .std = o.expert.std});
    }
  }
  return layer;
}

absl::Status MixtureLayer::RecordLosses(Recorder& r, const Routing& routing, int64_t sequences) const {
  const TraceSpan span("router losses");
  Tape& tape = r.tape();
  const int64_t experts = options_.router.experts, n = routing.selected.dim(0);
  const std::span<int64_t> mine = r.counters().subspan(options_.layer * experts, experts);
  CountExperts(routing.selected, mine);
  if (options_.dropped_counter >= 0) r.counters()[options_.dropped_counter] += routing.dropped;
  const MixtureTerms& terms = options_.terms;
  BalanceArgs args{.scope = options_.router.scope, .sequences = sequences};
  const bool global = args.scope == MoeConfig::GLOBAL;
  if (terms.balance >= 0 && (global || args.scope == MoeConfig::BATCH)) {
    const std::span<int64_t> running = r.running_counts().subspan(options_.layer * experts, experts);
    args.counts = running;
    if (!global || !r.again()) {
      const Tensor sum = tape.arena().NewZeroed({experts}, DType::kI64);
      CountExperts(routing.selected, sum.span<int64_t>());
      RETURN_IF_ERROR(r.dispatch().SumOverTokens(sum));
      if (!global) args.counts = sum.span<int64_t>();
      for (int64_t i = 0; global && i < experts; ++i) running[i] += sum.data<int64_t>()[i];
    }
  }
  if (n == 0) return absl::OkStatus();
  if (terms.balance >= 0) {
    const Var balance = BalanceLoss(tape, routing, args);
    r.AddTerm(terms.balance, balance);
    if (terms.layer_balance >= 0) r.AddMetric(terms.layer_balance, *tape.value(balance).data<double>());
  }
  if (terms.z >= 0) r.AddTerm(terms.z, RouterZSum(tape, routing.logits), 1.0 / static_cast<double>(n));
  return absl::OkStatus();
}

ExpertMlps MixtureLayer::LocalExperts(Recorder& r, const DispatchPlan& plan) const {
  const ExpertPlacement& placement = r.dispatch().placement();
  const int slots = placement.held(options_.layer, r.dispatch().coordinate());
  Arena& arena = r.tape().arena();
  if (r.experts() != nullptr) {
    BlockId* wanted = static_cast<BlockId*>(arena.Allocate(slots * sizeof(BlockId)));
    size_t count = 0;
    for (int s = 0; s < slots; ++s) {
      const auto rows = plan.groups.rows.subspan(static_cast<size_t>(s) * plan.groups.lanes, plan.groups.lanes);
      if (std::ranges::any_of(rows, [](int64_t n) { return n > 0; })) {
        wanted[count++] = up_[placement.expert_at(options_.layer, r.dispatch().coordinate(), s)];
      }
    }
    r.experts()->Use(options_.layer, {wanted, count});
  }
  const auto local = [&](const std::vector<BlockId>& blocks) -> std::span<const Var> {
    if (blocks.empty()) return {};
    Var* vars = static_cast<Var*>(arena.Allocate(slots * sizeof(Var)));
    for (int s = 0; s < slots; ++s) vars[s] = r.Parameter(blocks[placement.expert_at(options_.layer, r.dispatch().coordinate(), s)]);
    return {vars, static_cast<size_t>(slots)};
  };
  return {.weights = {.up = local(up_), .up_bias = local(up_bias_), .down = local(down_), .down_bias = local(down_bias_)},
          .activation = options_.expert.swiglu ? Activation::kSwiGlu : Activation::kGelu};
}

Var MixtureLayer::RecordShared(Recorder& r, Var x) const {
  const Var y = shared_.Record(r, x);
  if (!options_.shared_gate) return y;
  // [n, 1] -> a factor for each row: y * (gate 1^T), as a product with a row of ones.
  const Var gate = Sigmoid(r.tape(), shared_gate_.Record(r, x));
  const Tensor ones = r.tape().arena().New({1, options_.expert.width}, r.dtype());
  ones.Fill(1);
  return Mul(r.tape(), y, MatMul(r.tape(), gate, r.tape().Constant(ones)));
}

absl::StatusOr<Var> MixtureLayer::RecordTravelling(Recorder& r, Var x, const NormLayer& norm) const {
  Tape& tape = r.tape();
  TokenTravel& travel = *r.travel();
  ASSIGN_OR_RETURN(const Routing routing,
                   RecordRouter(r, router_.Record(r, norm.Record(r, x)), options_.router, options_.layer, r.buffer(options_.bias_buffer)));
  TravellingArrival arrival;
  RETURN_IF_ERROR(travel.dispatch().Move(tape.arena(), {tape.value(x), routing.ids, tape.value(routing.weights)}, travel.here(),
                                         options_.layer, &arrival));
  const Tensor sequences = tape.arena().New({arrival.tokens.dim(0)}, DType::kI32);
  for (int64_t t = 0; t < sequences.elements(); ++t) sequences.data<int32_t>()[t] = arrival.sequence[arrival.own[t]];
  travel.Arrive(sequences.span<int32_t>());
  const ExpertMlps experts = LocalExperts(r, arrival.plan);
  const Var out = GroupedMlp(tape, norm.Record(r, tape.Constant(arrival.copies)), experts.weights, experts.activation, arrival.plan.groups);
  ASSIGN_OR_RETURN(const Tensor settled, travel.dispatch().Settle(tape.arena(), arrival, tape.value(out), options_.layer));
  const Var tokens = tape.Constant(arrival.tokens);
  Var update = tape.Constant(settled);
  if (options_.shared_hidden > 0) update = Add(tape, update, RecordShared(r, norm.Record(r, tokens)));
  return Add(tape, tokens, update);
}

absl::StatusOr<Var> MixtureLayer::Record(Recorder& r, Var x, int64_t sequences) const {
  ASSIGN_OR_RETURN(const Routing routing, RecordRouter(r, router_.Record(r, x, r.router_products()), options_.router, options_.layer,
                                                       r.buffer(options_.bias_buffer)));
  RETURN_IF_ERROR(RecordLosses(r, routing, sequences));
  Tape& tape = r.tape();
  const ExpertDispatch& dispatch = r.dispatch();
  ExpertDispatch::Question question{.ids = routing.ids, .layer = options_.layer, .width = tape.value(x).dim(1)};
  if (dispatch.cuts()) {
    question.by_lane = tape.lanes(r.Parameter(up_[dispatch.placement().expert_at(options_.layer, dispatch.coordinate(), 0)])) > 1;
  }
  DispatchPlan plan;
  RETURN_IF_ERROR(dispatch.Plan(tape.arena(), question, &plan));
  if (plan.pieces > 0) return RecordInPieces(r, x, routing.weights, plan);
  ASSIGN_OR_RETURN(const Var rows, dispatch.Send(tape, x, plan));
  const ExpertMlps experts = LocalExperts(r, plan);
  const Var out = GroupedMlp(tape, rows, experts.weights, experts.activation, plan.groups);
  ASSIGN_OR_RETURN(const Var y, dispatch.Combine(tape, out, routing.weights, plan));
  return options_.shared_hidden > 0 ? Add(tape, y, RecordShared(r, x)) : y;
}

absl::StatusOr<Var> MixtureLayer::RecordInPieces(Recorder& r, Var x, Var weights, const DispatchPlan& plan) const {
  ASSIGN_OR_RETURN(PieceRun* const run, r.dispatch().Depart(r.tape(), x, weights, plan));
  const Var shared = options_.shared_hidden > 0 ? RecordShared(r, x) : Var{};
  ASSIGN_OR_RETURN(const Var y, r.dispatch().Work(r.tape(), run, LocalExperts(r, plan)));
  return options_.shared_hidden > 0 ? Add(r.tape(), y, shared) : y;
}

}  // namespace conclave
