// Co-activation: experts that the same tokens use in the same layer share a rank, else a node, so that deduplicated dispatch sends fewer
// copies. Layers do not interact. Staged: first nodes, by what crosses nodes; then the ranks inside each; then whatever lowers the sum.
// Annealed, then descended to a point where no swap helps. Where a layer can be placed in few ways, all are looked at instead.
#include <algorithm>
#include <utility>

#include "parallel/balanced_partitions.h"
#include "parallel/placement_solver.h"
#include "parallel/set_cuts.h"

namespace conclave {
namespace {

constexpr double kSwapsOfAnEffort = 600;  // proposals a layer
constexpr double kSwapVisits = 2500;      // sets a proposal looks at where kSwapsOfAnEffort holds
constexpr double kMostSetVisits = 5e6;    // of looking at all placements of a layer: what a small part of the search takes

// The optimum by enumeration. Among equals: what stands, then the first.
std::vector<int> LookAtAll(SetCuts& cuts, std::vector<int> first, const std::vector<int>* current) {
  std::vector<int> best = current != nullptr ? *current : first;
  cuts.SetTable(best);
  int64_t best_cost = cuts.cost();
  do {
    cuts.SetTable(first);
    if (cuts.cost() >= best_cost) continue;
    best_cost = cuts.cost();
    best = first;
  } while (std::ranges::next_permutation(first).found);
  return best;
}

class CoactivationPlacement : public PlacementSolver {
 public:
  CoactivationPlacement(uint64_t seed, double effort) : seed_(seed), effort_(effort) {}

  absl::StatusOr<PlacementTable> Solve(const PlacementProblem& problem) const override {
    if (problem.sets == nullptr) {
      return InvalidArgument("placement.coactivation: it plans from the experts that tokens use together; a trace with tokens is needed");
    }
    PlacementTable table;
    for (int j = 0; j < problem.sets->layers(); ++j) table.push_back(SolveLayer(problem, j));
    return table;
  }

 private:
  std::vector<int> SolveLayer(const PlacementProblem& problem, int layer) const {
    const RoutedSets& sets = *problem.sets;
    const Topology& topology = problem.topology;
    const std::vector<int> start = ContiguousTable(1, sets.experts(), topology.ranks)[0];
    SetCuts cuts(sets, layer, topology, start);
    const double visits_of_all = BalancedPartitions(sets.experts(), topology.ranks) * static_cast<double>(sets.sets(layer)) * sets.top_k();
    if (visits_of_all <= kMostSetVisits) return LookAtAll(cuts, start, problem.current.empty() ? nullptr : &problem.current[layer]);
    std::vector<int> best;
    int64_t best_cost = 0;
    const auto offer = [&] {
      DescendCuts(cuts);
      if (!best.empty() && cuts.cost() >= best_cost) return;
      best_cost = cuts.cost();
      best = cuts.rank_of();
    };
    if (!problem.current.empty()) {
      cuts.SetTable(problem.current[layer]);
      offer();
    }
    cuts.SetTable(start);
    offer();
    cuts.SetTable(start);
    // The same work whether sets are many or few.
    const double visits = 2.0 * sets.sets(layer) * sets.top_k() / sets.experts();
    const auto swaps = static_cast<int64_t>(effort_ * kSwapsOfAnEffort * std::min(4.0, kSwapVisits / std::max(1.0, visits)));
    const bool staged = topology.nodes > 1 && topology.ranks_per_node() > 1;
    if (staged) {
      Topology only_nodes = topology;
      only_nodes.intra_cost = 0;
      SetCuts nodes(sets, layer, only_nodes, start);
      AnnealCuts(nodes, layer, {.seed = seed_, .swaps = swaps / 3, .pairs = CutAnneal::kAcrossNodes});
      cuts.SetTable(nodes.rank_of());
      AnnealCuts(cuts, layer, {.seed = seed_, .swaps = swaps / 3, .pairs = CutAnneal::kInsideNodes});
      offer();
      cuts.SetTable(start);
    }
    AnnealCuts(cuts, layer, {.seed = seed_, .swaps = staged ? swaps / 3 : swaps});
    offer();
    return best;
  }

  uint64_t seed_;
  double effort_;
};

}  // namespace

PlacementSolverOr MakeCoactivationPlacement(const CoactivationPlacementConfig& config) {
  const double effort = static_cast<double>(config.has_effort() ? config.effort() : 100);
  if (effort < 0) return InvalidArgument("placement.coactivation.effort: expected at least 0, got %d", config.effort());
  return std::make_unique<CoactivationPlacement>(static_cast<uint64_t>(config.has_seed() ? config.seed() : 1), effort);
}

}  // namespace conclave
