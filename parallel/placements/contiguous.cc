// Contiguous blocks: the baseline every plan is measured against.
#include "parallel/placement_solver.h"

namespace conclave {
namespace {

class ContiguousPlacement : public PlacementSolver {
 public:
  absl::StatusOr<PlacementTable> Solve(const PlacementProblem& problem) const override {
    return ContiguousTable(problem.counts->layers(), problem.counts->experts(), problem.topology.ranks);
  }
};

}  // namespace

PlacementSolverOr MakeContiguousPlacement(const ContiguousPlacementConfig&) { return std::make_unique<ContiguousPlacement>(); }

}  // namespace conclave
