// What a placement solver is asked: routing counts on a topology, and what a table costs there.
#ifndef CONCLAVE_PARALLEL_PLACEMENT_PROBLEM_H_
#define CONCLAVE_PARALLEL_PLACEMENT_PROBLEM_H_

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "parallel/routed_sets.h"
#include "parallel/routing_counts.h"

namespace conclave {

// Ranks of the expert axis; rank r belongs to node r / (ranks / nodes).
struct Topology {
  int ranks = 1;
  int nodes = 1;
  int64_t intra_cost = 1;  // l_intra: of a token that changes rank inside its node
  int64_t inter_cost = 2;  // l_inter: of a token that changes node

  int ranks_per_node() const { return ranks / nodes; }
  int NodeOf(int rank) const { return rank / ranks_per_node(); }
};

// rank of [layer][expert]. Balanced: every rank holds experts / ranks experts of every layer.
using PlacementTable = std::vector<std::vector<int>>;

// What a plan is to make small. CHAIN: rank and node changes of tokens between adjacent layers, where tokens stay with their experts.
// TOUCHED: the other nodes, and other ranks of the own node, that tokens touch in a layer, where the combine brings them home after it.
enum class PlacementObjective { kChain, kTouched };

struct PlacementProblem {
  const RoutingCounts* counts = nullptr;
  Topology topology;
  // Where the experts are now; empty: nowhere yet. A plan that is no better than `current` is `current`.
  PlacementTable current;
  const RoutedSets* sets = nullptr;  // of the same layers and experts, for topology.ranks; needed by kTouched
  PlacementObjective objective = PlacementObjective::kChain;
};

// Errors: ranks not divisible into nodes, experts not divisible over ranks, costs out of order (0 <= intra <= inter, inter >= 1), counts so
// large that sums of one expert leave 30 bits, a `current` of another shape or out of balance.
absl::Status CheckPlacementProblem(const PlacementProblem& problem);

// Tokens that change rank, and of these the ones that change node, between adjacent layers.
struct Crossings {
  int64_t rank = 0;
  int64_t node = 0;

  // The chain objective: sum over tokens and layers of d, 0 on one rank, l_intra inside a node, l_inter between nodes.
  int64_t Cost(const Topology& topology) const { return topology.intra_cost * (rank - node) + topology.inter_cost * node; }
  bool operator==(const Crossings&) const = default;
};

// From aggregated counts: (L - 1) * E^2 terms.
Crossings CountCrossings(const RoutingCounts& counts, const PlacementTable& table, const Topology& topology);
// Of all layers, times sets.homes().
RowCount CountTouched(const RoutedSets& sets, const PlacementTable& table, const Topology& topology);
// What `table` costs under problem.objective; kTouched: times sets->homes().
int64_t CostOf(const PlacementProblem& problem, const PlacementTable& table);
// Token by token, slot 0: the same numbers for the counts of `trace`.
Crossings CountCrossings(const RoutingTrace& trace, const PlacementTable& table, const Topology& topology);

// Largest load of a rank over the mean load, in the layer where that is largest; 1 is perfect. 0 without any load.
double WorstLoadRatio(const RoutingCounts& counts, const PlacementTable& table, int ranks);

// experts / ranks consecutive experts on every rank.
PlacementTable ContiguousTable(int layers, int experts, int ranks);
// Experts whose rank differs: what a migration from `from` to `to` moves.
int64_t CountMoves(const PlacementTable& from, const PlacementTable& to);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_PLACEMENT_PROBLEM_H_
