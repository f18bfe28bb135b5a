#include "parallel/token_route.h"

#include <algorithm>

#include "parallel/hop_counts.h"
#include "parallel/row_exchange.h"
#include "parallel/row_moves.h"

namespace conclave {
namespace {

// y[index[i]] = the sum over i, in order, of x[i]; rows that nothing is added to are 0. x: [m, w], y: [n, w].
void SumRows(Arena& arena, const Tensor& x, std::span<const int64_t> index, const Tensor& y) {
  const Arena::Mark mark = arena.Here();
  const std::span<uint8_t> written = arena.NewZeroed({y.dim(0)}, DType::kU8).span<uint8_t>();
  const int64_t bytes = BytesOfRow(x);
  for (size_t i = 0; i < index.size(); ++i) {
    const Tensor from = x.Slice(static_cast<int64_t>(i), 1), to = y.Slice(index[i], 1);
    if (written[index[i]] != 0) {
      AddRows(from, to);
    } else {
      std::copy_n(static_cast<const std::byte*>(from.raw()), bytes, static_cast<std::byte*>(to.raw()));
    }
    written[index[i]] = 1;
  }
  for (int64_t t = 0; t < y.dim(0); ++t) {
    if (written[t] == 0) y.Slice(t, 1).Zero();
  }
  arena.Rewind(mark);
}

}  // namespace

TokenRoute::TokenRoute(const Mesh* mesh, const DispatchGrid* grid, DispatchConfig::Route kind, bool folds)
    : mesh_(mesh), grid_(grid), kind_(kind), folds_(folds) {
  CHECK(!folds || SendsOnce(kind));
  CHECK(kind != DispatchConfig::AUTO);
  CHECK(grid != nullptr || !InTwoLevels(kind));
}

RowsElsewhere TokenRoute::OwnCopies(const DispatchPlan& plan, const Tensor& rows) {
  if (plan.own_row.empty()) return {};
  const RouteHop& hop = plan.hops[0];
  const RowsElsewhere own = OwnRows(*hop.group, hop.send_copies, hop.recv_copies);
  return {.begin = own.first, .rows = own.rows, .memory = rows, .index = plan.own_row};
}

absl::Status TokenRoute::SendRows(Arena& arena, const DispatchPlan& plan, const Tensor& x, const Tensor& rows, const Wire& wire) const {
  const Arena::Mark mark = arena.Here();
  Tensor current = x, last = rows;
  if (wire.codec != nullptr) {
    current = arena.New({x.dim(0), wire.codec->row_bytes()}, DType::kU8);
    wire.codec->Encode(x, current);
    last = arena.New({plan.received, wire.codec->row_bytes()}, DType::kU8);
  }
  RowTally* const tally = plan.Count(TokenWay::kRoute, BytesOfRow(current));
  RowsElsewhere own;
  const auto take_own = [&] { GatherRowsElsewhere(own, plan.row_of, last); };  // before the last hop there are none
  for (const RouteHop& hop : std::span(plan.hops, plan.hop_count)) {
    const bool ends = &hop + 1 == plan.hops + plan.hop_count;
    const Tensor send = arena.New({static_cast<int64_t>(hop.row_source.size()), current.dim(1)}, current.dtype());
    const Tensor recv = arena.New({hop.rows_received, current.dim(1)}, current.dtype());
    if (ends) {
      own = OwnRows(*hop.group, hop.send_rows, hop.recv_rows);
      own.memory = current, own.index = hop.row_source;
      const int64_t after = own.first + own.rows;
      GatherRowsInto(current, hop.row_source.first(own.first), send);
      GatherRowsInto(current, hop.row_source.subspan(after), send.Slice(after, send.dim(0) - after));
    } else {
      GatherRowsInto(current, hop.row_source, send);
    }
    const RowExchange exchange{hop.group, wire.label, hop.send_rows, hop.recv_rows, BytesOfRow(current), tally, ends};
    RETURN_IF_ERROR(ExchangeRows(arena, exchange, send, recv, take_own));
    current = recv;
  }
  GatherRowsInto(current, plan.row_of, last, own);
  if (wire.codec != nullptr) RETURN_IF_ERROR(wire.codec->Decode(last, rows));
  arena.Rewind(mark);
  return absl::OkStatus();
}

absl::Status TokenRoute::SendCopies(Arena& arena, const DispatchPlan& plan, const Tensor& x, const Tensor& rows, const Wire& wire) const {
  CHECK(wire.codec == nullptr && (!wire.own_stay || plan.hop_count == 1));
  const Arena::Mark mark = arena.Here();
  Tensor current = x;
  RowTally* const tally = wire.rest ? plan.rest() : plan.Count(TokenWay::kSlots, BytesOfRow(x));
  RowsElsewhere own;
  const auto take_own = [&] {
    if (!wire.own_stay) GatherRowsElsewhere(own, plan.wire_of, rows);
  };
  for (const RouteHop& hop : std::span(plan.hops, plan.hop_count)) {
    const bool ends = &hop + 1 == plan.hops + plan.hop_count;
    const int64_t sent = static_cast<int64_t>(hop.copy_source.size());
    const Tensor recv = arena.New({hop.copies_received, current.dim(1)}, current.dtype());
    Tensor send = x.Slice(0, std::min(sent, x.dim(0)));
    if (&hop != plan.hops) {
      send = arena.New({sent, current.dim(1)}, current.dtype());
      GatherRowsInto(current, hop.copy_source, send);
    }
    if (ends) {
      own = OwnRows(*hop.group, hop.send_copies, hop.recv_copies);
      own.memory = send;
    }
    const RowExchange exchange{hop.group, wire.label, hop.send_copies, hop.recv_copies, BytesOfRow(current), tally, ends};
    RETURN_IF_ERROR(ExchangeRows(arena, exchange, send, recv, take_own));
    current = recv;
  }
  GatherRowsInto(current, plan.wire_of, rows, own);
  arena.Rewind(mark);
  return absl::OkStatus();
}

absl::Status TokenRoute::ReturnCopies(Arena& arena, const DispatchPlan& plan, const Tensor& rows, const Tensor& home,
                                      const Wire& wire) const {
  CHECK(!wire.own_stay || (wire.codec == nullptr && plan.hop_count == 1));
  const Arena::Mark mark = arena.Here();
  Tensor current = rows, last = home;
  if (wire.codec != nullptr) {
    current = arena.New({rows.dim(0), wire.codec->row_bytes()}, DType::kU8);
    wire.codec->Encode(rows, current);
    last = arena.New({home.dim(0), wire.codec->row_bytes()}, DType::kU8);
  }
  RowTally* const tally = wire.rest ? plan.rest() : plan.Count(TokenWay::kSlots, BytesOfRow(current));
  std::span<const int64_t> place = plan.wire_of;
  for (int h = plan.hop_count - 1; h >= 0; --h) {
    const RouteHop& hop = plan.hops[h];
    const Tensor send = arena.New({hop.copies_received, current.dim(1)}, current.dtype());
    const int64_t sent = static_cast<int64_t>(hop.copy_source.size());
    const Tensor recv = h == 0 ? last.Slice(0, sent) : arena.New({sent, current.dim(1)}, current.dtype());
    RowsElsewhere own = OwnRows(*hop.group, hop.send_copies, hop.recv_copies);
    own.memory = recv;
    ScatterRows(current, place, send, own);
    const RowExchange exchange{hop.group, wire.label, hop.recv_copies, hop.send_copies, BytesOfRow(current), tally, /*own_stay=*/true};
    RETURN_IF_ERROR(ExchangeRows(arena, exchange, send, recv, [&] {
      if (!wire.own_stay) ScatterRowsElsewhere(current, place, own);
    }));
    current = recv;
    place = hop.copy_source;
  }
  if (wire.codec != nullptr) RETURN_IF_ERROR(wire.codec->Decode(current, home.Slice(0, current.dim(0))));
  arena.Rewind(mark);
  return absl::OkStatus();
}

absl::Status TokenRoute::ReturnFolded(Arena& arena, const DispatchPlan& plan, const Tensor& rows, const Tensor& items,
                                      std::string_view label) const {
  CHECK(folds_);
  const Arena::Mark mark = arena.Here();
  const int64_t k = plan.top_k, bytes = BytesOfRow(rows);
  RowTally* const tally = plan.Count(TokenWay::kFolded, bytes);
  Tensor current = rows;
  std::span<const int64_t> place = plan.wire_of;
  if (plan.hop_count == 2) {
    const RouteHop& hop = plan.hops[1];
    const Tensor send = arena.New({hop.copies_received, rows.dim(1)}, rows.dtype());
    current = arena.New({static_cast<int64_t>(hop.copy_source.size()), rows.dim(1)}, rows.dtype());
    ScatterRows(rows, place, send);
    RETURN_IF_ERROR(ExchangeRows(arena, {hop.group, label, hop.recv_copies, hop.send_copies, bytes, tally}, send, current));
    place = hop.copy_source;
  }
  const RouteHop& hop = plan.hops[0];
  const Tensor copies = arena.New({hop.copies_received, rows.dim(1)}, rows.dtype());
  ScatterRows(current, place, copies);
  const Tensor folded = arena.New({Total(hop.send_items), rows.dim(1)}, rows.dtype());
  int64_t next = 0;
  for (int64_t p = 0; p < hop.copies_received; ++p) {
    const std::span<const int64_t> slots = hop.by_slot.subspan(hop.token[p] * k, k);
    const int64_t run = RunOfSlots(slots);
    if (hop.slot[p] > 0 && hop.slot[p] < run) continue;
    const Tensor to = folded.Slice(next++, 1);
    std::copy_n(static_cast<const std::byte*>(copies.Slice(p, 1).raw()), bytes, static_cast<std::byte*>(to.raw()));
    for (int64_t s = 1; hop.slot[p] == 0 && s < run; ++s) AddRows(copies.Slice(slots[s], 1), to);
  }
  RETURN_IF_ERROR(ExchangeRows(arena, {hop.group, label, hop.send_items, hop.recv_items, bytes, tally}, folded, items));
  arena.Rewind(mark);
  return absl::OkStatus();
}

absl::Status TokenRoute::ReturnSums(Arena& arena, const DispatchPlan& plan, const Tensor& rows, const Tensor& y, const Wire& wire) const {
  const Arena::Mark mark = arena.Here();
  Tensor current = rows;
  std::span<const int64_t> index = plan.row_of;
  RowTally* const tally = plan.Count(TokenWay::kRoute, wire.codec == nullptr ? BytesOfRow(y) : wire.codec->row_bytes());
  for (int h = plan.hop_count - 1; h >= 0; --h) {
    const RouteHop& hop = plan.hops[h];
    const int64_t sent = static_cast<int64_t>(hop.row_source.size());
    const Tensor sums = arena.New({hop.rows_received, y.dim(1)}, y.dtype()), back = arena.New({sent, y.dim(1)}, y.dtype());
    SumRows(arena, current, index, sums);
    if (wire.codec == nullptr) {
      RETURN_IF_ERROR(ExchangeRows(arena, {hop.group, wire.label, hop.recv_rows, hop.send_rows, BytesOfRow(sums), tally}, sums, back));
    } else {
      const int64_t bytes = wire.codec->row_bytes();
      const Tensor out = arena.New({hop.rows_received, bytes}, DType::kU8), in = arena.New({sent, bytes}, DType::kU8);
      wire.codec->Encode(sums, out);
      RETURN_IF_ERROR(ExchangeRows(arena, {hop.group, wire.label, hop.recv_rows, hop.send_rows, bytes, tally}, out, in));
      RETURN_IF_ERROR(wire.codec->Decode(in, back));
    }
    current = back;
    index = hop.row_source;
  }
  SumRows(arena, current, index, y);
  arena.Rewind(mark);
  return absl::OkStatus();
}

}  // namespace conclave
