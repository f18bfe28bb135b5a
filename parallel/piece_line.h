// PieceLine: the pieces of a dispatch on their way in one direction, several of them at a time, while the caller does something else.
#ifndef CONCLAVE_PARALLEL_PIECE_LINE_H_
#define CONCLAVE_PARALLEL_PIECE_LINE_H_

#include <vector>

#include "parallel/piece_plan.h"

namespace conclave {

// Pieces begin in order, each on all ranks; what is asked of a line between Open and Close is asked of it on every rank in the same order.
// A piece goes on to its second hop when the first is over and all before it went, in a stream of the direction's own; so lines of the two
// directions do not wait for each other, and Progress may be called at any time on any rank.
class PieceLine {
 public:
  enum class Way { kToExperts, kHome };
  struct Trip {
    const PiecePlan* plan = nullptr;
    const DispatchPlan* whole = nullptr;  // what was cut: counts what leaves this rank
    Way way = Way::kToExperts;
    std::string_view label;           // a string literal
    const RowCodec* codec = nullptr;  // null: rows as they are
    Tensor tokens;                    // at home: [n, w] to experts; [n k, w] in the order of plan.position on the way home
  };

  // Up to so many pieces a trip, nothing is allocated but in the arena.
  void Reserve(int pieces);
  // Everything on its way is in `arena`, which is not to be rewound below this place, nor below that of a piece that was not awaited.
  void Open(Arena* arena, const Trip& trip);
  bool open() const { return trip_.plan != nullptr; }
  // The next piece leaves; rows: [rows of the piece, w]. To experts: written by Await. Home: read at once.
  absl::Status Begin(const Tensor& rows);
  absl::Status Await(int piece);
  // Waits for all pieces. On the way home trip.tokens has its copies then.
  absl::Status Close();
  // Moves on what can, without waiting. Errors come back from Await.
  void Progress();

 private:
  struct Leg {
    Request request;
    int hop = 0;  // so many are over or under way
    Tensor rows;  // at the experts
    Tensor held;  // what the last hop brings, rows [first, ..) of its order
    int64_t first = 0;
    absl::Status status;
  };
  bool outward() const { return trip_.way == Way::kToExperts; }
  int HopOf(int leg_hop) const { return outward() ? leg_hop : trip_.plan->hop_count - 1 - leg_hop; }
  Communicator* GroupOf(const Leg& leg) const { return trip_.plan->hops[HopOf(leg.hop)].group; }
  absl::Status Post(int piece);
  absl::Status PostOutward(int piece, const PieceHop& hop);
  absl::Status PostHomeward(int piece, const PieceHop& hop);
  Tensor New(int64_t rows) { return arena_->New({rows, width_}, dtype_); }

  Arena* arena_ = nullptr;
  Trip trip_;
  Tensor tokens_;      // trip_.tokens as they are on the wire
  Tensor kept_[2];     // rows that serve several pieces, by hop
  int64_t width_ = 0;  // of a row on the wire
  DType dtype_ = DType::kF32;
  RowTally* tally_ = nullptr;
  std::vector<Leg> legs_;  // by piece of this trip or a longer one before it
  int begun_ = 0;
  int posted_[2] = {0, 0};  // pieces, by hop of a leg
};

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_PIECE_LINE_H_
