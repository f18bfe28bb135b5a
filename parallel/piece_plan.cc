#include "parallel/piece_plan.h"

#include <algorithm>
#include <numeric>

#include "parallel/row_exchange.h"
#include "tensor/ops/mlp_pieces.h"

namespace conclave {
namespace {

int64_t RowsIn(const RowGroups& groups) { return std::accumulate(groups.rows.begin(), groups.rows.end(), int64_t{0}); }

// As many whole units in a piece as it may have; returns how many pieces that takes and, where begin is given, where they begin.
int FillPieces(const RowGroups& groups, const PieceCut& cut, std::span<int64_t> begin) {
  int pieces = 0;
  int64_t filled = 0;
  ForEachMlpPiece(groups, cut.by_lane, [&](const MlpPiece& unit) {
    if (pieces == 0 || filled + unit.rows > cut.most_rows) {
      if (!begin.empty()) begin[pieces] = unit.begin;
      ++pieces, filled = 0;
    }
    filled += unit.rows;
  });
  return pieces;
}

// Where pieces begin, [pieces + 1]: equal parts as near as units allow, or pieces as full as they may be where those would be too large.
void CutEvenly(const RowGroups& groups, const PieceCut& cut, std::span<int64_t> begin) {
  const int64_t all = RowsIn(groups);
  std::ranges::fill(begin, all);
  int next = 0;
  ForEachMlpPiece(groups, cut.by_lane, [&](const MlpPiece& unit) {
    const int piece = static_cast<int>((unit.begin + unit.rows / 2) * cut.pieces / all);
    while (next <= piece) begin[next++] = unit.begin;
  });
  begin[0] = 0;
  if (cut.most_rows == 0) return;
  bool fits = true;
  for (int p = 0; p < cut.pieces; ++p) fits = fits && begin[p + 1] - begin[p] <= cut.most_rows;
  if (fits) return;
  std::ranges::fill(begin, all);
  CHECK_LE(FillPieces(groups, cut, {}), cut.pieces);
  FillPieces(groups, cut, begin);
}

// The rows of each group that are in rows [begin, end) of expert order.
void CountGroups(const RowGroups& groups, int64_t begin, int64_t end, std::span<int64_t> rows) {
  int64_t at = 0;
  for (size_t i = 0; i < groups.rows.size(); at += groups.rows[i++]) {
    rows[i] = std::max<int64_t>(0, std::min(end, at + groups.rows[i]) - std::max(begin, at));
  }
}

// Items by (member), count[g] of each, with a piece each -> `order`, and the new place of every item.
std::span<int64_t> OrderByPiece(Arena& arena, std::span<const int32_t> piece, std::span<const int64_t> count, int pieces,
                                PieceOrder* order) {
  const int64_t members = static_cast<int64_t>(count.size());
  order->members = members;
  order->counts = NewIntegers(arena, pieces * members);
  order->begin = NewIntegers(arena, pieces + 1);
  size_t i = 0;
  for (int64_t g = 0; g < members; ++g) {
    for (const size_t end = i + static_cast<size_t>(count[g]); i < end; ++i) ++order->counts[piece[i] * members + g];
  }
  const std::span<int64_t> next = NewIntegers(arena, pieces * members), place = NewIntegers(arena, static_cast<int64_t>(piece.size()));
  std::exclusive_scan(order->counts.begin(), order->counts.end(), next.begin(), int64_t{0});
  for (int p = 0; p < pieces; ++p) order->begin[p] = next[p * members];
  order->begin[pieces] = static_cast<int64_t>(piece.size());
  i = 0;
  for (int64_t g = 0; g < members; ++g) {
    for (const size_t end = i + static_cast<size_t>(count[g]); i < end; ++i) place[i] = next[piece[i] * members + g]++;
  }
  return place;
}

// The piece of every copy on both sides of a hop.
struct CopyPieces {
  std::span<int32_t> sent, received;
};

std::span<int32_t> NewPieces(Arena& arena, int64_t n) { return arena.NewZeroed({n}, DType::kI32).span<int32_t>(); }

// From the end of the way to its start. received of the last hop: filled in.
absl::Status TellPieces(Arena& arena, const DispatchPlan& plan, CopyPieces* pieces) {
  for (int h = plan.hop_count - 1; h >= 0; --h) {
    const RouteHop& hop = plan.hops[h];
    const auto as_rows = [](std::span<int32_t> x) { return Tensor(x.data(), {static_cast<int64_t>(x.size()), 1}, DType::kI32); };
    RETURN_IF_ERROR(ExchangeRows(arena,
                                 {hop.group, "dispatch pieces", hop.recv_copies, hop.send_copies, int64_t{sizeof(int32_t)}, plan.rest()},
                                 as_rows(pieces[h].received), as_rows(pieces[h].sent)));
    for (size_t c = 0; h > 0 && c < hop.copy_source.size(); ++c) pieces[h - 1].received[hop.copy_source[c]] = pieces[h].sent[c];
  }
  return absl::OkStatus();
}

// A row's piece: the first of its copies'.
std::span<int32_t> PiecesOfRows(Arena& arena, std::span<const int32_t> copies, std::span<const int64_t> row_of_copy, int64_t rows,
                                int last) {
  const std::span<int32_t> pieces = NewPieces(arena, rows);
  std::ranges::fill(pieces, last);
  for (size_t c = 0; c < copies.size(); ++c) pieces[row_of_copy[c]] = std::min(pieces[row_of_copy[c]], copies[c]);
  return pieces;
}

// Places in the order of pieces: of what a hop received.
struct ReceivedPlaces {
  std::span<int64_t> copies, rows;
};

ReceivedPlaces OrderHop(Arena& arena, const RouteHop& hop, const CopyPieces& pieces, const ReceivedPlaces* before, PiecePlan* out,
                        PieceHop* to) {
  to->group = hop.group;
  const int n = out->pieces;
  // source'[new place of i] = the new place of what it was before.
  const auto reorder = [&](std::span<const int64_t> source, std::span<const int64_t> place, std::span<const int64_t> moved) {
    const std::span<int64_t> result = NewIntegers(arena, static_cast<int64_t>(source.size()));
    for (size_t i = 0; i < source.size(); ++i) result[place[i]] = moved.empty() ? source[i] : moved[source[i]];
    return result;
  };
  const std::span<int64_t> sent = OrderByPiece(arena, pieces.sent, hop.send_copies, n, &to->copies_sent);
  ReceivedPlaces places;
  places.copies = OrderByPiece(arena, pieces.received, hop.recv_copies, n, &to->copies_received);
  const std::span<const int64_t> none;
  to->copy_source = reorder(hop.copy_source, sent, before == nullptr ? none : before->copies);
  if (!out->shares_rows) {
    to->rows_sent = to->copies_sent, to->rows_received = to->copies_received;
    places.rows = places.copies;
    to->row_source = reorder(hop.row_source, sent, before == nullptr ? none : before->rows);
    return places;
  }
  const auto rows_sent = static_cast<int64_t>(hop.row_source.size());
  const std::span<int32_t> of_sent = PiecesOfRows(arena, pieces.sent, hop.sent_row, rows_sent, n - 1);
  const std::span<int32_t> of_received = PiecesOfRows(arena, pieces.received, hop.received_row, hop.rows_received, n - 1);
  const std::span<int64_t> sent_rows = OrderByPiece(arena, of_sent, hop.send_rows, n, &to->rows_sent);
  places.rows = OrderByPiece(arena, of_received, hop.recv_rows, n, &to->rows_received);
  to->row_source = reorder(hop.row_source, sent_rows, before == nullptr ? none : before->rows);
  return places;
}

}  // namespace

int PiecesNeeded(const RowGroups& groups, const PieceCut& cut) { return cut.most_rows == 0 ? 1 : std::max(1, FillPieces(groups, cut, {})); }

// A piece ends where the next unit does not fit: it has more than most_rows less the longest unit, and with the next piece more than
// most_rows.
int MostPiecesNeeded(int64_t rows, int64_t most_rows) {
  CHECK_GT(most_rows, kMostMlpPieceRows);
  const int64_t by_itself = std::max<int64_t>(rows - 1, 0) / (most_rows - kMostMlpPieceRows + 1) + 1,
                by_pairs = 2 * (rows / (most_rows + 1)) + 1;
  return static_cast<int>(std::min(by_itself, by_pairs));
}

absl::Status MakePiecePlan(Arena& arena, const DispatchPlan& plan, const PieceCut& cut, PiecePlan* out) {
  out->pieces = cut.pieces, out->hop_count = plan.hop_count;
  out->shares_rows = plan.shares_rows;
  out->experts = plan.groups.experts, out->lanes = plan.groups.lanes;
  out->begin = NewIntegers(arena, cut.pieces + 1);
  CutEvenly(plan.groups, cut, out->begin);
  const auto groups = static_cast<int64_t>(plan.groups.rows.size());
  out->groups_rows = NewIntegers(arena, cut.pieces * groups);
  for (int p = 0; p < cut.pieces; ++p)
    CountGroups(plan.groups, out->begin[p], out->begin[p + 1], out->groups_rows.subspan(p * groups, groups));

  CopyPieces pieces[2];
  for (int h = 0; h < plan.hop_count; ++h) {
    pieces[h].sent = NewPieces(arena, static_cast<int64_t>(plan.hops[h].copy_source.size()));
    pieces[h].received = NewPieces(arena, plan.hops[h].copies_received);
  }
  const int last = plan.hop_count - 1;
  for (int p = 0; p < cut.pieces; ++p) {
    for (int64_t i = out->begin[p]; i < out->begin[p + 1]; ++i) pieces[last].received[plan.wire_of[i]] = p;
  }
  if (cut.pieces > 1) RETURN_IF_ERROR(TellPieces(arena, plan, pieces));

  ReceivedPlaces places[2];
  for (int h = 0; h < plan.hop_count; ++h) {
    places[h] = OrderHop(arena, plan.hops[h], pieces[h], h == 0 ? nullptr : &places[h - 1], out, &out->hops[h]);
  }
  const auto moved = [&](std::span<const int64_t> old, std::span<const int64_t> place) {
    const std::span<int64_t> result = NewIntegers(arena, static_cast<int64_t>(old.size()));
    for (size_t i = 0; i < old.size(); ++i) result[i] = old[i] < 0 ? -1 : place[old[i]];
    return result;
  };
  out->wire_of = moved(plan.wire_of, places[last].copies);
  out->row_of = moved(plan.row_of, places[last].rows);
  // Where a copy of the first hop stands is where its source says.
  out->position = NewIntegers(arena, plan.tokens * plan.top_k);
  std::ranges::fill(out->position, -1);
  const std::span<int64_t> source = out->hops[0].copy_source;
  for (size_t i = 0; i < source.size(); ++i) out->position[source[i]] = static_cast<int64_t>(i);
  return absl::OkStatus();
}

}  // namespace conclave
