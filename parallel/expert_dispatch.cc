#include "parallel/expert_dispatch.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace conclave {
namespace {

std::span<int64_t> NewIndices(Arena& arena, int64_t n) { return arena.NewZeroed({n}, DType::kI64).span<int64_t>(); }

// to[i] = from[index[i]], rows of `row_bytes`.
void GatherRowsRaw(const Tensor& from, std::span<const int64_t> index, const Tensor& to, int64_t row_bytes) {
  const std::byte* source = static_cast<const std::byte*>(from.raw());
  std::byte* out = static_cast<std::byte*>(to.raw());
  for (size_t i = 0; i < index.size(); ++i) std::memcpy(out + i * row_bytes, source + index[i] * row_bytes, row_bytes);
}

// to[index[i]] = from[i].
void ScatterRowsRaw(const Tensor& from, std::span<const int64_t> index, const Tensor& to, int64_t row_bytes) {
  const std::byte* source = static_cast<const std::byte*>(from.raw());
  std::byte* out = static_cast<std::byte*>(to.raw());
  for (size_t i = 0; i < index.size(); ++i) std::memcpy(out + index[i] * row_bytes, source + i * row_bytes, row_bytes);
}

int64_t RowBytes(const Tensor& t) { return t.dim(-1) * SizeOf(t.dtype()); }

// send[position(t, s)] = x[t].
void SpreadTokens(const Tensor& x, const DispatchPlan& plan, const Tensor& send) {
  const int64_t row = RowBytes(x);
  const std::byte* source = static_cast<const std::byte*>(x.raw());
  std::byte* out = static_cast<std::byte*>(send.raw());
  for (int64_t i = 0; i < plan.tokens * plan.top_k; ++i) std::memcpy(out + plan.position[i] * row, source + i / plan.top_k * row, row);
}

// dx[t] += sum over slots, in slot order, of g[position(t, s)].
template <typename T>
void SumSlots(const T* g, const DispatchPlan& plan, int64_t h, T* dx) {
  for (int64_t t = 0; t < plan.tokens; ++t) {
    for (int64_t s = 0; s < plan.top_k; ++s) {
      const T* row = g + plan.position[t * plan.top_k + s] * h;
      for (int64_t c = 0; c < h; ++c) dx[t * h + c] += row[c];
    }
  }
}

// y[t] = sum over slots, in slot order, of w[t, s] * out[position(t, s)].
template <typename T>
void WeightedSum(const T* out, const T* w, const DispatchPlan& plan, int64_t h, T* y) {
  std::fill(y, y + plan.tokens * h, T{0});
  for (int64_t i = 0; i < plan.tokens * plan.top_k; ++i) {
    const T* row = out + plan.position[i] * h;
    T* target = y + i / plan.top_k * h;
    for (int64_t c = 0; c < h; ++c) target[c] += w[i] * row[c];
  }
}

// g[position(t, s)] = w[t, s] * dy[t];  dw[t, s] += <dy[t], out[position(t, s)]>.
template <typename T>
void WeightedSumBackward(const T* dy, const T* out, const T* w, const DispatchPlan& plan, int64_t h, T* g, T* dw) {
  for (int64_t i = 0; i < plan.tokens * plan.top_k; ++i) {
    const T* cotangent = dy + i / plan.top_k * h;
    const T* row = out + plan.position[i] * h;
    T* target = g + plan.position[i] * h;
    double dot = 0;
    for (int64_t c = 0; c < h; ++c) {
      target[c] = w[i] * cotangent[c];
      dot += static_cast<double>(cotangent[c]) * static_cast<double>(row[c]);
    }
    if (dw != nullptr) dw[i] += static_cast<T>(dot);
  }
}

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
  for (int64_t i = 0; i < n * k; ++i) ++counts[group(i)];
  std::exclusive_scan(counts.begin(), counts.end(), next.begin(), int64_t{0});
  for (int64_t i = 0; i < n * k; ++i) plan->position[i] = next[group(i)]++;
  for (int64_t g = 0; g < int64_t{ranks} * slots; ++g) plan->send_rows[g / slots] += counts[g];

