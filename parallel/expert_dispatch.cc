#include "parallel/expert_dispatch.h"

#include <numeric>

#include "base/trace.h"

namespace conclave {
namespace {

std::span<int64_t> NewIndices(Arena& arena, int64_t n) { return arena.NewZeroed({n}, DType::kI64).span<int64_t>(); }

int64_t RowBytes(const Tensor& t) { return t.dim(-1) * SizeOf(t.dtype()); }

CopyRows CopiesOf(const DispatchPlan& plan) { return {plan.position, plan.top_k}; }

}  // namespace

absl::Status ExpertDispatch::MakePlan(Arena& arena, const Tensor& ids, int layer, DispatchPlan* plan) const {
  const int ranks = placement_->axis(), slots = placement_->slots(layer);
  const int64_t n = ids.dim(0), k = ids.dim(1);
  plan->tokens = n;
  plan->top_k = k;
  plan->position = NewIndices(arena, n * k);
  plan->send_rows = NewIndices(arena, ranks);
  plan->recv_rows = NewIndices(arena, ranks);
  // Counting sort of (token, slot) by (destination, local expert); stable, so tokens and slots ascend inside a group.
  const std::span<int64_t> counts = NewIndices(arena, int64_t{ranks} * slots), next = NewIndices(arena, int64_t{ranks} * slots);
  const int32_t* id = ids.data<int32_t>();
  const auto group = [&](int64_t i) { return placement_->coordinate(layer, id[i]) * slots + placement_->slot(layer, id[i]); };
  for (int64_t i = 0; i < n * k; ++i) {
    if (id[i] >= 0) ++counts[group(i)];
  }
  std::exclusive_scan(counts.begin(), counts.end(), next.begin(), int64_t{0});
  for (int64_t i = 0; i < n * k; ++i) plan->position[i] = id[i] >= 0 ? next[group(i)]++ : -1;
  for (int64_t g = 0; g < int64_t{ranks} * slots; ++g) plan->send_rows[g / slots] += counts[g];

  const Tensor received = arena.NewZeroed({ranks, slots}, DType::kI64);  // [source, local expert]
  const Tensor sent(counts.data(), {ranks, slots}, DType::kI64);
  const std::span<int64_t> bytes = NewIndices(arena, ranks), offsets = NewIndices(arena, ranks);
  for (int r = 0; r < ranks; ++r) {
    bytes[r] = slots * int64_t{sizeof(int64_t)};
    offsets[r] = r * bytes[r];
  }
  RETURN_IF_ERROR(mesh_->dispatch().AllToAllV({.kind = CollectiveKind::kAllToAllV,
                                               .label = "dispatch counts",
                                               .send = sent,
                                               .recv = received,
                                               .send_bytes = bytes,
                                               .send_offsets = offsets,
                                               .recv_bytes = bytes,
                                               .recv_offsets = offsets}));
  // Expert order: (local expert, source). wire_of maps it back to the order of arrival (source, local expert).
  const int64_t* arrived = received.data<int64_t>();
  const std::span<int64_t> rows = NewIndices(arena, int64_t{ranks} * slots), start = NewIndices(arena, int64_t{ranks} * slots);
  int64_t total = 0;
  for (int64_t g = 0; g < int64_t{ranks} * slots; ++g) {
    start[g] = total;
    total += arrived[g];
    plan->recv_rows[g / slots] += arrived[g];
  }
  plan->received = total;
  plan->wire_of = NewIndices(arena, total);
  int64_t row = 0;
  for (int slot = 0; slot < slots; ++slot) {
    for (int r = 0; r < ranks; ++r) {
      rows[int64_t{slot} * ranks + r] = arrived[int64_t{r} * slots + slot];
      for (int64_t i = 0; i < arrived[int64_t{r} * slots + slot]; ++i) plan->wire_of[row++] = start[int64_t{r} * slots + slot] + i;
    }
  }
  plan->groups = {.rows = rows, .experts = slots, .lanes = ranks};
  return absl::OkStatus();
}

absl::Status ExpertDispatch::Move(Arena& arena, const DispatchPlan& plan, Direction direction, const Tensor& from, const Tensor& to) const {
  const int ranks = placement_->axis();
  const int64_t row = RowBytes(from);
  const std::span<int64_t> send_bytes = NewIndices(arena, ranks), send_offsets = NewIndices(arena, ranks);
  const std::span<int64_t> recv_bytes = NewIndices(arena, ranks), recv_offsets = NewIndices(arena, ranks);
  const bool out = direction == Direction::kToExperts;
  int64_t send_offset = 0, recv_offset = 0;
  for (int r = 0; r < ranks; ++r) {
    send_bytes[r] = (out ? plan.send_rows[r] : plan.recv_rows[r]) * row;
    recv_bytes[r] = (out ? plan.recv_rows[r] : plan.send_rows[r]) * row;
    send_offsets[r] = send_offset;
    recv_offsets[r] = recv_offset;
    send_offset += send_bytes[r];
    recv_offset += recv_bytes[r];
  }
  return mesh_->dispatch().AllToAllV({.kind = CollectiveKind::kAllToAllV,
                                      .label = out ? "dispatch rows" : "combine rows",
                                      .send = from,
                                      .recv = to,
                                      .send_bytes = send_bytes,
                                      .send_offsets = send_offsets,
                                      .recv_bytes = recv_bytes,
                                      .recv_offsets = recv_offsets});
}

absl::StatusOr<Var> ExpertDispatch::Dispatch(Tape& tape, Var x, const Tensor& ids, int layer, DispatchPlan* plan) const {
  const TraceSpan span("dispatch");
  Arena& arena = tape.arena();
  RETURN_IF_ERROR(MakePlan(arena, ids, layer, plan));
  const Tensor value = tape.value(x);
  const int64_t h = value.dim(1);
  const Tensor rows = arena.New({plan->received, h}, value.dtype());
  if (alone()) {
    SpreadTokens(value, CopiesOf(*plan), rows);  // one rank: send order is expert order
  } else {
    const Arena::Mark scratch = arena.Here();
    const Tensor send = arena.New({plan->tokens * plan->top_k, h}, value.dtype()), wire = arena.New(rows.shape(), value.dtype());
    SpreadTokens(value, CopiesOf(*plan), send);
    RETURN_IF_ERROR(Move(arena, *plan, Direction::kToExperts, send, wire));
    GatherRowsInto(wire, plan->wire_of, rows);
    arena.Rewind(scratch);
  }
  const Var output = tape.Record(rows, {x});
  tape.OnBackward(
      output, [this, x, output, plan = *plan](Tape& t) { return DispatchBackward(t, t.gradient(output), t.gradient_target(x), plan); },
      Tape::StepKind::kCollective);
  return output;
}

absl::Status ExpertDispatch::DispatchBackward(Tape& tape, const Tensor& g, const Tape::GradientTarget& dx, const DispatchPlan& plan) const {
  const TraceSpan span("dispatch backward");
  if (alone()) {
    SumCopies(g, CopiesOf(plan), dx.tensor, dx.accumulate);
    return absl::OkStatus();
  }
  Arena& arena = tape.arena();
  const Arena::Mark mark = arena.Here();
  const Tensor wire = arena.New(g.shape(), g.dtype()), home = arena.New({plan.tokens * plan.top_k, g.dim(1)}, g.dtype());
  ScatterRows(g, plan.wire_of, wire);
  RETURN_IF_ERROR(Move(arena, plan, Direction::kToHome, wire, home));
  SumCopies(home, CopiesOf(plan), dx.tensor, dx.accumulate);
  arena.Rewind(mark);
  return absl::OkStatus();
}

absl::StatusOr<Var> ExpertDispatch::Combine(Tape& tape, Var rows, Var weights, const DispatchPlan& plan) const {
  const TraceSpan span("combine");
  Arena& arena = tape.arena();
  const Tensor value = tape.value(rows);
  const int64_t h = value.dim(1);
  const Tensor y = arena.New({plan.tokens, h}, value.dtype());
  Tensor home = value;  // in send order; kept: the weights' gradient needs it
  if (!alone()) {
    home = arena.New({plan.tokens * plan.top_k, h}, value.dtype());
    const Arena::Mark scratch = arena.Here();
    const Tensor wire = arena.New(value.shape(), value.dtype());
    ScatterRows(value, plan.wire_of, wire);
    RETURN_IF_ERROR(Move(arena, plan, Direction::kToHome, wire, home));
    arena.Rewind(scratch);
  }
  WeightedSumOfCopies(home, tape.value(weights), CopiesOf(plan), y);
  const Var output = tape.Record(y, {rows, weights});
  tape.OnBackward(
      output,
      [this, rows, weights, output, home, plan](Tape& t) -> absl::Status {
        const TraceSpan span("combine backward");
        const Tape::GradientTarget g = t.gradient_target(rows);  // every row is some token's copy
        const WeightedSumGradients gradients{
            .g = g.tensor, .dw = t.wants_gradient(weights) ? t.gradient(weights) : Tensor(), .accumulate = g.accumulate};
        const Tensor dy = t.gradient(output), w = t.value(weights);
        if (!alone()) return CombineBackward(t, {dy, home, w}, gradients, plan);
        WeightedSumBackward(dy, home, w, CopiesOf(plan), gradients);
        return absl::OkStatus();
      },
      Tape::StepKind::kCollective);
  return output;
}

absl::Status ExpertDispatch::CombineBackward(Tape& tape, const CombineInputs& in, const WeightedSumGradients& gradients,
                                             const DispatchPlan& plan) const {
  Arena& arena = tape.arena();
  const Arena::Mark mark = arena.Here();
  const Tensor send = arena.New(in.home.shape(), in.home.dtype()), wire = arena.New(gradients.g.shape(), gradients.g.dtype());
  WeightedSumBackward(in.dy, in.home, in.weights, CopiesOf(plan), {.g = send, .dw = gradients.dw});
  RETURN_IF_ERROR(Move(arena, plan, Direction::kToExperts, send, wire));
  if (gradients.accumulate) {
    AddGatheredRows(wire, plan.wire_of, gradients.g);
  } else {
    GatherRowsInto(wire, plan.wire_of, gradients.g);
  }
  arena.Rewind(mark);
  return absl::OkStatus();
}

absl::Status ExpertDispatch::SumOverTokens(const Tensor& counts) const {
  return mesh_->control().AllReduce("token counts", counts, ReduceOp::kSum);
}

}  // namespace conclave
