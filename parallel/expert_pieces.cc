#include "parallel/expert_pieces.h"

#include <algorithm>
#include <new>
#include <type_traits>

#include "base/trace.h"

namespace conclave {
namespace {

static_assert(std::is_trivially_destructible_v<PieceRun>, "it lives in an arena");

template <typename T>
T* NewOf(Arena& arena, int64_t n) {
  T* const first = static_cast<T*>(arena.Allocate(n * static_cast<int64_t>(sizeof(T))));
  std::uninitialized_value_construct_n(first, n);
  return first;
}

CopyRows CopiesOf(const PieceRun& run) { return {run.cut.position, run.plan.top_k}; }

Tensor RowsOf(const PieceRun& run, int piece, const Tensor& all) { return all.Slice(run.cut.begin[piece], run.cut.rows(piece)); }

// The same blocks on another tape.
MlpWeights Borrowed(Tape& inner, const Tape& tape, const MlpWeights& weights) {
  const auto borrow = [&](std::span<const Var> blocks) -> std::span<const Var> {
    Var* const vars = NewOf<Var>(inner.arena(), static_cast<int64_t>(blocks.size()));
    std::ranges::transform(blocks, vars, [&](Var v) { return inner.Borrow(tape, v); });
    return {vars, blocks.size()};
  };
  return {
      .up = borrow(weights.up), .up_bias = borrow(weights.up_bias), .down = borrow(weights.down), .down_bias = borrow(weights.down_bias)};
}

// A tape for a piece: `at` of the stack.
Tape& TapeAt(PieceState& state, size_t at) {
  while (state.tapes.size() <= at) state.tapes.push_back(std::make_unique<Tape>(&state.travel));
  return *state.tapes[at];
}

Tape& PassingTape(PieceState& state) {
  if (state.passing == nullptr) state.passing = std::make_unique<Tape>(&state.travel);
  return *state.passing;
}

void Begin(Tape& inner, Tape& outer, bool gradients) {
  inner.Restart(&outer.arena(), gradients);
  inner.UseProducts(outer.products());
  inner.Accompany(outer.companion());
}

// The experts on rows of a piece.
void RecordPiece(Tape& inner, const Tape& outer, const PieceRun& run, int piece, const Tensor& rows) {
  run.inputs[piece] = inner.Input(rows);
  run.results[piece] =
      GroupedMlp(inner, run.inputs[piece], Borrowed(inner, outer, run.experts.weights), run.experts.activation, run.cut.groups(piece));
}

absl::Status NoOne(BlockId) { return absl::OkStatus(); }

// From the gradient of a piece's outputs to that of its rows; those of the experts go where the outer tape has them.
absl::StatusOr<Tensor> WalkPieceBack(Tape& inner, const PieceRun& run, int piece, const Tensor& gradient) {
  CHECK(inner.PutGradient(run.results[piece], gradient));
  RETURN_IF_ERROR(inner.Backward({}, NoOne));
  return inner.gradient(run.inputs[piece]);
}

}  // namespace

void PieceState::Reserve(int pieces, int slots) {
  for (PieceLine* line : {&out, &again, &home}) line->Reserve(pieces);
  // The tape of a piece keeps its capacity: it is walked back once with as many values as there will be.
  const int64_t blocks = 4 * int64_t{slots};
  Tape& tape = PassingTape(*this);
  const auto one = [&] { return travel.New({1}, DType::kF32); };
  for (int64_t i = 0; i < blocks; ++i) tape.Constant(one());
  const Var result = tape.Record(one(), {tape.Input(one())});
  CHECK(tape.PutGradient(result, one()));
  CHECK_OK(tape.Backward({}, NoOne));
  tape.Reset();
  travel.Reserve(0);
}

void ExpertDispatch::BeginLeaf(int64_t turn) {
  turn_ = turn, limited_ = true;
  state_->tapes_in_use = 0;
  state_->rows.BeginLeaf();
}

ExpertDispatch::LeafRows ExpertDispatch::most_rows() const { return state_->rows.most; }
void ExpertDispatch::ForgetRows() { state_->rows = {}; }

std::vector<LayerTraffic>& ExpertDispatch::traffic() const { return state_->traffic; }

int64_t ExpertDispatch::travel_bytes() const { return state_->travel.peak_bytes(); }
int64_t ExpertDispatch::travel_reserved_bytes() const { return state_->travel.reserved_bytes(); }
void ExpertDispatch::ReserveTravel(int64_t bytes) { state_->travel.Reserve(bytes); }

absl::Status ExpertDispatch::AgreeOnPieces(DispatchPlan* plan) const {
  const PieceCut bound{.most_rows = setup_->most_rows, .by_lane = plan->by_lane};
  int64_t pieces = PiecesNeeded(plan->groups, bound);
  RETURN_IF_ERROR(mesh_->dispatch().AllReduce("dispatch pieces", Tensor(&pieces, {1}, DType::kI64), ReduceOp::kMax));
  if (pieces == 1) return absl::OkStatus();
  plan->pieces = static_cast<int>(pieces);
  plan->bounded = true;
  return absl::OkStatus();
}

absl::StatusOr<PieceRun*> ExpertDispatch::Depart(Tape& tape, Var x, Var weights, const DispatchPlan& plan) const {
  const TraceSpan span("dispatch");
  Arena& arena = tape.arena();
  PieceState& state = *state_;
  const Tensor value = tape.value(x);
  PieceRun* const run = NewOf<PieceRun>(arena, 1);
  run->plan = plan, run->x = x, run->weights = weights;
  run->weighs_there = setup_->weighs_there() && !plan.bounded;
  const PieceCut cut{.pieces = plan.pieces, .most_rows = plan.bounded ? setup_->most_rows : 0, .by_lane = plan.by_lane};
  RETURN_IF_ERROR(MakePiecePlan(arena, plan, cut, &run->cut));
  run->outputs = NewOf<Tensor>(arena, plan.pieces);
  run->inputs = NewOf<Var>(arena, plan.pieces), run->results = NewOf<Var>(arena, plan.pieces);
  // Also for backward alone: here nothing else is on the way, there gradients of other blocks would be ahead of them.
  if (run->weighs_there || tape.differentiates()) RETURN_IF_ERROR(WeighThere(arena, plan, tape.value(weights), &run->weights_there));
  state.travel.Reset();
  state.out.Open(&state.travel,
                 {.plan = &run->cut, .whole = &run->plan, .label = kToExperts, .codec = setup_->dispatch_forward.get(), .tokens = value});
  if (!plan.bounded) {
    run->rows = arena.New({plan.received, value.dim(1)}, value.dtype());
    for (int p = 0; p < plan.pieces; ++p) RETURN_IF_ERROR(state.out.Begin(RowsOf(*run, p, run->rows)));
    tape.Accompany(&state);
  }
  run->root = tape.Record(arena.New({0}, value.dtype()), {x});
  tape.OnBackward(
      run->root, [this, run](Tape& t) { return HomeBackward(t, run); }, Tape::StepKind::kCollective);
  return run;
}

absl::StatusOr<Var> ExpertDispatch::Work(Tape& tape, PieceRun* run, const ExpertMlps& experts) const {
  Arena& arena = tape.arena();
  const MlpWeights& w = experts.weights;
  const std::span<const Var> blocks[] = {w.up, w.up_bias, w.down, w.down_bias};
  Var* const inputs = NewOf<Var>(arena, 2 + static_cast<int64_t>(4 * w.up.size()));
  size_t count = 0;
  inputs[count++] = run->root, inputs[count++] = run->weights;
  for (const std::span<const Var> of : blocks) {
    for (const Var v : of) inputs[count++] = v;
  }
  run->experts = experts;
  const Tensor x = tape.value(run->x);
  const Tensor y = arena.New({run->plan.tokens, x.dim(1)}, x.dtype());
  RETURN_IF_ERROR(WorkOnPieces(tape, run, y));
  tape.Accompany(nullptr);
  run->y = tape.Record(y, std::span<const Var>(inputs, count));
  tape.OnBackward(
      run->y, [this, run](Tape& t) { return WorkBackward(t, run); }, Tape::StepKind::kCollective);
  return run->y;
}

absl::Status ExpertDispatch::WorkOnPieces(Tape& tape, PieceRun* run, const Tensor& y) const {
  Arena& arena = tape.arena();
  PieceState& state = *state_;
  const DispatchPlan& plan = run->plan;
  const int64_t h = y.dim(1);
  const bool returns_for_gradients = tape.differentiates() && !plan.bounded;
  Tensor scaled;  // [m, h] where outputs are weighted here
  if (run->weighs_there) {
    scaled = state.travel.New({plan.received, h}, y.dtype());
  } else {
    run->home = arena.New({plan.tokens * plan.top_k, h}, y.dtype());
    state.home.Open(&state.travel, {.plan = &run->cut,
                                    .whole = &run->plan,
                                    .way = PieceLine::Way::kHome,
                                    .label = kToHome,
                                    .codec = setup_->combine_forward.get(),
                                    .tokens = run->home});
  }
  run->first_tape = state.tapes_in_use;
  if (returns_for_gradients) state.tapes_in_use += static_cast<size_t>(plan.pieces);
  for (int p = 0; p < plan.pieces; ++p) {
    const Arena::Mark mark = arena.Here(), on_the_way = state.travel.Here();
    Tensor rows = plan.bounded ? arena.New({run->cut.rows(p), h}, y.dtype()) : RowsOf(*run, p, run->rows);
    if (plan.bounded) RETURN_IF_ERROR(state.out.Begin(rows));
    RETURN_IF_ERROR(state.out.Await(p));
    Tape& inner = returns_for_gradients ? TapeAt(state, run->first_tape + static_cast<size_t>(p)) : PassingTape(state);
    Begin(inner, tape, returns_for_gradients);
    RecordPiece(inner, tape, *run, p, rows);
    run->outputs[p] = inner.value(run->results[p]);
    if (run->weighs_there) {
      ScaleRows(run->outputs[p], RowsOf(*run, p, run->weights_there), {.to = RowsOf(*run, p, scaled)});
    } else {
      RETURN_IF_ERROR(state.home.Begin(run->outputs[p]));
    }
    if (plan.bounded) {
      RETURN_IF_ERROR(state.home.Await(p));
      state.travel.Rewind(on_the_way);
    }
    if (!returns_for_gradients) arena.Rewind(mark);
  }
  RETURN_IF_ERROR(state.out.Close());
  if (!run->weighs_there) {
    RETURN_IF_ERROR(state.home.Close());
    WeightedSumOfCopies(run->home, tape.value(run->weights), CopiesOf(*run), y);
    return absl::OkStatus();
  }
  return ReturnWeighted(arena, plan, scaled, y);
}

absl::Status ExpertDispatch::WorkBackward(Tape& tape, PieceRun* run) const {
  const TraceSpan span("experts in pieces backward");
  Arena& arena = tape.arena();
  PieceState& state = *state_;
  const DispatchPlan& plan = run->plan;
  const Tensor dy = tape.gradient(run->y), dw = tape.wants_gradient(run->weights) ? tape.gradient(run->weights) : Tensor();
  const int64_t h = dy.dim(1);
  const Arena::Mark all = arena.Here();
  const bool wants_rows = tape.wants_gradient(run->root), sums = run->weighs_there;
  state.travel.Reset();
  state.out.Open(&state.travel,
                 {.plan = &run->cut, .whole = &run->plan, .label = kToExperts, .codec = setup_->combine_backward.get(), .tokens = dy});
  PieceLine& again = state.again;  // rows that were not kept
  if (plan.bounded) {
    again.Open(&state.travel, {.plan = &run->cut,
                               .whole = &run->plan,
                               .label = kToExperts,
                               .codec = setup_->dispatch_forward.get(),
                               .tokens = tape.value(run->x)});
  }
  if (wants_rows) {
    run->back = state.travel.New({sums ? plan.received : plan.tokens * plan.top_k, h}, dy.dtype());
    if (!sums) {
      state.home.Open(&state.travel, {.plan = &run->cut,
                                      .whole = &run->plan,
                                      .way = PieceLine::Way::kHome,
                                      .label = kToHome,
                                      .codec = setup_->dispatch_backward.get(),
                                      .tokens = run->back});
    }
  }
  Tensor arriving;
  if (!plan.bounded) {
    arriving = state.travel.New({plan.received, h}, dy.dtype());
    for (int p = 0; p < plan.pieces; ++p) RETURN_IF_ERROR(state.out.Begin(RowsOf(*run, p, arriving)));
    tape.Accompany(&state);
  }
  const Tensor products = run->weighs_there && dw.defined() ? arena.NewZeroed({plan.received, 1}, dw.dtype()) : Tensor();
  if (!run->weighs_there && dw.defined()) AddInnerProducts(dy, run->home, CopiesOf(*run), dw);
  for (int p = 0; p < plan.pieces; ++p) {
    const Arena::Mark mark = arena.Here(), on_the_way = state.travel.Here();
    const Shape shape{run->cut.rows(p), h};
    const Tensor d_rows = plan.bounded ? arena.New(shape, dy.dtype()) : RowsOf(*run, p, arriving), gradient = arena.New(shape, dy.dtype());
    if (plan.bounded) RETURN_IF_ERROR(state.out.Begin(d_rows));
    RETURN_IF_ERROR(state.out.Await(p));
    if (plan.bounded) {
      const Tensor rows = arena.New(shape, dy.dtype());
      RETURN_IF_ERROR(again.Begin(rows));
      RETURN_IF_ERROR(again.Await(p));
      Begin(PassingTape(state), tape, /*gradients=*/true);
      RecordPiece(PassingTape(state), tape, *run, p, rows);
    }
    Tape& inner = plan.bounded ? PassingTape(state) : TapeAt(state, run->first_tape + static_cast<size_t>(p));
    inner.Accompany(tape.companion());
    ScaleRows(d_rows, RowsOf(*run, p, run->weights_there), {.to = gradient});
    if (products.defined()) AddInnerProductsOfRows(d_rows, run->outputs[p], RowsOf(*run, p, products));
    ASSIGN_OR_RETURN(const Tensor back, WalkPieceBack(inner, *run, p, gradient));
    if (wants_rows && sums) RowsOf(*run, p, run->back).CopyFrom(back);
    if (wants_rows && !sums) {
      RETURN_IF_ERROR(state.home.Begin(back));
      if (plan.bounded) RETURN_IF_ERROR(state.home.Await(p));
    }
    if (plan.bounded) state.travel.Rewind(on_the_way);
    arena.Rewind(mark);
  }
  if (!plan.bounded) {
    CHECK_EQ(state.tapes_in_use, run->first_tape + static_cast<size_t>(plan.pieces)) << "recordings are walked back in turn";
    state.tapes_in_use = run->first_tape;
  }
  RETURN_IF_ERROR(state.out.Close());
  if (plan.bounded) RETURN_IF_ERROR(again.Close());
  if (products.defined()) RETURN_IF_ERROR(ReturnProducts(arena, plan, products, dw));
  if (!wants_rows) tape.Accompany(nullptr);
  arena.Rewind(all);
  return absl::OkStatus();
}

absl::Status ExpertDispatch::HomeBackward(Tape& tape, PieceRun* run) const {
  const TraceSpan span("dispatch backward");
  tape.Accompany(nullptr);
  const Tape::GradientTarget dx = tape.gradient_target(run->x);
  if (run->weighs_there) return DispatchBackward(tape.arena(), run->back, dx, run->plan);
  RETURN_IF_ERROR(state_->home.Close());
  SumCopies(run->back, CopiesOf(*run), dx.tensor, dx.accumulate);
  return absl::OkStatus();
}

}  // namespace conclave
