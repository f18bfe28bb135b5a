// What ExpertDispatch keeps of layers whose tokens travel in pieces.
#ifndef CONCLAVE_PARALLEL_EXPERT_PIECES_H_
#define CONCLAVE_PARALLEL_EXPERT_PIECES_H_

#include <algorithm>
#include <memory>
#include <vector>

#include "parallel/expert_dispatch.h"
#include "parallel/piece_line.h"

namespace conclave {

inline constexpr std::string_view kToExperts = "dispatch rows", kToHome = "combine rows";

// One layer's way, from its recording to its backward. Plain values in the arena of the recording.
struct PieceRun {
  DispatchPlan plan;
  PiecePlan cut;
  Var x, weights, root, y;
  ExpertMlps experts;
  // Weights of copies [m, 1], for outputs that are weighted by the rank that has them and for gradients, which always are; outputs by
  // piece, [rows of the piece, h].
  Tensor weights_there;
  Tensor* outputs = nullptr;
  Var* inputs = nullptr;   // by piece, on its tape
  Var* results = nullptr;  // likewise
  Tensor rows;             // [m, h] as they arrive; none where plan.bounded
  Tensor home;             // [n k, h]: outputs in the order of cut.position, where they come home as they are
  Tensor back;             // gradients of rows on their way: [n k, h] in that order, or [m, h] where sums of them go home
  bool weighs_there = false;
  size_t first_tape = 0;  // of PieceState::tapes
};

// What a rank was sent: see ExpertDispatch::most_rows.
struct RowCounter {
  void BeginLeaf() { leaf = 0; }
  void Add(int64_t rows) {
    leaf += rows;
    most.layers = std::max(most.layers, leaf), most.layer = std::max(most.layer, rows);
  }
  int64_t leaf = 0;  // of the running one
  ExpertDispatch::LeafRows most;
};

// One layer's rows are under way at a time, on their way to the experts and home.
struct PieceState final : Tape::Companion {
  void Progress() override {
    out.Progress();
    home.Progress();
  }

  // Layers whose rows go in up to `pieces` pieces one at a time, to up to `slots` experts here, then take memory in arenas alone.
  void Reserve(int pieces, int slots);

  Arena travel;                // of what is under way
  PieceLine out, again, home;  // again: rows that were not kept
  // Tapes of pieces that backward will come back to, as a stack; kept for the next leaf. And one for those that nobody comes back to.
  std::vector<std::unique_ptr<Tape>> tapes;
  size_t tapes_in_use = 0;
  std::unique_ptr<Tape> passing;
  RowCounter rows;
  std::vector<LayerTraffic> traffic;  // by layer
};

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_EXPERT_PIECES_H_
