// SequenceHomes: which rank should own which sequence, given where the experts are.
#ifndef CONCLAVE_PARALLEL_SEQUENCE_HOMES_H_
#define CONCLAVE_PARALLEL_SEQUENCE_HOMES_H_

#include <cstdint>
#include <vector>

#include "parallel/placement_solver.h"

namespace conclave {

// The trace consists of whole sequences of `sequence_tokens` tokens. Every sequence gets the rank from which its tokens touch the least of
// other nodes and ranks, all layers together, with equally many sequences at every rank: a transportation problem, solved exactly from the
// consecutive shares of HomesInOrder. [sequences]. Errors: tokens that are no whole number of sequences, sequences not divisible by ranks.
// Source: Liu et al. (NetMoE), ICLR 2025.
absl::StatusOr<std::vector<int>> PlaceSequences(const RoutingTrace& trace, int64_t sequence_tokens, const PlacementTable& table,
                                                const Topology& topology);
// The homes of the sequences' tokens: [tokens].
std::vector<int> TokenHomes(const std::vector<int>& sequence_homes, int64_t sequence_tokens);

struct JointPlan {
  PlacementTable table;
  std::vector<int> homes;  // [sequences]
  int64_t cost = 0;        // of the touched ranks and nodes, with these homes
};

// Experts and sequences in turn, each placed best given the other, as long as the cost falls; from `table` and consecutive shares.
// Cost: a solver run and a transportation problem a round, at most 8 rounds.
absl::StatusOr<JointPlan> PlanJointly(const RoutingTrace& trace, int64_t sequence_tokens, const PlacementProblem& problem,
                                      const PlacementSolver& solver);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_SEQUENCE_HOMES_H_
