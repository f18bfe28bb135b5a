#include "parallel/sequence_homes.h"

#include <utility>

#include "parallel/assignment.h"

namespace conclave {

absl::StatusOr<std::vector<int>> PlaceSequences(const RoutingTrace& trace, int64_t sequence_tokens, const PlacementTable& table,
                                                const Topology& topology) {
  if (sequence_tokens < 1 || trace.tokens() % sequence_tokens != 0) {
    return InvalidArgument("sequences: %d tokens are no whole number of sequences of %d", trace.tokens(), sequence_tokens);
  }
  const int64_t sequences = trace.tokens() / sequence_tokens;
  if (sequences % topology.ranks != 0) {
    return InvalidArgument("sequences: %d cannot be dealt out evenly to %d ranks", sequences, topology.ranks);
  }
  std::vector<int64_t> gain(static_cast<size_t>(topology.ranks * sequences));  // [ranks, sequences]
  for (int64_t q = 0; q < sequences; ++q) {
    const std::vector<RowCount> touched = CountTouchedFrom(trace, {q * sequence_tokens, (q + 1) * sequence_tokens}, table, topology);
    for (int rank = 0; rank < topology.ranks; ++rank) {
      gain[static_cast<size_t>(rank * sequences + q)] =
          -(topology.inter_cost * touched[rank].between + topology.intra_cost * touched[rank].inside);
    }
  }
  std::vector<int> homes = HomesInOrder(sequences, topology.ranks);
  BestBalanced(gain, topology.ranks, homes);
  return homes;
}

std::vector<int> TokenHomes(const std::vector<int>& sequence_homes, int64_t sequence_tokens) {
  std::vector<int> homes;
  for (const int home : sequence_homes) homes.insert(homes.end(), static_cast<size_t>(sequence_tokens), home);
  return homes;
}

absl::StatusOr<JointPlan> PlanJointly(const RoutingTrace& trace, int64_t sequence_tokens, const PlacementProblem& problem,
                                      const PlacementSolver& solver) {
  constexpr int kMostRounds = 8;
  const Topology& topology = problem.topology;
  JointPlan plan{.table = problem.current.empty() ? ContiguousTable(trace.layers(), trace.experts(), topology.ranks) : problem.current,
                 .homes = {}};
  for (int round = 0; round < kMostRounds; ++round) {
    ASSIGN_OR_RETURN(std::vector<int> homes, PlaceSequences(trace, sequence_tokens, plan.table, topology));
    const RoutedSets sets = RoutedSets::Of(trace, topology.ranks, TokenHomes(homes, sequence_tokens));
    PlacementProblem given = problem;
    given.sets = &sets;
    given.objective = PlacementObjective::kTouched;
    given.current = plan.table;
    ASSIGN_OR_RETURN(PlacementPlan experts, PlanPlacement(given, solver));
    if (round > 0 && experts.cost >= plan.cost) break;
    plan = {.table = std::move(experts.table), .homes = std::move(homes), .cost = experts.cost};
  }
  return plan;
}

}  // namespace conclave
