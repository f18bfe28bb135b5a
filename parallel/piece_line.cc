#include "parallel/piece_line.h"

#include "parallel/row_exchange.h"
#include "parallel/row_moves.h"

namespace conclave {

void PieceLine::Reserve(int pieces) {
  if (static_cast<int>(legs_.size()) < pieces) legs_.resize(static_cast<size_t>(pieces));
}

void PieceLine::Open(Arena* arena, const Trip& trip) {
  CHECK(!open());
  arena_ = arena;
  trip_ = trip;
  tokens_ = trip.tokens;
  width_ = trip.tokens.dim(1), dtype_ = trip.tokens.dtype();
  if (trip.codec != nullptr) {
    width_ = trip.codec->row_bytes(), dtype_ = DType::kU8;
    tokens_ = New(trip.tokens.dim(0));
    if (outward()) trip.codec->Encode(trip.tokens, tokens_);
  }
  tally_ = trip.whole->Count(outward() ? TokenWay::kRoute : TokenWay::kSlots, width_ * SizeOf(dtype_));
  const PiecePlan& plan = *trip_.plan;
  for (int h = 0; outward() && plan.shares_rows && h < plan.hop_count; ++h) kept_[h] = New(plan.hops[h].rows_received.begin[plan.pieces]);
  Reserve(plan.pieces);
  begun_ = posted_[0] = posted_[1] = 0;
}

absl::Status PieceLine::Begin(const Tensor& rows) {
  const int piece = begun_++;
  CHECK_LT(piece, trip_.plan->pieces);
  CHECK_EQ(rows.dim(0), trip_.plan->rows(piece));
  Leg& leg = legs_[static_cast<size_t>(piece)];
  leg.hop = 0, leg.rows = rows, leg.held = rows, leg.first = 0, leg.status = absl::OkStatus();
  if (!outward() && trip_.codec != nullptr) {
    leg.held = New(rows.dim(0));
    trip_.codec->Encode(rows, leg.held);
  }
  return Post(piece);
}

absl::Status PieceLine::Post(int piece) {
  Leg& leg = legs_[static_cast<size_t>(piece)];
  CHECK_EQ(posted_[leg.hop], piece);
  ++posted_[leg.hop];
  const PieceHop& hop = trip_.plan->hops[HopOf(leg.hop)];
  return outward() ? PostOutward(piece, hop) : PostHomeward(piece, hop);
}

absl::Status PieceLine::PostOutward(int piece, const PieceHop& hop) {
  Leg& leg = legs_[static_cast<size_t>(piece)];
  const int h = HopOf(leg.hop);
  const PieceOrder &out = hop.rows_sent, &in = hop.rows_received;
  const Tensor send = New(out.Count(piece));
  const auto source = hop.row_source.subspan(static_cast<size_t>(out.begin[piece]), static_cast<size_t>(out.Count(piece)));
  GatherRowsInto(h == 0 ? tokens_ : leg.held, source, send, h == 0 ? 0 : leg.first);
  const Tensor received = trip_.plan->shares_rows ? kept_[h].Slice(in.begin[piece], in.Count(piece)) : New(in.Count(piece));
  leg.held = trip_.plan->shares_rows ? kept_[h] : received;
  leg.first = trip_.plan->shares_rows ? 0 : in.begin[piece];
  const RowExchange exchange{hop.group, trip_.label, out.CountsOf(piece), in.CountsOf(piece), width_ * SizeOf(dtype_), tally_};
  ASSIGN_OR_RETURN(leg.request, StartRows(*arena_, exchange, /*stream=*/0, send, received));
  return absl::OkStatus();
}

absl::Status PieceLine::PostHomeward(int piece, const PieceHop& hop) {
  Leg& leg = legs_[static_cast<size_t>(piece)];
  const PiecePlan& plan = *trip_.plan;
  const int h = HopOf(leg.hop);
  const PieceOrder &out = hop.copies_received, &in = hop.copies_sent;
  const auto part = [](std::span<int64_t> of, int64_t begin, int64_t count) {
    return of.subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
  };
  const auto place = h + 1 == plan.hop_count ? part(plan.wire_of, plan.begin[piece], plan.rows(piece))
                                             : part(plan.hops[h + 1].copy_source, plan.hops[h + 1].copies_sent.begin[piece],
                                                    plan.hops[h + 1].copies_sent.Count(piece));
  const Tensor send = New(out.Count(piece));
  ScatterRows(leg.held, place, send, out.begin[piece]);
  const Tensor received = h == 0 ? tokens_.Slice(in.begin[piece], in.Count(piece)) : New(in.Count(piece));
  leg.held = received;
  const RowExchange exchange{hop.group, trip_.label, out.CountsOf(piece), in.CountsOf(piece), width_ * SizeOf(dtype_), tally_};
  ASSIGN_OR_RETURN(leg.request, StartRows(*arena_, exchange, /*stream=*/1, send, received));
  return absl::OkStatus();
}

void PieceLine::Progress() {
  if (!open()) return;
  const int last = trip_.plan->hop_count - 1;
  for (int p = 0; p < begun_; ++p) {
    Leg& leg = legs_[static_cast<size_t>(p)];
    if (!leg.status.ok()) return;
    if (leg.request.active()) {
      const absl::StatusOr<bool> done = GroupOf(leg)->Test(leg.request);
      if (!done.ok()) leg.status = done.status();
      if (!done.ok() || !*done) continue;
    }
    if (leg.hop < last && posted_[leg.hop + 1] == p) {
      ++leg.hop;
      leg.status = Post(p);
    }
  }
}

absl::Status PieceLine::Await(int piece) {
  CHECK_LT(piece, begun_);
  const int last = trip_.plan->hop_count - 1;
  for (int p = 0; p <= piece; ++p) {
    Leg& leg = legs_[static_cast<size_t>(p)];
    RETURN_IF_ERROR(leg.status);
    while (leg.hop < last) {
      RETURN_IF_ERROR(GroupOf(leg)->Wait(leg.request));
      ++leg.hop;
      RETURN_IF_ERROR(Post(p));
    }
  }
  Leg& leg = legs_[static_cast<size_t>(piece)];
  RETURN_IF_ERROR(GroupOf(leg)->Wait(leg.request));
  if (!outward()) return absl::OkStatus();
  const PiecePlan& plan = *trip_.plan;
  const auto row_of = plan.row_of.subspan(static_cast<size_t>(plan.begin[piece]), static_cast<size_t>(plan.rows(piece)));
  if (trip_.codec == nullptr) {
    GatherRowsInto(leg.held, row_of, leg.rows, leg.first);
    return absl::OkStatus();
  }
  const Tensor coded = New(plan.rows(piece));
  GatherRowsInto(leg.held, row_of, coded, leg.first);
  return trip_.codec->Decode(coded, leg.rows);
}

absl::Status PieceLine::Close() {
  const PiecePlan& plan = *trip_.plan;
  CHECK_EQ(begun_, plan.pieces);
  absl::Status status;
  for (int p = 0; !outward() && p < begun_ && status.ok(); ++p) status = Await(p);
  if (!outward() && trip_.codec != nullptr && status.ok()) {
    const int64_t copies = plan.hops[0].copies_sent.begin[plan.pieces];
    status = trip_.codec->Decode(tokens_.Slice(0, copies), trip_.tokens.Slice(0, copies));
  }
  trip_.plan = nullptr;
  return status;
}

}  // namespace conclave
