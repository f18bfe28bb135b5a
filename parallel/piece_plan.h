// PiecePlan: a dispatch cut into pieces of consecutive rows of expert order, each of which travels by itself.
#ifndef CONCLAVE_PARALLEL_PIECE_PLAN_H_
#define CONCLAVE_PARALLEL_PIECE_PLAN_H_

#include <span>

#include "parallel/token_route.h"

namespace conclave {

// How the rows that a rank receives are cut. Cuts lie between experts (by_lane: between their lanes) or where GroupedMlp cuts an expert's
// rows (ForEachMlpPiece), so that a weight gradient is the same sum in the same order.
struct PieceCut {
  int pieces = 1;         // equally many on all ranks; some may be empty
  int64_t most_rows = 0;  // of a piece, at least kMostMlpPieceRows; 0: any number
  bool by_lane = false;   // gradients of experts are kept apart by source rank
};

// The fewest pieces of at most cut.most_rows rows.
int PiecesNeeded(const RowGroups& groups, const PieceCut& cut);
// No cut of `rows` rows into pieces of at most `most_rows` needs more than that, whatever groups they are of.
int MostPiecesNeeded(int64_t rows, int64_t most_rows);

// What one side of a hop handles, rows or copies: by (piece, member, order of the plan).
struct PieceOrder {
  int64_t members = 0;
  std::span<int64_t> counts;  // [pieces * members]
  std::span<int64_t> begin;   // [pieces + 1]: where each piece begins
  std::span<const int64_t> CountsOf(int piece) const { return counts.subspan(piece * members, members); }
  int64_t Count(int piece) const { return begin[piece + 1] - begin[piece]; }
};

struct PieceHop {
  Communicator* group = nullptr;
  PieceOrder rows_sent, rows_received, copies_sent, copies_received;
  std::span<int64_t> row_source;   // [rows sent] place among the rows received by the hop before; first hop: token
  std::span<int64_t> copy_source;  // [copies sent] place among the copies received by the hop before; first hop: token * k + slot
};

// Every copy has one piece. A row that several copies share travels once, with the first piece that needs it, and is kept.
struct PiecePlan {
  int pieces = 1, hop_count = 1;
  bool shares_rows = false;
  PieceHop hops[2];
  std::span<int64_t> begin;        // [pieces + 1]: rows of expert order of each piece
  std::span<int64_t> wire_of;      // [m] as in DispatchPlan, in the order of pieces
  std::span<int64_t> row_of;       // [m]
  std::span<int64_t> position;     // [n * k]
  std::span<int64_t> groups_rows;  // [pieces * experts * lanes]
  int experts = 0, lanes = 1;
  int64_t rows(int piece) const { return begin[piece + 1] - begin[piece]; }
  RowGroups groups(int piece) const {
    const size_t size = static_cast<size_t>(experts) * static_cast<size_t>(lanes);
    return {.rows = groups_rows.subspan(static_cast<size_t>(piece) * size, size), .experts = experts, .lanes = lanes};
  }
};

// Collective on the groups of the plan's hops where there is more than one piece: those who have the experts tell, in 4 bytes a copy and
// hop
// ("dispatch pieces" in the ledger), which piece each is of. Spans live in the arena.
absl::Status MakePiecePlan(Arena& arena, const DispatchPlan& plan, const PieceCut& cut, PiecePlan* out);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_PIECE_PLAN_H_
