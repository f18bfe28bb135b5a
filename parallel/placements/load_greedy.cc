// Balances what ranks compute and ignores what they exchange: in every layer the heaviest expert first, each to the rank with the least
// load that has room. Source: longest processing time first (Graham, SIAM Journal on Applied Mathematics 1969) with equal counts.
#include "parallel/expert_replicas.h"
#include "parallel/placement_solver.h"

namespace conclave {
namespace {

class LoadGreedyPlacement : public PlacementSolver {
 public:
  absl::StatusOr<PlacementTable> Solve(const PlacementProblem& problem) const override {
    const RoutingCounts& counts = *problem.counts;
    PlacementTable table;
    for (int j = 0; j < counts.layers(); ++j) {
      const std::vector<double> load(counts.load(j).begin(), counts.load(j).end());
      table.push_back(PackEvenly(load, problem.topology.ranks).pack);
    }
    return table;
  }
};

}  // namespace

PlacementSolverOr MakeLoadGreedyPlacement(const LoadGreedyPlacementConfig&) { return std::make_unique<LoadGreedyPlacement>(); }

}  // namespace conclave
