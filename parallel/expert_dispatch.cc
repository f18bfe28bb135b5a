#include "parallel/expert_dispatch.h"

#include <algorithm>

#include "base/trace.h"
#include "parallel/expert_pieces.h"

namespace conclave {
namespace {

CopyRows CopiesOf(const DispatchPlan& plan) { return {plan.position, plan.top_k}; }
// own: where the copies for experts of this rank are, in expert order; undefined: among the others.
CopyRows CopiesOf(const DispatchPlan& plan, const Tensor& own) {
  return {plan.position, plan.top_k, own.defined() ? TokenRoute::OwnCopies(plan, own) : RowsElsewhere{}};
}

// Whether those need not be copied at home. A codec has to round them as it does all others.
bool OwnStay(const DispatchPlan& plan, const RowCodec* codec) { return codec == nullptr && !plan.own_row.empty(); }

int MostSlots(const ExpertPlacement& placement) {
  int most = 0;
  for (int layer = 0; layer < placement.layers(); ++layer) most = std::max(most, placement.slots(layer));
  return most;
}

}  // namespace

// Weights [n, k] as rows of one element, in the order of plan.position, to the ranks that have the experts: [m, 1].
absl::Status ExpertDispatch::WeighThere(Arena& arena, const DispatchPlan& plan, const Tensor& weights, Tensor* there) const {
  *there = arena.New({plan.received, 1}, weights.dtype());
  const Arena::Mark mark = arena.Here();
  const std::span<const int64_t> source = plan.hops[0].copy_source;
  const Tensor ordered = arena.New({static_cast<int64_t>(source.size()), 1}, weights.dtype());
  GatherRowsInto(weights.Reshape({weights.elements(), 1}), source, ordered);
  RETURN_IF_ERROR(route_.SendCopies(arena, plan, ordered, *there, {.label = "copy weights", .rest = true}));
  arena.Rewind(mark);
  return absl::OkStatus();
}

ExpertDispatch::ExpertDispatch(const Mesh* mesh, const ExpertPlacement* placement, const DispatchSetup* setup)
    : mesh_(mesh),
      placement_(placement),
      plain_(setup == nullptr ? std::make_shared<const DispatchSetup>() : nullptr),
      setup_(setup == nullptr ? plain_.get() : setup),
      route_(mesh, setup_->grid.get(), setup_->route, setup_->fold),
      state_(std::make_unique<PieceState>()) {
  state_->traffic.resize(static_cast<size_t>(placement->layers()));
  // All pieces may be under way at a time, in either direction.
  const int most = 2 * setup_->pieces, streams = setup_->pieces > 0 ? 2 : 1;
  mesh->dispatch().Reserve(most, streams);
  if (InTwoLevels(setup_->route)) setup_->grid->inside().Reserve(most, streams), setup_->grid->between().Reserve(most, streams);
  if (setup_->bounded) state_->Reserve(setup_->most_pieces, MostSlots(*placement));
}

ExpertDispatch::~ExpertDispatch() = default;

absl::StatusOr<Var> ExpertDispatch::Dispatch(Tape& tape, Var x, const Tensor& ids, int layer, DispatchPlan* plan) const {
  RETURN_IF_ERROR(Plan(tape.arena(), {.ids = ids, .layer = layer, .width = tape.value(x).dim(1)}, plan));
  return Send(tape, x, *plan);
}

absl::Status ExpertDispatch::Plan(Arena& arena, const Question& question, DispatchPlan* plan) const {
  const TraceSpan span("dispatch plan");
  if (recorder_ != nullptr) recorder_->Routed(question.layer, question.ids, question.width);
  plan->traffic = limited_ ? &state_->traffic[static_cast<size_t>(question.layer)] : nullptr;
  RETURN_IF_ERROR(route_.MakePlan(arena, *placement_, {question.ids, question.layer, turn_}, plan));
  if (limited_) state_->rows.Add(setup_->bounded ? std::min(plan->received, setup_->most_rows) : plan->received);
  plan->by_lane = question.by_lane;
  plan->pieces = alone() ? 0 : setup_->pieces;
  if (setup_->bounded) return AgreeOnPieces(plan);
  return setup_->most_rows > 0 && limited_ ? CheckRoom(question.layer, plan->received) : absl::OkStatus();
}

absl::StatusOr<Var> ExpertDispatch::Send(Tape& tape, Var x, const DispatchPlan& plan) const {
  const TraceSpan span("dispatch");
  Arena& arena = tape.arena();
  const Tensor value = tape.value(x);
  const Tensor rows = arena.New({plan.received, value.dim(1)}, value.dtype());
  if (alone()) {
    SpreadTokens(value, CopiesOf(plan), rows);  // one rank: the order of sending is expert order
  } else {
    RETURN_IF_ERROR(route_.SendRows(arena, plan, value, rows, {kToExperts, setup_->dispatch_forward.get()}));
  }
  const Var output = tape.Record(rows, {x});
  tape.OnBackward(
      output, [this, x, output, plan](Tape& t) { return DispatchBackward(t.arena(), t.gradient(output), t.gradient_target(x), plan); },
      Tape::StepKind::kCollective);
  return output;
}

absl::Status ExpertDispatch::CheckRoom(int layer, int64_t received) const {
  // The most rows and, of the ranks that receive so many, the first.
  const int64_t ranks = mesh_->ranks();
  int64_t most = received * ranks + (ranks - 1 - mesh_->rank());
  RETURN_IF_ERROR(mesh_->control().AllReduce("rows to experts", Tensor(&most, {1}, DType::kI64), ReduceOp::kMax));
  if (most / ranks <= setup_->most_rows) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrFormat(
      "dispatch: the tokens of mixture layer %d send %d rows to the experts of rank %d, and parallel.dispatch.most_rows is %d; nothing was "
      "allocated for them. Raise it, balance the router, or cut leaves smaller (trainer.micro_batches)",
      layer, most / ranks, ranks - 1 - most % ranks, setup_->most_rows));
}

