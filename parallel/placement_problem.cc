#include "parallel/placement_problem.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace conclave {
namespace {

// Costs of one expert are kept in 32 bits, with room for the difference of four of them.
constexpr int64_t kLargestWeight = int64_t{1} << 29;

absl::Status CheckCurrent(const PlacementProblem& problem) {
  const RoutingCounts& counts = *problem.counts;
  if (problem.current.empty()) return absl::OkStatus();
  if (static_cast<int>(problem.current.size()) != counts.layers())
    return InvalidArgument("current placement: it has %d layers, the trace has %d", problem.current.size(), counts.layers());
  for (int j = 0; j < counts.layers(); ++j) {
    const std::vector<int>& row = problem.current[j];
    if (static_cast<int>(row.size()) != counts.experts())
      return InvalidArgument("current placement: layer %d has %d experts, the trace has %d", j, row.size(), counts.experts());
    std::vector<int> used(problem.topology.ranks);
    for (int e = 0; e < counts.experts(); ++e) {
      if (row[e] < 0 || row[e] >= problem.topology.ranks || ++used[row[e]] > counts.experts() / problem.topology.ranks) {
        return InvalidArgument("current placement: layer %d, expert %d on rank %d: expected %d experts on each of ranks 0..%d", j, e,
                               row[e], counts.experts() / problem.topology.ranks, problem.topology.ranks - 1);
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckPlacementProblem(const PlacementProblem& problem) {
  CHECK(problem.counts != nullptr);
  const Topology& topology = problem.topology;
  const RoutingCounts& counts = *problem.counts;
  if (topology.ranks < 1) return InvalidArgument("placement: ranks: expected at least 1, got %d", topology.ranks);
  if (topology.nodes < 1 || topology.ranks % topology.nodes != 0)
    return InvalidArgument("placement: %d ranks cannot be split evenly over %d nodes", topology.ranks, topology.nodes);
  if (counts.experts() % topology.ranks != 0) {
    return InvalidArgument("placement: %d experts cannot be split evenly over %d ranks; choose ranks among the divisors of %d",
                           counts.experts(), topology.ranks, counts.experts());
  }
  if (topology.intra_cost < 0 || topology.inter_cost < std::max<int64_t>(1, topology.intra_cost)) {
    return InvalidArgument("placement: costs: expected 0 <= intra <= inter and inter >= 1, got intra %d and inter %d", topology.intra_cost,
                           topology.inter_cost);
  }
  for (int j = 0; j + 1 < counts.layers(); ++j) {
    const std::span<const int64_t> w = counts.transitions(j);
    const int64_t tokens = std::accumulate(w.begin(), w.end(), int64_t{0});
    if (tokens > kLargestWeight / topology.inter_cost) {
      return InvalidArgument("placement: layer %d counts %d tokens; at most %d fit beside a cost of %d a token: use a part of the trace", j,
                             tokens, kLargestWeight / topology.inter_cost, topology.inter_cost);
    }
  }
  if (problem.sets != nullptr) {
    CHECK_EQ(problem.sets->ranks(), topology.ranks);
    CHECK(problem.sets->layers() == counts.layers() && problem.sets->experts() == counts.experts());
  }
  CHECK(problem.objective == PlacementObjective::kChain || problem.sets != nullptr);
  return CheckCurrent(problem);
}

Crossings CountCrossings(const RoutingCounts& counts, const PlacementTable& table, const Topology& topology) {
  Crossings crossings;
  const int experts = counts.experts();
  for (int j = 0; j + 1 < counts.layers(); ++j) {
    const std::span<const int64_t> w = counts.transitions(j);
    for (int i = 0; i < experts; ++i) {
      for (int p = 0; p < experts; ++p) {
        const int from = table[j][i], to = table[j + 1][p];
        if (from == to) continue;
        crossings.rank += w[i * experts + p];
        if (topology.NodeOf(from) != topology.NodeOf(to)) crossings.node += w[i * experts + p];
      }
    }
  }
  return crossings;
}

RowCount CountTouched(const RoutedSets& sets, const PlacementTable& table, const Topology& topology) {
  RowCount sum;
  for (int j = 0; j < sets.layers(); ++j) sum += CountTouched(sets, j, table[j], topology);
  return sum;
}

int64_t CostOf(const PlacementProblem& problem, const PlacementTable& table) {
  const Topology& topology = problem.topology;
  if (problem.objective == PlacementObjective::kChain) return CountCrossings(*problem.counts, table, topology).Cost(topology);
  const RowCount touched = CountTouched(*problem.sets, table, topology);
  return topology.inter_cost * touched.between + topology.intra_cost * touched.inside;
}

Crossings CountCrossings(const RoutingTrace& trace, const PlacementTable& table, const Topology& topology) {
  Crossings crossings;
  for (int64_t t = 0; t < trace.tokens(); ++t) {
    for (int j = 0; j + 1 < trace.layers(); ++j) {
      const int from = table[j][trace.expert(t, j)], to = table[j + 1][trace.expert(t, j + 1)];
      crossings.rank += from != to;
      crossings.node += topology.NodeOf(from) != topology.NodeOf(to);
    }
  }
  return crossings;
}

double WorstLoadRatio(const RoutingCounts& counts, const PlacementTable& table, int ranks) {
  double worst = 0;
  for (int j = 0; j < counts.layers(); ++j) {
    std::vector<int64_t> load(ranks);
    for (int e = 0; e < counts.experts(); ++e) load[table[j][e]] += counts.load(j)[e];
    const int64_t sum = std::accumulate(load.begin(), load.end(), int64_t{0});
    if (sum > 0) worst = std::max(worst, static_cast<double>(*std::max_element(load.begin(), load.end())) * ranks / sum);
  }
  return worst;
}

PlacementTable ContiguousTable(int layers, int experts, int ranks) {
  std::vector<int> row(experts);
  for (int e = 0; e < experts; ++e) row[e] = e / (experts / ranks);
  return PlacementTable(layers, row);
}

int64_t CountMoves(const PlacementTable& from, const PlacementTable& to) {
  CHECK_EQ(from.size(), to.size());
  int64_t moves = 0;
  for (size_t j = 0; j < from.size(); ++j) {
    for (size_t e = 0; e < from[j].size(); ++e) moves += from[j][e] != to[j][e];
  }
  return moves;
}

}  // namespace conclave
