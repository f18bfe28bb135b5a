#include "parallel/coherent_dispatch.h"

#include <algorithm>
#include <cstring>

#include "base/trace.h"
#include "comm/part_table.h"

namespace conclave {
namespace {

// A token on the wire: x | weights | experts | sequence.
struct TravelFormat {
  int64_t x, weights, experts;
  int64_t bytes() const { return x + weights + experts + int64_t{sizeof(int32_t)}; }
  TravelFormat(int64_t width, int64_t k, DType dtype)
      : x(width * SizeOf(dtype)), weights(k * SizeOf(dtype)), experts(k * int64_t{sizeof(int32_t)}) {}
};

std::byte* RowAt(const Tensor& t, int64_t row) { return static_cast<std::byte*>(t.raw()) + row * t.dim(1) * SizeOf(t.dtype()); }

std::span<int64_t> Zeros(Arena& arena, int64_t n) { return arena.NewZeroed({n}, DType::kI64).span<int64_t>(); }

// A copy's output on its way to the token.
struct OutputMove {
  int64_t peer, sequence, slot;
  int64_t place;  // of the output among the copies; at the token: of (token, slot)
  auto operator<=>(const OutputMove&) const = default;
};

std::span<OutputMove> NewMoves(Arena& arena, int64_t n) {
  return {static_cast<OutputMove*>(arena.Allocate(std::max<int64_t>(n, 1) * int64_t{sizeof(OutputMove)})), static_cast<size_t>(n)};
}

}  // namespace

CoherentDispatch::CoherentDispatch(const Mesh* mesh, const ExpertPlacement* placement, const DispatchSetup* setup, int top_k)
    : mesh_(mesh), placement_(placement), route_(mesh, setup->grid.get(), RouteOf(InTwoLevels(setup->route), top_k > 1)) {}

absl::Status CoherentDispatch::Move(Arena& arena, const TravellingRows& rows, std::span<const int32_t> sequence, int layer,
                                    TravellingArrival* arrival) {
  const TraceSpan span("travel");
  const int64_t n = rows.ids.dim(0), k = rows.ids.dim(1), width = rows.x.dim(1);
  CHECK_EQ(static_cast<int64_t>(sequence.size()), n);
  const DType dtype = rows.x.dtype();
  const TravelFormat format(width, k, dtype);
  const int32_t* ids = rows.ids.data<int32_t>();
  for (int64_t i = 0; i < n; ++i) hops_ += placement_->coordinate(layer, ids[i * k]) != mesh_->expert_coordinate() ? 1 : 0;
  moves_ += n;
  RETURN_IF_ERROR(route_.MakePlan(arena, *placement_, {.ids = rows.ids, .layer = layer}, &arrival->plan));
  const int64_t m = arrival->plan.received;
  const Tensor packed = arena.New({n, format.bytes()}, DType::kU8), here = arena.New({m, format.bytes()}, DType::kU8);
  for (int64_t i = 0; i < n; ++i) {
    std::byte* to = RowAt(packed, i);
    std::memcpy(to, RowAt(rows.x, i), format.x);
    std::memcpy(to + format.x, RowAt(rows.weights, i), format.weights);
    std::memcpy(to + format.x + format.weights, ids + i * k, format.experts);
    std::memcpy(to + format.x + format.weights + format.experts, &sequence[i], sizeof(int32_t));
  }
  RETURN_IF_ERROR(route_.SendRows(arena, arrival->plan, packed, here, {"dispatch rows"}));

  arrival->copies = arena.New({m, width}, dtype);
  arrival->experts = arena.New({m * k}, DType::kI32).span<int32_t>();
  arrival->sequence = arena.New({m}, DType::kI32).span<int32_t>();
  arrival->slot = arena.New({m}, DType::kI32).span<int32_t>();
  const std::span<int64_t> own = Zeros(arena, m);
  int64_t tokens = 0, i = 0;
  const RowGroups& groups = arrival->plan.groups;
  for (int64_t e = 0; e < groups.experts; ++e) {
    const int32_t expert = placement_->expert_at(layer, mesh_->expert_coordinate(), static_cast<int>(e));
    int64_t count = 0;
    for (int lane = 0; lane < groups.lanes; ++lane) count += groups.rows[e * groups.lanes + lane];
    for (; count > 0; --count, ++i) {
      const std::byte* from = RowAt(here, i);
      std::memcpy(RowAt(arrival->copies, i), from, format.x);
      int32_t* const experts = arrival->experts.data() + i * k;
      std::memcpy(experts, from + format.x + format.weights, format.experts);
      std::memcpy(&arrival->sequence[i], from + format.x + format.weights + format.experts, sizeof(int32_t));
      arrival->slot[i] = static_cast<int32_t>(std::find(experts, experts + k, expert) - experts);
      if (arrival->slot[i] == 0) own[tokens++] = i;
    }
  }
  arrival->own = own.first(tokens);
  arrival->tokens = arena.New({tokens, width}, dtype);
  arrival->weights = arena.New({tokens, k}, dtype);
  GatherRowsInto(arrival->copies, arrival->own, arrival->tokens);
  for (int64_t t = 0; t < tokens; ++t) std::memcpy(RowAt(arrival->weights, t), RowAt(here, own[t]) + format.x, format.weights);
  return absl::OkStatus();
}

absl::StatusOr<Tensor> CoherentDispatch::Settle(Arena& arena, const TravellingArrival& arrival, const Tensor& out, int layer) const {
  const int64_t t = arrival.tokens.dim(0), k = arrival.weights.dim(1), m = out.dim(0), width = out.dim(1);
  const int ranks = placement_->axis(), me = mesh_->expert_coordinate();
  const Tensor y = arena.New({t, width}, out.dtype());
  const std::span<int64_t> position = Zeros(arena, t * k);
  if (k == 1) {
    std::ranges::copy(arrival.own, position.begin());
    WeightedSumOfCopies(out, arrival.weights, {position, k}, y);
    return y;
  }
  // Both ends know what travels: outputs go from the rank of their expert to that of their token's slot 0, ordered by sequence and slot.
  const std::span<OutputMove> leaving = NewMoves(arena, m), coming = NewMoves(arena, t * (k - 1));
  int64_t left = 0, came = 0;
  for (int64_t i = 0; i < m; ++i) {
    const int home = placement_->coordinate(layer, arrival.experts[i * k]);
    if (arrival.slot[i] > 0) leaving[left++] = {home, arrival.sequence[i], arrival.slot[i], i};
  }
  for (int64_t token = 0; token < t; ++token) {
    const int64_t at = arrival.own[token];
    position[token * k] = at;
    for (int64_t s = 1; s < k; ++s) {
      coming[came++] = {placement_->coordinate(layer, arrival.experts[at * k + s]), arrival.sequence[at], s, token * k + s};
    }
  }
  std::sort(leaving.begin(), leaving.begin() + left);
  std::sort(coming.begin(), coming.begin() + came);
  // Those that stay take part in the exchange: a copy to self, no message.
  const int64_t row = width * SizeOf(out.dtype());
  const PartTable parts = PartTable::Over(Zeros(arena, 4 * ranks));
  for (int64_t i = 0; i < left; ++i) parts.send_bytes[leaving[i].peer] += row;
  for (int64_t i = 0; i < came; ++i) parts.recv_bytes[coming[i].peer] += row;
  CHECK_EQ(parts.send_bytes[me], parts.recv_bytes[me]);
  const Tensor send = arena.New({left, width}, out.dtype()), all = arena.New({m + came, width}, out.dtype());
  for (int64_t i = 0; i < left; ++i) std::memcpy(RowAt(send, i), RowAt(out, leaving[i].place), row);
  all.Slice(0, m).CopyFrom(out);
  const Tensor received = all.Slice(m, came);
  RETURN_IF_ERROR(mesh_->dispatch().AllToAllV(parts.Exchange("combine rows", send, received)));
  for (int64_t i = 0; i < came; ++i) position[coming[i].place] = m + i;
  WeightedSumOfCopies(all, arrival.weights, {position, k}, y);
  return y;
}

}  // namespace conclave
