#include "parallel/token_route.h"

#include <algorithm>
#include <numeric>

#include "parallel/row_exchange.h"
#include "parallel/row_moves.h"

namespace conclave {
namespace {

int64_t Total(std::span<const int64_t> counts) { return std::accumulate(counts.begin(), counts.end(), int64_t{0}); }

// What this rank sends itself in an exchange, which needs no copy on the way: its places among what is received stand for as many among
// what is sent. The memory is still to be named.
RowsElsewhere OwnRows(const Communicator& group, std::span<const int64_t> sent, std::span<const int64_t> received) {
  const auto me = static_cast<size_t>(group.rank());
  return {.begin = Total(received.first(me)), .rows = sent[me], .first = Total(sent.first(me))};
}

// What a copy is called on the wire where rows are shared: its row in the member's block, and its slot above.
constexpr int kRowBits = 25;
static_assert(kMostFoldedSlots == 1 << (31 - kRowBits));
int64_t SharedRow(int32_t name) { return name & ((1 << kRowBits) - 1); }
int64_t SharedSlot(int32_t name) { return name >> kRowBits; }

// Slots 0, 1, .. of a token that are in one place.
int64_t RunOfSlots(std::span<const int64_t> copies) {
  int64_t run = 0;
  while (run < static_cast<int64_t>(copies.size()) && copies[run] >= 0) ++run;
  return run;
}

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

// Copies on their way: each goes to `member` of the next hop's group, is of class `klass` there, and is a copy of row `row`.
struct TokenRoute::CopyList {
  int64_t copies = 0, rows = 0, classes = 1;
  int64_t top_k = 0;                              // of the first hop of a route that folds: source = token * top_k + slot
  std::span<int64_t> source, member, klass, row;  // source: place before the hop
  static CopyList New(Arena& arena, int64_t copies, int64_t rows) {
    return {.copies = copies,
            .rows = rows,
            .source = NewIntegers(arena, copies),
            .member = NewIntegers(arena, copies),
            .klass = NewIntegers(arena, copies),
            .row = NewIntegers(arena, copies)};
  }
};

TokenRoute::TokenRoute(const Mesh* mesh, const DispatchGrid* grid, DispatchConfig::Route kind, bool folds)
    : mesh_(mesh), grid_(grid), kind_(kind), folds_(folds) {
  CHECK(!folds || SendsOnce(kind));
  CHECK(kind != DispatchConfig::AUTO);
  CHECK(grid != nullptr || !InTwoLevels(kind));
}

// What members of a hop tell each other before any row travels.
struct TokenRoute::HopTables {
  int64_t classes = 1, width = 1;     // width: of a row of counts; the last column, where rows are shared: their number
  Tensor sent, received;              // i64 [members, width]
  std::span<int64_t> order;           // places in the list before, by (member, class), stable
  std::span<int32_t> shared;          // by copy sent: its row inside the member's block
  std::span<int32_t> shared_arrived;  // by copy received
};

// Rows: those of each member's copies, in the order in which these name them first.
void TokenRoute::ShareRows(Arena& arena, const CopyList& before, HopTables* tables, RouteHop* hop) {
  tables->shared = arena.New({before.copies}, DType::kI32).span<int32_t>();
  hop->send_rows = NewIntegers(arena, tables->sent.dim(0));
  hop->sent_row = NewIntegers(arena, before.copies);
  const std::span<int64_t> seen = NewIntegers(arena, before.rows), place = NewIntegers(arena, before.rows);
  int64_t rows = 0, p = 0;
  for (int64_t g = 0; g < tables->sent.dim(0); ++g) {
    const int64_t begin = rows;
    for (const int64_t end = p + hop->send_copies[g]; p < end; ++p) {
      const int64_t row = before.row[tables->order[p]];
      if (seen[row] != g + 1) {
        seen[row] = g + 1;
        place[row] = rows - begin;
        hop->row_source[rows++] = row;
      }
      hop->sent_row[p] = begin + place[row];
      const int64_t slot = before.top_k > 0 ? before.source[tables->order[p]] % before.top_k : 0;
      tables->shared[p] = static_cast<int32_t>(slot << kRowBits | place[row]);
    }
    CHECK_LE(rows - begin, int64_t{1} << kRowBits);
    hop->send_rows[g] = tables->sent.data<int64_t>()[g * tables->width + tables->classes] = rows - begin;
  }
  hop->row_source = hop->row_source.first(rows);
}

// `after` gets member = the sender, klass = the class it was sent under.
absl::Status TokenRoute::MakeHop(Arena& arena, const CopyList& before, RowTally* tally, RouteHop* hop, CopyList* after) const {
  const int members = hop->group->size();
  HopTables tables{.classes = before.classes, .width = before.classes + (deduplicates() ? 1 : 0)};
  tables.sent = arena.NewZeroed({members, tables.width}, DType::kI64),
  tables.received = arena.NewZeroed({members, tables.width}, DType::kI64);
  int64_t* counts = tables.sent.data<int64_t>();
  for (int64_t i = 0; i < before.copies; ++i) ++counts[before.member[i] * tables.width + before.klass[i]];
  const std::span<int64_t> next = NewIntegers(arena, members * tables.classes);
  hop->send_copies = NewIntegers(arena, members), hop->recv_copies = NewIntegers(arena, members);
  for (int64_t g = 0, at = 0; g < members; ++g) {
    for (int64_t c = 0; c < tables.classes; ++c) {
      next[g * tables.classes + c] = at;
      at += counts[g * tables.width + c];
      hop->send_copies[g] += counts[g * tables.width + c];
    }
  }
  tables.order = NewIntegers(arena, before.copies);
  for (int64_t i = 0; i < before.copies; ++i) tables.order[next[before.member[i] * tables.classes + before.klass[i]]++] = i;
  hop->copy_source = NewIntegers(arena, before.copies), hop->row_source = NewIntegers(arena, before.copies);
  for (int64_t p = 0; p < before.copies; ++p) {
    hop->copy_source[p] = before.source[tables.order[p]];
    hop->row_source[p] = before.row[tables.order[p]];
  }
  hop->send_rows = hop->send_copies;
  if (deduplicates()) ShareRows(arena, before, &tables, hop);
  const std::span<int64_t> ones = NewIntegers(arena, members);
  std::ranges::fill(ones, 1);
  const int64_t row_bytes = tables.width * int64_t{sizeof(int64_t)};
  RETURN_IF_ERROR(ExchangeRows(arena, {hop->group, "dispatch counts", ones, ones, row_bytes, tally}, tables.sent, tables.received));

  const int64_t* arrived = tables.received.data<int64_t>();
  for (int64_t g = 0; g < members; ++g) hop->recv_copies[g] = Total({arrived + g * tables.width, static_cast<size_t>(tables.classes)});
  hop->copies_received = Total(hop->recv_copies);
  hop->recv_rows = hop->recv_copies;
  if (deduplicates()) {
    hop->recv_rows = NewIntegers(arena, members);
    for (int64_t g = 0; g < members; ++g) hop->recv_rows[g] = arrived[g * tables.width + tables.classes];
    const Tensor out(tables.shared.data(), {before.copies}, DType::kI32), in = arena.New({hop->copies_received}, DType::kI32);
    const RowExchange exchange{hop->group, "dispatch slots", hop->send_copies, hop->recv_copies, int64_t{sizeof(int32_t)}, tally};
    RETURN_IF_ERROR(ExchangeRows(arena, exchange, out, in));
    tables.shared_arrived = in.span<int32_t>();
  }
  hop->rows_received = Total(hop->recv_rows);
  if (before.top_k > 0) FoldThere(arena, tables.shared_arrived, hop->recv_rows, before.top_k, hop);

  *after = CopyList::New(arena, hop->copies_received, hop->rows_received);
  int64_t at = 0, first_row = 0;
  for (int64_t g = 0; g < members; first_row += hop->recv_rows[g++]) {
    for (int64_t c = 0; c < tables.classes; ++c) {
      for (int64_t i = 0; i < arrived[g * tables.width + c]; ++i, ++at) {
        after->source[at] = at, after->member[at] = g, after->klass[at] = c;
        after->row[at] = deduplicates() ? first_row + SharedRow(tables.shared_arrived[at]) : at;
      }
    }
  }
  if (deduplicates()) hop->received_row = after->row;
  return absl::OkStatus();
}

// rows: by member.
void TokenRoute::FoldThere(Arena& arena, std::span<const int32_t> arrived, std::span<const int64_t> rows, int64_t top_k, RouteHop* hop) {
  hop->slot = NewIntegers(arena, hop->copies_received), hop->token = NewIntegers(arena, hop->copies_received);
  hop->by_slot = NewIntegers(arena, hop->rows_received * top_k);
  hop->send_items = NewIntegers(arena, static_cast<int64_t>(rows.size()));
  std::ranges::fill(hop->by_slot, -1);
  int64_t at = 0, first_row = 0;
  for (size_t g = 0; g < rows.size(); first_row += rows[g++]) {
    const int64_t begin = at, end = at + hop->recv_copies[g];
    for (; at < end; ++at) {
      hop->slot[at] = SharedSlot(arrived[at]), hop->token[at] = first_row + SharedRow(arrived[at]);
      hop->by_slot[hop->token[at] * top_k + hop->slot[at]] = at;
    }
    for (int64_t p = begin; p < end; ++p) {
      hop->send_items[g] += hop->slot[p] == 0 || hop->slot[p] >= RunOfSlots(hop->by_slot.subspan(hop->token[p] * top_k, top_k));
    }
  }
}

// before: the copies of the first hop, which is planned.
void TokenRoute::FoldAtHome(Arena& arena, const CopyList& before, DispatchPlan* plan) {
  RouteHop& hop = plan->hops[0];
  const int64_t k = plan->top_k;
  const std::span<int64_t> member = NewIntegers(arena, plan->tokens * k), run = NewIntegers(arena, plan->tokens);
  std::ranges::fill(member, -1);
  for (int64_t i = 0; i < before.copies; ++i) member[before.source[i]] = before.member[i];
  for (int64_t t = 0; t < plan->tokens; ++t) {
    const std::span<const int64_t> of = member.subspan(t * k, k);
    while (run[t] < k && of[run[t]] >= 0 && of[run[t]] == of[0]) ++run[t];
  }
  plan->item = NewIntegers(arena, plan->tokens * k);
  std::ranges::fill(plan->item, -1);
  hop.recv_items = NewIntegers(arena, static_cast<int64_t>(hop.send_copies.size()));
  int64_t p = 0;
  for (size_t g = 0; g < hop.send_copies.size(); ++g) {
    for (const int64_t end = p + hop.send_copies[g]; p < end; ++p) {
      const int64_t source = hop.copy_source[p], token = source / k, slot = source % k;
      const bool first_there = member[token * k] == static_cast<int64_t>(g);
      if (slot > 0 && first_there && slot < run[token]) continue;
      plan->item[source] = plan->items++;
      ++hop.recv_items[g];
    }
  }
}

// arrived: member = the source's coordinate, klass = the local expert.
void TokenRoute::MakeGroups(Arena& arena, const CopyList& arrived, std::pair<int64_t, int64_t> slots_and_ranks, DispatchPlan* plan) {
  const auto [slots, ranks] = slots_and_ranks;
  plan->received = arrived.copies;
  const std::span<int64_t> rows = NewIntegers(arena, slots * ranks), next = NewIntegers(arena, slots * ranks);
  for (int64_t i = 0; i < arrived.copies; ++i) ++rows[arrived.klass[i] * ranks + arrived.member[i]];
  std::exclusive_scan(rows.begin(), rows.end(), next.begin(), int64_t{0});
  plan->wire_of = NewIntegers(arena, arrived.copies);
  plan->row_of = NewIntegers(arena, arrived.copies);
  for (int64_t i = 0; i < arrived.copies; ++i) {
    const int64_t place = next[arrived.klass[i] * ranks + arrived.member[i]]++;
    plan->wire_of[place] = i;
    plan->row_of[place] = arrived.row[i];
  }
  plan->groups = {.rows = rows, .experts = static_cast<int>(slots), .lanes = static_cast<int>(ranks)};
}

absl::Status TokenRoute::MakePlan(Arena& arena, const ExpertPlacement& placement, const Choice& choice, DispatchPlan* plan) const {
  const int ranks = placement.axis(), layer = choice.layer, slots = placement.slots(layer), me = mesh_->expert_coordinate();
  const int64_t n = choice.ids.dim(0), k = choice.ids.dim(1);
  const bool two = InTwoLevels(kind_);
  // A coordinate is (a, b): the first hop changes a, the second b. Rows that a node shares cross to it first.
  const bool between_first = two && deduplicates();
  const auto a_of = [&](int c) { return !two ? c : between_first ? grid_->node(c) : grid_->local(c); };
  const auto b_of = [&](int c) { return !two ? 0 : between_first ? grid_->local(c) : grid_->node(c); };
  const auto at = [&](int64_t a, int64_t b) {
    if (!two) return a;
    return int64_t{between_first ? grid_->at(static_cast<int>(a), static_cast<int>(b))
                                 : grid_->at(static_cast<int>(b), static_cast<int>(a))};
  };
  plan->tokens = n, plan->top_k = k, plan->hop_count = two ? 2 : 1;
  plan->layer = layer, plan->shares_rows = deduplicates();
  plan->hops[0].group = !two ? &mesh_->dispatch() : between_first ? &grid_->between() : &grid_->inside();
  if (two) plan->hops[1].group = between_first ? &grid_->inside() : &grid_->between();

  CopyList list = CopyList::New(arena, n * k, n), arrived;
  list.classes = (two ? plan->hops[1].group->size() : 1) * int64_t{slots};
  list.top_k = folds_ ? k : 0;
  CHECK(!folds_ || k <= kMostFoldedSlots) << k;
  list.copies = 0;
  for (int64_t i = 0; i < n * k; ++i) {
    const int32_t id = choice.ids.data<int32_t>()[i];
    if (id < 0) continue;
    const ExpertPlacement::Place to = placement.PlaceOf(layer, id, me, choice.leaf);
    const int64_t p = list.copies++;
    list.source[p] = i, list.member[p] = a_of(to.coordinate), list.row[p] = i / k;
    list.klass[p] = int64_t{b_of(to.coordinate)} * slots + to.slot;
  }
  RETURN_IF_ERROR(MakeHop(arena, list, plan->rest(), &plan->hops[0], &arrived));
  if (folds_) FoldAtHome(arena, list, plan);
  plan->position = NewIntegers(arena, n * k);
  std::ranges::fill(plan->position, -1);
  for (int64_t p = 0; p < list.copies; ++p) plan->position[plan->hops[0].copy_source[p]] = p;
  if (two) {
    // They came from (member, my b) under the class (b, expert); on they go to b under the class (the source's a, expert).
    for (int64_t i = 0; i < arrived.copies; ++i) {
      const int64_t source_a = arrived.member[i];
      arrived.member[i] = arrived.klass[i] / slots;
      arrived.klass[i] = source_a * slots + arrived.klass[i] % slots;
    }
    list = arrived;
    list.classes = int64_t{plan->hops[0].group->size()} * slots;
    list.top_k = 0;
    RETURN_IF_ERROR(MakeHop(arena, list, plan->rest(), &plan->hops[1], &arrived));
  }
  for (int64_t i = 0; i < arrived.copies; ++i) {
    arrived.member[i] = two ? at(arrived.klass[i] / slots, arrived.member[i]) : arrived.member[i];
    arrived.klass[i] %= slots;
  }
  MakeGroups(arena, arrived, {placement.held(layer, me), ranks}, plan);
  if (!two) FindOwn(arena, plan);
  return absl::OkStatus();
}

void TokenRoute::FindOwn(Arena& arena, DispatchPlan* plan) {
  const RouteHop& hop = plan->hops[0];
  const RowsElsewhere own = OwnRows(*hop.group, hop.send_copies, hop.recv_copies);
  plan->own_row = NewIntegers(arena, own.rows);
  for (size_t m = 0; m < plan->wire_of.size(); ++m) {
    if (own.Has(plan->wire_of[m])) plan->own_row[plan->wire_of[m] - own.begin] = static_cast<int64_t>(m);
  }
}

RowsElsewhere TokenRoute::OwnCopies(const DispatchPlan& plan, const Tensor& rows) {
  if (plan.own_row.empty()) return {};
  const RouteHop& hop = plan.hops[0];
  const int64_t begin = Total(hop.send_copies.first(static_cast<size_t>(hop.group->rank())));
  return {.begin = begin, .rows = static_cast<int64_t>(plan.own_row.size()), .memory = rows, .index = plan.own_row};
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
