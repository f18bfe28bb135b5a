// The bound by paths of pairs: never below what a placement keeps, and close to it.
#include "parallel/placement_paths_bound.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/rng.h"
#include "parallel/chain_search.h"
#include "parallel/markov_trace.h"
#include "parallel/path_prices.h"
#include "parallel/placement_bound.h"
#include "parallel/placement_solver.h"
#include "tests/parallel/placement_case.h"

namespace conclave {
namespace {

// The most tokens that stay, by the exact solver.
int64_t MostKept(const RoutingCounts& counts) {
  PlacementConfig config;
  config.mutable_exact();
  const auto solver = MakePlacementSolver(config);
  CHECK_OK(solver.status());
  const auto plan = PlanPlacement({.counts = &counts, .topology = {.ranks = counts.experts() / 2}, .current = {}}, **solver);
  CHECK_OK(plan.status());
  return counts.total() - plan->crossings.rank;
}

TEST(PathsBound, ExhaustiveSearchNeverKeepsMore) {
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    const int layers = 1 + static_cast<int>(seed % 4);
    const RoutingCounts counts = RoutingCounts::Of(UniformTrace(layers, 4, 40, seed));
    const PlacementProblem problem{.counts = &counts, .topology = {.ranks = 2}, .current = {}};
    const int64_t kept = counts.total() - ExhaustiveCost(problem);
    EXPECT_GE(PathsKeepAtMost(counts), kept) << seed;
    EXPECT_LE(KeptAtMost(counts, 2), PathsKeepAtMost(counts)) << seed;
    // Two pairs of four experts, one the complement of the other.
    EXPECT_LE(static_cast<double>(PathsKeepAtMost(counts)), 1.002 * static_cast<double>(kept) + 1) << seed;
  }
}

TEST(PathsBound, EightExpertsAreWithinAThousandth) {
  for (const int layers : {2, 6}) {
    const RoutingCounts counts = RoutingCounts::Of(MarkovTrace({.layers = layers, .experts = 8, .tokens = 2000}));
    const int64_t kept = MostKept(counts), bound = PathsKeepAtMost(counts);
    EXPECT_GE(bound, kept) << layers;
    EXPECT_LE(static_cast<double>(bound), 1.001 * static_cast<double>(kept)) << layers;
  }
}

// Whatever the prices are. Two experts, which are one pair, keep all.
TEST(PathsBound, AnyPricesBound) {
  const RoutingCounts counts = RoutingCounts::Of(UniformTrace(4, 6, 200, 1));
  const int64_t kept = MostKept(counts);
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const RngKey key{.seed = seed, .site = 1, .kind = RngKind::kPlacement};
    std::vector<int64_t> prices(4 * 6);
    for (size_t i = 0; i < prices.size(); ++i) prices[i] = static_cast<int64_t>((key.UniformDouble(i) - 0.5) * 20 * kPriceUnits);
    EXPECT_GE(KeptAtPrices(counts, prices), kept) << seed;
    // A layer whose experts all cost more by the same changes nothing.
    const int64_t before = KeptAtPrices(counts, prices);
    for (int e = 0; e < 6; ++e) prices[6 + e] += 12345;
    EXPECT_EQ(KeptAtPrices(counts, prices), before) << seed;
  }
  // Free experts: both ranks take the best path, experts 1 and 3 and then 2, which keeps all three tokens.
  RoutingCounts small(2, 4);
  small.transitions(0)[1 * 4 + 2] = 2;
  small.transitions(0)[3 * 4 + 2] = 1;
  EXPECT_EQ(KeptAtPrices(small, std::vector<int64_t>(8, 0)), 5);
  const RoutingCounts two = RoutingCounts::Of(UniformTrace(3, 2, 50, 1));
  EXPECT_EQ(KeptAtPrices(two, std::vector<int64_t>(6, 7)), two.total());
  EXPECT_EQ(PathsKeepAtMost(two), two.total());
}

