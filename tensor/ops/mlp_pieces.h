// The pieces in which GroupedMlp takes an expert's rows: also where a dispatch in pieces may cut, so that a weight gradient stays the same
// sum in the same order.
#ifndef CONCLAVE_TENSOR_OPS_MLP_PIECES_H_
#define CONCLAVE_TENSOR_OPS_MLP_PIECES_H_

#include <cstdint>

#include "tensor/ops/ops.h"

namespace conclave {

// Multiples of what the products cut sums over rows into, so that the pieces do not show in the bits of a weight gradient. A rest that is
// shorter than kMlpRest goes with the piece before it: weights are packed once a piece.
inline constexpr int64_t kMlpPiece = 1024, kMlpRest = 256, kMostMlpPieceRows = kMlpPiece + kMlpRest - 1;

// Rows [begin, begin + rows) of one expert; `lane` is where their gradients go.
struct MlpPiece {
  int expert, lane;
  int64_t begin, rows;
};

// Calls f for the pieces of one expert's rows in order, which begin at row `begin` of all. With `by_lane` no piece has rows of two lanes.
// Returns the row after them.
template <typename F>
int64_t ForEachMlpPieceOf(const RowGroups& groups, int expert, int64_t begin, bool by_lane, const F& f) {
  int64_t left = 0;
  for (int l = 0; l < groups.lanes; ++l) {
    left += groups.rows[expert * groups.lanes + l];
    if (!by_lane && l + 1 < groups.lanes) continue;
    while (left > 0) {
      const int64_t rows = left <= kMostMlpPieceRows ? left : kMlpPiece;
      f(MlpPiece{expert, by_lane ? l : 0, begin, rows});
      begin += rows, left -= rows;
    }
  }
  return begin;
}

// The same for all experts in order. Two calls of GroupedMlp, in order, of the rows before and behind the end of a piece have the bits of
// one.
template <typename F>
void ForEachMlpPiece(const RowGroups& groups, bool by_lane, const F& f) {
  int64_t begin = 0;
  for (int e = 0; e < groups.experts; ++e) begin = ForEachMlpPieceOf(groups, e, begin, by_lane, f);
}

}  // namespace conclave

#endif  // CONCLAVE_TENSOR_OPS_MLP_PIECES_H_