absl::Status ExpertDispatch::DispatchBackward(Arena& arena, const Tensor& g, const Tape::GradientTarget& dx,
                                              const DispatchPlan& plan) const {
  const TraceSpan span("dispatch backward");
  if (alone()) {
    SumCopies(g, CopiesOf(plan), dx.tensor, dx.accumulate);
    return absl::OkStatus();
  }
  const Arena::Mark mark = arena.Here();
  const TokenRoute::Wire wire{kToHome, setup_->dispatch_backward.get()};
  if (setup_->pre_reduce) {
    const Tensor sums = dx.accumulate ? arena.New(dx.tensor.shape(), g.dtype()) : dx.tensor;
    RETURN_IF_ERROR(route_.ReturnSums(arena, plan, g, sums, wire));
    if (dx.accumulate) AddRows(sums, dx.tensor);
  } else if (setup_->fold) {
    const Tensor items = arena.New({plan.items, g.dim(1)}, g.dtype());
    RETURN_IF_ERROR(route_.ReturnFolded(arena, plan, g, items, kToHome));
    SumCopies(items, {plan.item, plan.top_k}, dx.tensor, dx.accumulate);
  } else {
    const Tensor home = arena.New({plan.tokens * plan.top_k, g.dim(1)}, g.dtype());
    const bool own_stay = OwnStay(plan, wire.codec);
    RETURN_IF_ERROR(route_.ReturnCopies(arena, plan, g, home, {.label = wire.label, .codec = wire.codec, .own_stay = own_stay}));
    SumCopies(home, CopiesOf(plan, own_stay ? g : Tensor()), dx.tensor, dx.accumulate);
  }
  arena.Rewind(mark);
  return absl::OkStatus();
}

absl::StatusOr<Var> ExpertDispatch::Combine(Tape& tape, Var rows, Var weights, const DispatchPlan& plan) const {
  const TraceSpan span("combine");
  Arena& arena = tape.arena();
  const Tensor value = tape.value(rows);
  const Tensor y = arena.New({plan.tokens, value.dim(1)}, value.dtype());
  Kept kept{.rows = value};
  RETURN_IF_ERROR(CombineForward(arena, value, tape.value(weights), plan, y, &kept));
  const Var output = tape.Record(y, {rows, weights});
  tape.OnBackward(
      output,
      [this, rows, weights, output, kept, plan](Tape& t) -> absl::Status {
        const TraceSpan span("combine backward");
        const Tape::GradientTarget g = t.gradient_target(rows);  // every row is some token's copy
        const WeightedSumGradients gradients{
            .g = g.tensor, .dw = t.wants_gradient(weights) ? t.gradient(weights) : Tensor(), .accumulate = g.accumulate};
        return CombineBackward(t.arena(), {t.gradient(output), t.value(weights), kept}, gradients, plan);
      },
      Tape::StepKind::kCollective);
  return output;
}

