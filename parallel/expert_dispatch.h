// Expert dispatch: moves tokens to the ranks that hold their experts, and back.
#ifndef CONCLAVE_PARALLEL_EXPERT_DISPATCH_H_
#define CONCLAVE_PARALLEL_EXPERT_DISPATCH_H_

#include <span>

#include "base/status.h"
#include "parallel/expert_placement.h"
#include "parallel/mesh.h"
#include "parallel/row_moves.h"
#include "tensor/ops/ops.h"

namespace conclave {

// Where every row of one dispatch goes; lives in the arena of the tape. P = expert axis, S = experts per rank, n tokens here, k slots, m
// rows received here. Send order: by (destination, local expert, token, slot). Received (wire) order: by source rank, then that. Expert
// order: by (local expert, source, token, slot).
struct DispatchPlan {
  int64_t tokens = 0, top_k = 0, received = 0;
  std::span<int64_t> position;              // [n * k]: place of (token, slot) in send order
  std::span<int64_t> wire_of;               // [m]: wire position of a row in expert order
  std::span<int64_t> send_rows, recv_rows;  // [P] rows to and from each rank
  RowGroups groups;                         // experts = S, lanes = P
};

// Serves one rank's MoE layers. Dropless: a rank or an expert without tokens is legal, and every rank enters every collective whatever its
// counts.
class ExpertDispatch {
 public:
  // Both must outlive it. An axis of one rank moves nothing.
  ExpertDispatch(const Mesh* mesh, const ExpertPlacement* placement) : mesh_(mesh), placement_(placement) {}

  const ExpertPlacement& placement() const { return *placement_; }
  int lanes() const { return placement_->axis(); }
  int coordinate() const { return mesh_->expert_coordinate(); }

  // x: [n, h], ids: i32 [n, k] logical experts of `layer`; returns rows [m, h] in expert order and fills `plan`. Backward: sum of row
  // gradients in slot order. Collective on axis "expert". Cost: an all-to-all of P S counts and one all-to-all of about n k h elements,
  // forward; the latter again backward.
  absl::StatusOr<Var> Dispatch(Tape& tape, Var x, const Tensor& ids, int layer, DispatchPlan* plan) const;

  // rows: [m, h] expert outputs in expert order, weights: [n, k]; returns [n, h], y[t] = sum over slots s = 0.. k-1 in that order of
  // weights[t, s] * row(t, s). Backward: rows get weights * dy, weights get <dy, row>. Collective likewise.
  absl::StatusOr<Var> Combine(Tape& tape, Var rows, Var weights, const DispatchPlan& plan) const;

  // Sums counts over all ranks of the job (for balance losses of scope GLOBAL). counts: i64. Collective on all ranks.
  absl::Status SumOverTokens(const Tensor& counts) const;

 private:
  enum class Direction { kToExperts, kToHome };
  absl::Status MakePlan(Arena& arena, const Tensor& ids, int layer, DispatchPlan* plan) const;
  bool alone() const { return placement_->axis() == 1; }
  // dx += sum of the copies' gradients g [m, h].
  absl::Status DispatchBackward(Tape& tape, const Tensor& g, const Tape::GradientTarget& dx, const DispatchPlan& plan) const;
  struct CombineInputs {
    Tensor dy, home, weights;  // [n, h], [n k, h], [n, k]
  };
  absl::Status CombineBackward(Tape& tape, const CombineInputs& in, const WeightedSumGradients& gradients, const DispatchPlan& plan) const;
  // Sends `from` (rows in send order or wire order) to the other order. Both [rows, h]. The arena gives scratch.
  absl::Status Move(Arena& arena, const DispatchPlan& plan, Direction direction, const Tensor& from, const Tensor& to) const;

  const Mesh* mesh_;
  const ExpertPlacement* placement_;
};

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_EXPERT_DISPATCH_H_
