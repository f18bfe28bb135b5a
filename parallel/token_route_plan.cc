// Plans of a TokenRoute: what its members tell each other before any row travels.
#include <algorithm>
#include <numeric>

#include "parallel/hop_counts.h"
#include "parallel/row_exchange.h"
#include "parallel/token_route.h"

namespace conclave {
namespace {

// What a copy is called on the wire where rows are shared: its row in the member's block, and its slot above.
constexpr int kRowBits = 25;
static_assert(kMostFoldedSlots == 1 << (31 - kRowBits));
int64_t SharedRow(int32_t name) { return name & ((1 << kRowBits) - 1); }
int64_t SharedSlot(int32_t name) { return name >> kRowBits; }

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

}  // namespace conclave