absl::Status ExpertDispatch::CombineForward(Arena& arena, const Tensor& rows, const Tensor& weights, const DispatchPlan& plan,
                                            const Tensor& y, Kept* kept) const {
  if (!alone() && setup_->weighs_there()) {
    RETURN_IF_ERROR(WeighThere(arena, plan, weights, &kept->weights));
    const Arena::Mark mark = arena.Here();
    const Tensor scaled = arena.New(rows.shape(), rows.dtype());
    ScaleRows(rows, kept->weights, {.to = scaled});
    RETURN_IF_ERROR(ReturnWeighted(arena, plan, scaled, y));
    arena.Rewind(mark);
    return absl::OkStatus();
  }
  if (!alone()) {
    kept->rows = arena.New({plan.tokens * plan.top_k, rows.dim(1)}, rows.dtype());
    const RowCodec* const codec = setup_->combine_forward.get();
    if (OwnStay(plan, codec)) kept->own = rows;
    RETURN_IF_ERROR(
        route_.ReturnCopies(arena, plan, rows, kept->rows, {.label = kToHome, .codec = codec, .own_stay = kept->own.defined()}));
  }
  WeightedSumOfCopies(kept->rows, weights, CopiesOf(plan, kept->own), y);
  return absl::OkStatus();
}

absl::Status ExpertDispatch::ReturnWeighted(Arena& arena, const DispatchPlan& plan, const Tensor& scaled, const Tensor& y) const {
  if (setup_->pre_reduce) return route_.ReturnSums(arena, plan, scaled, y, {kToHome, setup_->combine_forward.get()});
  const Arena::Mark mark = arena.Here();
  const Tensor items = arena.New({plan.items, scaled.dim(1)}, scaled.dtype());
  RETURN_IF_ERROR(route_.ReturnFolded(arena, plan, scaled, items, kToHome));
  SumCopies(items, {plan.item, plan.top_k}, y, /*accumulate=*/false);
  arena.Rewind(mark);
  return absl::OkStatus();
}

absl::Status ExpertDispatch::ReturnProducts(Arena& arena, const DispatchPlan& plan, const Tensor& products, const Tensor& dw) const {
  const Arena::Mark mark = arena.Here();
  const Tensor home = arena.New({dw.elements(), 1}, dw.dtype());
  RETURN_IF_ERROR(route_.ReturnCopies(arena, plan, products, home, {.label = "combine weights", .rest = true}));
  SumCopies(home, {plan.position, 1}, dw.Reshape({dw.elements(), 1}));
  arena.Rewind(mark);
  return absl::OkStatus();
}

absl::Status ExpertDispatch::CombineBackward(Arena& arena, const CombineInputs& in, const WeightedSumGradients& gradients,
                                             const DispatchPlan& plan) const {
  if (alone()) {
    WeightedSumBackward(in.dy, in.kept.rows, in.weights, CopiesOf(plan), gradients);
    return absl::OkStatus();
  }
  if (setup_->pre_reduce || setup_->combine_backward || route_.deduplicates()) return CombineBackwardThere(arena, in, gradients, plan);
  const Arena::Mark mark = arena.Here();
  const Tensor send = arena.New(in.kept.rows.shape(), in.dy.dtype());  // in the order of plan.position
  const Tensor received = gradients.accumulate ? arena.New(gradients.g.shape(), send.dtype()) : gradients.g;
  const bool own_stay = in.kept.own.defined();
  WeightedSumBackward(in.dy, in.kept.rows, in.weights, CopiesOf(plan, in.kept.own), {.g = send, .dw = gradients.dw, .elsewhere = received});
  RETURN_IF_ERROR(route_.SendCopies(arena, plan, send, received, {.label = kToExperts, .own_stay = own_stay}));
  if (gradients.accumulate) AddRows(received, gradients.g);
  arena.Rewind(mark);
  return absl::OkStatus();
}

absl::Status ExpertDispatch::CombineBackwardThere(Arena& arena, const CombineInputs& in, const WeightedSumGradients& gradients,
                                                  const DispatchPlan& plan) const {
  const Arena::Mark mark = arena.Here();
  const Tensor dy = arena.New(gradients.g.shape(), in.dy.dtype());
  RETURN_IF_ERROR(route_.SendRows(arena, plan, in.dy, dy, {kToExperts, setup_->combine_backward.get()}));
  Tensor weights = in.kept.weights;
  if (!setup_->weighs_there()) {
    RETURN_IF_ERROR(WeighThere(arena, plan, in.weights, &weights));
    if (gradients.dw.defined()) AddInnerProducts(in.dy, in.kept.rows, CopiesOf(plan, in.kept.own), gradients.dw);
  } else if (gradients.dw.defined()) {
    const Tensor products = arena.NewZeroed({plan.received, 1}, weights.dtype());
    AddInnerProductsOfRows(dy, in.kept.rows, products);
    RETURN_IF_ERROR(ReturnProducts(arena, plan, products, gradients.dw));
  }
  ScaleRows(dy, weights, {.to = gradients.g, .accumulate = gradients.accumulate});
  arena.Rewind(mark);
  return absl::OkStatus();
}

absl::Status ExpertDispatch::SumOverTokens(const Tensor& counts) const {
  return mesh_->control().AllReduce("token counts", counts, ReduceOp::kSum);
}

}  // namespace conclave