  const Tensor received = arena.NewZeroed({ranks, slots}, DType::kI64);  // [source, local expert]
  const Tensor sent(counts.data(), {ranks, slots}, DType::kI64);
  const std::span<int64_t> bytes = NewIndices(arena, ranks), offsets = NewIndices(arena, ranks);
  for (int r = 0; r < ranks; ++r) {
    bytes[r] = slots * int64_t{sizeof(int64_t)};
    offsets[r] = r * bytes[r];
  }
  RETURN_IF_ERROR(mesh_->dispatch().AllToAllV({.kind = CollectiveKind::kAllToAllV, .label = "dispatch counts", .send = sent, .recv = received,
                                               .send_bytes = bytes, .send_offsets = offsets, .recv_bytes = bytes, .recv_offsets = offsets}));
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
  Arena& arena = tape.arena();
  RETURN_IF_ERROR(MakePlan(arena, ids, layer, plan));
  const Tensor value = tape.value(x);
  const int64_t h = value.dim(1), copies = plan->tokens * plan->top_k;
  const Tensor rows = arena.New({plan->received, h}, value.dtype());
  const Arena::Mark scratch = arena.Here();
  const Tensor send = arena.New({copies, h}, value.dtype()), wire = arena.New({plan->received, h}, value.dtype());
  SpreadTokens(value, *plan, send);
  RETURN_IF_ERROR(Move(arena, *plan, Direction::kToExperts, send, wire));
  GatherRowsRaw(wire, plan->wire_of, rows, RowBytes(value));
  arena.Rewind(scratch);

  const Var output = tape.Record(rows, {x});
  tape.OnBackward(
      output,
      [this, x, output, h, plan = *plan](Tape& t) -> absl::Status {
        Arena& a = t.arena();
        const Tensor g = t.gradient(output);
        const Tensor dx = t.gradient(x);
        const Arena::Mark mark = a.Here();
        const Tensor w = a.New(g.shape(), g.dtype()), home = a.New({plan.tokens * plan.top_k, h}, g.dtype());
        ScatterRowsRaw(g, plan.wire_of, w, RowBytes(g));
        RETURN_IF_ERROR(Move(a, plan, Direction::kToHome, w, home));
        DispatchFloat(g.dtype(), [&](auto type) { SumSlots(home.data<decltype(type)>(), plan, h, dx.data<decltype(type)>()); });
        a.Rewind(mark);
        return absl::OkStatus();
      },
      Tape::StepKind::kCollective);
  return output;
}

absl::StatusOr<Var> ExpertDispatch::Combine(Tape& tape, Var rows, Var weights, const DispatchPlan& plan) const {
  Arena& arena = tape.arena();
  const Tensor value = tape.value(rows);
  const int64_t h = value.dim(1);
  const Tensor y = arena.New({plan.tokens, h}, value.dtype());
  const Tensor home = arena.New({plan.tokens * plan.top_k, h}, value.dtype());  // kept: the weights' gradient needs it
  const Arena::Mark scratch = arena.Here();
  const Tensor wire = arena.New(value.shape(), value.dtype());
  ScatterRowsRaw(value, plan.wire_of, wire, RowBytes(value));
  RETURN_IF_ERROR(Move(arena, plan, Direction::kToHome, wire, home));
  arena.Rewind(scratch);
  DispatchFloat(value.dtype(), [&](auto type) {
    using T = decltype(type);
    WeightedSum(home.data<T>(), tape.value(weights).data<T>(), plan, h, y.data<T>());
  });

  const Var output = tape.Record(y, {rows, weights});
  tape.OnBackward(
      output,
      [this, rows, weights, output, home, h, plan](Tape& t) -> absl::Status {
        Arena& a = t.arena();
        const Tensor dy = t.gradient(output);
        const Tensor drows = t.gradient(rows);
        const bool weighted = t.wants_gradient(weights);
        const Tensor dw = weighted ? t.gradient(weights) : Tensor();
        const Arena::Mark mark = a.Here();
        const Tensor send = a.New(home.shape(), home.dtype()), wire = a.New(drows.shape(), drows.dtype());
        DispatchFloat(dy.dtype(), [&](auto type) {
          using T = decltype(type);
          WeightedSumBackward(dy.data<T>(), home.data<T>(), t.value(weights).data<T>(), plan, h, send.data<T>(), weighted ? dw.data<T>() : nullptr);
        });
        RETURN_IF_ERROR(Move(a, plan, Direction::kToExperts, send, wire));
        DispatchFloat(dy.dtype(), [&](auto type) {
          using T = decltype(type);
          const T* source = wire.data<T>();
          T* target = drows.data<T>();
          for (int64_t i = 0; i < plan.received; ++i) {
            for (int64_t c = 0; c < h; ++c) target[i * h + c] += source[plan.wire_of[i] * h + c];
          }
        });
        a.Rewind(mark);
        return absl::OkStatus();
      },
      Tape::StepKind::kCollective);
  return output;
}

absl::Status ExpertDispatch::SumOverTokens(const Tensor& counts) const { return mesh_->control().AllReduce("token counts", counts, ReduceOp::kSum); }

}  // namespace conclave
