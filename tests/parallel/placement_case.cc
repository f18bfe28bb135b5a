#include "tests/parallel/placement_case.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/check.h"
#include "base/rng.h"

namespace conclave {
namespace {

RoutingTrace Made(int layers, int experts, std::vector<int32_t> ids) {
  auto trace = RoutingTrace::Make({.experts = experts, .layers = layers, .corpus = "", .checkpoint = ""}, std::move(ids));
  CHECK_OK(trace.status());
  return *std::move(trace);
}

}  // namespace

RoutingTrace UniformTrace(int layers, int experts, int64_t tokens, uint64_t seed) {
  const RngKey key{.seed = seed};
  std::vector<int32_t> ids(layers * tokens);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(key.Below(experts, i));
  return Made(layers, experts, std::move(ids));
}

RoutingTrace PlantedTrace(const PlacementTable& planted, int ranks, int64_t tokens, uint64_t seed) {
  const RngKey key{.seed = seed};
  const int layers = static_cast<int>(planted.size()), experts = static_cast<int>(planted[0].size());
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < tokens; ++t) {
    const int home = static_cast<int>(t % ranks);
    for (int j = 0; j < layers; ++j) {
      std::vector<int32_t> mine;
      for (int e = 0; e < experts; ++e) {
        if (planted[j][e] == home) mine.push_back(e);
      }
      ids.push_back(mine[key.Below(mine.size(), ids.size())]);
    }
  }
  return Made(layers, experts, std::move(ids));
}

int64_t ExhaustiveCost(const PlacementProblem& problem) {
  const int layers = problem.counts->layers(), experts = problem.counts->experts(), ranks = problem.topology.ranks;
  const std::vector<int> first = ContiguousTable(1, experts, ranks)[0];
  PlacementTable table(layers, first);
  int64_t best = std::numeric_limits<int64_t>::max();
  for (;;) {
    best = std::min(best, CountCrossings(*problem.counts, table, problem.topology).Cost(problem.topology));
    int j = 0;  // an odometer over the layers; next_permutation leaves the first row behind where it wraps
    while (j < layers && !std::next_permutation(table[j].begin(), table[j].end())) ++j;
    if (j == layers) return best;
  }
}

bool IsBalanced(const PlacementTable& table, int ranks) {
  for (const std::vector<int>& row : table) {
    for (int r = 0; r < ranks; ++r) {
      if (std::count(row.begin(), row.end(), r) * ranks != static_cast<int64_t>(row.size())) return false;
    }
  }
  return true;
}

RoutingCounts Renumbered(const RoutingCounts& counts, const std::vector<int>& to) {
  RoutingCounts result(counts.layers(), counts.experts());
  const int experts = counts.experts();
  for (int j = 0; j < counts.layers(); ++j) {
    for (int i = 0; i < experts; ++i) {
      result.load(j)[to[i]] = counts.load(j)[i];
      for (int p = 0; j + 1 < counts.layers() && p < experts; ++p)
        result.transitions(j)[to[i] * experts + to[p]] = counts.transitions(j)[i * experts + p];
    }
  }
  return result;
}

}  // namespace conclave
