// A balanced placement drawn at random: what a plan must beat to have used the trace at all.
#include "parallel/chain_search.h"
#include "parallel/placement_solver.h"

namespace conclave {
namespace {

class RandomPlacement : public PlacementSolver {
 public:
  explicit RandomPlacement(uint64_t seed) : seed_(seed) {}

  absl::StatusOr<PlacementTable> Solve(const PlacementProblem& problem) const override {
    return RandomTable(problem.counts->layers(), problem.counts->experts(), problem.topology.ranks, seed_);
  }

 private:
  uint64_t seed_;
};

}  // namespace

PlacementSolverOr MakeRandomPlacement(const RandomPlacementConfig& config) {
  return std::make_unique<RandomPlacement>(static_cast<uint64_t>(config.has_seed() ? config.seed() : 1));
}

}  // namespace conclave