// Planted pairs keep all their tokens, and of those that leave them none.
TEST(PathsBound, PlantedPairsAreTight) {
  const PlacementTable planted = RandomTable(6, 16, 8, 3);
  RoutingCounts counts = RoutingCounts::Of(PlantedTrace(planted, 8, 4000, 1));
  const int64_t kept = counts.total();
  // Tokens of expert 0 that leave its rank: none of them can be kept.
  for (int e = 0; e < 16; ++e) {
    if (planted[1][e] != planted[0][0]) counts.transitions(0)[e] += 1;
  }
  EXPECT_EQ(counts.total(), kept + 14);
  EXPECT_EQ(PathsKeepAtMost(counts), kept);
}

// Sixteen experts on eight ranks: far better than the other bounds where tokens spread. The steep chain's transitions differ so much that
// sums of exponentials need care.
TEST(PathsBound, SixteenExpertsAreWithinAPercent) {
  for (const double sigma : {1.5, 6.0}) {
    const RoutingCounts counts = MarkovCounts({.layers = 6, .experts = 16, .sigma = sigma, .tokens = 100'000});
    PlacementConfig config;
    config.mutable_affinity()->set_effort(2);
    const auto solver = MakePlacementSolver(config);
    ASSERT_TRUE(solver.ok());
    const auto plan = PlanPlacement({.counts = &counts, .topology = {.ranks = 8}, .current = {}}, **solver);
    ASSERT_TRUE(plan.ok());
    const int64_t kept = counts.total() - plan->crossings.rank, bound = PathsKeepAtMost(counts);
    EXPECT_GE(bound, kept);
    EXPECT_LE(static_cast<double>(bound), 1.01 * static_cast<double>(kept)) << sigma;
    EXPECT_EQ(KeptAtMost(counts, 8), bound) << sigma;
  }
}

// How often paths drawn with weight e^(value / T) take every expert of three layers, by going through all paths.
std::vector<double> Taken(const RoutingCounts& counts, const std::vector<double>& prices, double temperature) {
  const ExpertPairs pairs(counts.experts());
  const int n = counts.experts();
  const auto kept = [&](int layer, int64_t s, int64_t t) {
    const auto w = counts.transitions(layer);
    const int a = pairs.first[s] * n, b = pairs.second[s] * n, c = pairs.first[t], d = pairs.second[t];
    return static_cast<double>(w[a + c] + w[a + d] + w[b + c] + w[b + d]);
  };
  const auto price = [&](int layer, int64_t s) { return prices[layer * n + pairs.first[s]] + prices[layer * n + pairs.second[s]]; };
  std::vector<double> taken(prices.size()), value;
  const int64_t m = pairs.count;
  for (int64_t path = 0; path < m * m * m; ++path) {
    const int64_t s = path / m / m, t = path / m % m, u = path % m;
    value.push_back(kept(0, s, t) + kept(1, t, u) - price(0, s) - price(1, t) - price(2, u));
  }
  const double most = *std::max_element(value.begin(), value.end());
  double all = 0;
  for (int64_t path = 0; path < m * m * m; ++path) {
    const double weight = std::exp((value[path] - most) / temperature);
    const int64_t at[] = {path / m / m, path / m % m, path % m};
    for (int j = 0; j < 3; ++j) taken[j * n + pairs.first[at[j]]] += weight, taken[j * n + pairs.second[at[j]]] += weight;
    all += weight;
  }
  for (double& share : taken) share /= all;
  return taken;
}

// At every temperature, also where transitions differ by thousands of temperatures.
TEST(PathPrices, EveryExpertIsTakenEquallyOften) {
  constexpr int64_t kUnits = 1 << 20;
  for (const double sigma : {1.5, 6.0}) {
    const RoutingCounts counts = MarkovCounts({.layers = 3, .experts = 6, .sigma = sigma, .tokens = 100'000});
    PathPrices prices(counts);
    for (double temperature = 10'000; temperature > 20; temperature *= 0.5) {
      for (int round = 0; round < 20; ++round) {
        prices.SetTemperature(temperature);
        for (int i = 0; i < 5; ++i) prices.Sweep();
      }
      std::vector<double> tokens;
      for (const int64_t price : prices.Rounded(kUnits)) tokens.push_back(static_cast<double>(price) / kUnits);
      for (const double share : Taken(counts, tokens, temperature)) EXPECT_NEAR(share, 1.0 / 3, 0.01) << sigma << " at " << temperature;
    }
  }
}

}  // namespace
}  // namespace conclave
