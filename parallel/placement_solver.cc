#include "parallel/placement_solver.h"

#include <utility>

#include "parallel/assignment.h"

namespace conclave {

PlacementSolverOr MakePlacementSolver(const PlacementConfig& config) {
  switch (config.solver_case()) {
    case PlacementConfig::kContiguous:
      return MakeContiguousPlacement(config.contiguous());
    case PlacementConfig::kRandom:
      return MakeRandomPlacement(config.random());
    case PlacementConfig::kLoadGreedy:
      return MakeLoadGreedyPlacement(config.load_greedy());
    case PlacementConfig::kAffinity:
      return MakeAffinityPlacement(config.affinity());
    case PlacementConfig::kExact:
      return MakeExactPlacement(config.exact());
    case PlacementConfig::kCoactivation:
      return MakeCoactivationPlacement(config.coactivation());
    case PlacementConfig::SOLVER_NOT_SET:
      break;
  }
  return InvalidArgument("placement: no solver is chosen; known: contiguous, random, load_greedy, affinity, exact, coactivation");
}

PlacementTable Align(const PlacementTable& table, const PlacementTable& current, const Topology& topology) {
  // gain[q, p]: experts that stay in place if rank q is called p.
  std::vector<int64_t> gain(static_cast<size_t>(topology.ranks) * topology.ranks);
  for (size_t j = 0; j < table.size(); ++j) {
    for (size_t e = 0; e < table[j].size(); ++e) ++gain[table[j][e] * topology.ranks + current[j][e]];
  }
  const std::vector<int> to = BestRenaming(gain, topology);
  PlacementTable aligned = table;
  for (std::vector<int>& row : aligned) {
    for (int& rank : row) rank = to[rank];
  }
  return aligned;
}

absl::StatusOr<PlacementPlan> PlanPlacement(const PlacementProblem& problem, const PlacementSolver& solver) {
  RETURN_IF_ERROR(CheckPlacementProblem(problem));
  const RoutingCounts& counts = *problem.counts;
  ASSIGN_OR_RETURN(PlacementTable solved, solver.Solve(problem));
  const PlacementTable contiguous = ContiguousTable(counts.layers(), counts.experts(), problem.topology.ranks);
  std::vector<PlacementTable> candidates;
  if (!problem.current.empty()) candidates.push_back(problem.current);
  candidates.push_back(problem.current.empty() ? contiguous : Align(contiguous, problem.current, problem.topology));
  candidates.push_back(problem.current.empty() ? std::move(solved) : Align(solved, problem.current, problem.topology));
  PlacementPlan plan;
  for (PlacementTable& table : candidates) {
    const int64_t cost = CostOf(problem, table);
    if (plan.table.empty() || cost < plan.cost) plan = {.table = std::move(table), .crossings = {}, .cost = cost};
  }
  plan.crossings = CountCrossings(counts, plan.table, problem.topology);
  if (!problem.current.empty()) plan.moves = CountMoves(problem.current, plan.table);
  return plan;
}

}  // namespace conclave
