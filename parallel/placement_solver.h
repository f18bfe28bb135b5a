// PlacementSolver: decides where the experts of every layer go.
#ifndef CONCLAVE_PARALLEL_PLACEMENT_SOLVER_H_
#define CONCLAVE_PARALLEL_PLACEMENT_SOLVER_H_

#include <memory>

#include "parallel/placement_problem.h"
#include "proto/parallel.pb.h"

namespace conclave {

// Stateless and deterministic: the table is a pure function of problem and config, so that one rank may compute it for all.
class PlacementSolver {
 public:
  virtual ~PlacementSolver() = default;
  // A balanced table, not yet aligned with problem.current. The problem must have passed CheckPlacementProblem.
  // Errors: Unimplemented where the problem is beyond the solver's reach, with the reach.
  virtual absl::StatusOr<PlacementTable> Solve(const PlacementProblem& problem) const = 0;
};

using PlacementSolverOr = absl::StatusOr<std::unique_ptr<PlacementSolver>>;

// Errors: InvalidArgument for a config out of range or without a solver.
PlacementSolverOr MakePlacementSolver(const PlacementConfig& config);

PlacementSolverOr MakeContiguousPlacement(const ContiguousPlacementConfig& config);
PlacementSolverOr MakeRandomPlacement(const RandomPlacementConfig& config);
PlacementSolverOr MakeLoadGreedyPlacement(const LoadGreedyPlacementConfig& config);
PlacementSolverOr MakeAffinityPlacement(const AffinityPlacementConfig& config);
PlacementSolverOr MakeCoactivationPlacement(const CoactivationPlacementConfig& config);
PlacementSolverOr MakeExactPlacement(const ExactPlacementConfig& config);

struct PlacementPlan {
  PlacementTable table;
  Crossings crossings;
  int64_t cost = 0;   // of problem.objective
  int64_t moves = 0;  // experts to migrate from problem.current
};

// Checks the problem, solves it, and keeps what is there unless that costs strictly more: first contiguous blocks or problem.current where
// given, then the solver's table aligned with problem.current. So no plan is worse than either, and planning again moves nothing.
absl::StatusOr<PlacementPlan> PlanPlacement(const PlacementProblem& problem, const PlacementSolver& solver);

// The renaming of ranks (inside nodes) and of nodes under which `table` moves the fewest experts from `current`. The cost stays the same,
// the moves never become more.
PlacementTable Align(const PlacementTable& table, const PlacementTable& current, const Topology& topology);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_PLACEMENT_SOLVER_H_
