// Inter-layer affinity: experts that tokens use one after the other share a rank, else a node. Annealed starts, each descended to a point
// where no assignment of a whole layer, no swap and no renaming behind a layer helps. Where ranks share nodes, also staged: first nodes,
// then ranks inside each node. Source of the objective: Yao et al. (ExFlow), IPDPS 2024; the search is ours.
#include <algorithm>
#include <utility>

#include "parallel/chain_annealing.h"
#include "parallel/chain_search.h"
#include "parallel/placement_solver.h"

namespace conclave {
namespace {

constexpr double kNanosecondsPerEffort = 8e7;
constexpr double kPassesOfAStart = 40'000, kMostPasses = 240'000, kEffortOfLongerStarts = 100;

struct Search {
  uint64_t seed;
  double effort;

  // One slow start finds more than several fast ones, up to kPassesOfAStart passes, and at larger efforts up to more in proportion; what
  // more passes there are become further starts.
  void Budget(const PlacementProblem& problem, int64_t* starts, int64_t* passes) const {
    const double pass = std::max(1.0, PassNanoseconds(problem)), longer = std::max(1.0, effort / kEffortOfLongerStarts);
    const auto all = static_cast<int64_t>(std::min(kMostPasses * longer, effort * kNanosecondsPerEffort / pass));
    *starts = std::max<int64_t>(1, all / static_cast<int64_t>(kPassesOfAStart * longer));
    *passes = all / *starts;
  }
};

// Keeps the cheapest table, the first of equals.
class Best {
 public:
  void Offer(ChainState& state) {
    Descend(state);
    if (!table_.empty() && state.cost() >= cost_) return;
    cost_ = state.cost();
    table_ = state.table();
  }
  const PlacementTable& table() const { return table_; }

 private:
  PlacementTable table_;
  int64_t cost_ = 0;
};

// The counts among the experts of `members` alone: [layer][index] -> expert.
RoutingCounts Restrict(const RoutingCounts& counts, const std::vector<std::vector<int>>& members) {
  const int size = static_cast<int>(members[0].size());
  RoutingCounts part(counts.layers(), size);
  for (int j = 0; j + 1 < counts.layers(); ++j) {
    for (int i = 0; i < size; ++i) {
      for (int p = 0; p < size; ++p)
        part.transitions(j)[i * size + p] = counts.transitions(j)[members[j][i] * counts.experts() + members[j + 1][p]];
    }
  }
  return part;
}

PlacementTable SearchFlat(const PlacementProblem& problem, const Search& search) {
  Best best;
  const RoutingCounts& counts = *problem.counts;
  ChainState state(problem, ContiguousTable(counts.layers(), counts.experts(), problem.topology.ranks));
  best.Offer(state);
  int64_t starts = 0, passes = 0;
  search.Budget(problem, &starts, &passes);
  for (int64_t start = 0; start < starts; ++start) {
    const uint32_t number = static_cast<uint32_t>(start);
    state.SetTable(RandomTable(counts.layers(), counts.experts(), problem.topology.ranks, search.seed, number));
    Anneal(state, {.seed = search.seed, .start = number, .passes = passes});
    best.Offer(state);
  }
  return best.table();
}

// First which node, by l_inter; then which rank of the node, by the tokens that stay in it.
PlacementTable SearchStaged(const PlacementProblem& problem, const Search& search) {
  const RoutingCounts& counts = *problem.counts;
  const int nodes = problem.topology.nodes, ranks_per_node = problem.topology.ranks_per_node();
  const PlacementTable node_of = SearchFlat({.counts = &counts, .topology = {.ranks = nodes, .nodes = nodes}, .current = {}}, search);
  PlacementTable table(counts.layers(), std::vector<int>(counts.experts()));
  for (int n = 0; n < nodes; ++n) {
    std::vector<std::vector<int>> members(counts.layers());
    for (int j = 0; j < counts.layers(); ++j) {
      for (int e = 0; e < counts.experts(); ++e) {
        if (node_of[j][e] == n) members[j].push_back(e);
      }
    }
    const RoutingCounts inside = Restrict(counts, members);
    const PlacementProblem part{.counts = &inside, .topology = {.ranks = ranks_per_node, .nodes = 1}, .current = {}};
    const PlacementTable rank_of = SearchFlat(part, {.seed = search.seed, .effort = search.effort / nodes});
    for (int j = 0; j < counts.layers(); ++j) {
      for (size_t i = 0; i < members[j].size(); ++i) table[j][members[j][i]] = n * ranks_per_node + rank_of[j][i];
    }
  }
  return table;
}

class AffinityPlacement : public PlacementSolver {
 public:
  explicit AffinityPlacement(Search search) : search_(search) {}

  absl::StatusOr<PlacementTable> Solve(const PlacementProblem& problem) const override {
    const bool staged = problem.topology.nodes > 1 && problem.topology.ranks_per_node() > 1;
    Search search = search_;
    if (staged) search.effort /= 3;  // as much for each of: ranks at once, nodes, ranks inside nodes
    ChainState state(problem, SearchFlat(problem, search));
    Best best;
    best.Offer(state);
    if (staged) {
      state.SetTable(SearchStaged(problem, search));
      best.Offer(state);
    }
    if (!problem.current.empty()) {
      state.SetTable(problem.current);
      best.Offer(state);
    }
    return best.table();
  }

 private:
  Search search_;
};

}  // namespace

PlacementSolverOr MakeAffinityPlacement(const AffinityPlacementConfig& config) {
  const Search search{.seed = static_cast<uint64_t>(config.has_seed() ? config.seed() : 1),
                      .effort = static_cast<double>(config.has_effort() ? config.effort() : 60)};
  if (search.effort < 0) return InvalidArgument("placement.affinity.effort: expected at least 0, got %d", config.effort());
  return std::make_unique<AffinityPlacement>(search);
}

}  // namespace conclave
