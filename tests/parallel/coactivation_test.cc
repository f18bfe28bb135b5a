// The co-activation objective: counts against token by token, searches against enumeration, sequences against brute force.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "base/check.h"
#include "base/rng.h"
#include "parallel/chain_search.h"
#include "parallel/sequence_homes.h"
#include "parallel/set_cuts.h"
#include "tests/parallel/placement_case.h"

namespace conclave {
namespace {

RoutingTrace TraceOf(int layers, int experts, int top_k, std::vector<int32_t> ids) {
  auto trace = RoutingTrace::Make({.experts = experts, .layers = layers, .top_k = top_k, .corpus = "", .checkpoint = ""}, std::move(ids));
  CHECK_OK(trace.status());
  return *std::move(trace);
}

// Tokens with `top_k` different experts a layer, some sets often.
RoutingTrace SkewedTrace(int layers, int experts, int top_k, int64_t tokens, uint64_t seed) {
  const RngKey key{.seed = seed};
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int j = 0; j < layers; ++j) {
      const uint64_t kind = key.Below(static_cast<uint64_t>(tokens) / 3 + 1, static_cast<uint64_t>(t * layers + j));
      const IndexPermutation order({.seed = seed + 1, .step = static_cast<uint32_t>(kind)}, static_cast<uint64_t>(experts));
      for (int s = 0; s < top_k; ++s) ids.push_back(static_cast<int32_t>(order(static_cast<uint64_t>(s))));
    }
  }
  return TraceOf(layers, experts, top_k, std::move(ids));
}

int64_t TouchedCost(const RoutedSets& sets, int layer, const std::vector<int>& rank_of, const Topology& topology) {
  const RowCount touched = CountTouched(sets, layer, rank_of, topology);
  return topology.inter_cost * touched.between + topology.intra_cost * touched.inside;
}

TEST(RoutedSets, CountsAreThoseOfTheTokens) {
  const RoutingTrace trace = SkewedTrace(2, 8, 3, 60, 1);
  const Topology topology{.ranks = 4, .nodes = 2};
  const PlacementTable table = RandomTable(2, 8, 4, 3);
  const std::vector<int> homes = HomesInOrder(60, 4);
  EXPECT_EQ(std::ranges::count(homes, 2), 15);
  const RoutedSets sets = RoutedSets::Of(trace, 4, homes);
  for (int j = 0; j < 2; ++j) {
    RowCount touched, flat, deduplicated;
    for (int64_t t = 0; t < 60; ++t) {
      std::set<int> nodes, ranks;
      for (int s = 0; s < 3; ++s) {
        const int rank = table[j][trace.expert(t, j, s)];
        const bool near = topology.NodeOf(rank) == topology.NodeOf(homes[t]);
        flat.between += !near;
        flat.inside += near && rank != homes[t];
        if (!near) nodes.insert(topology.NodeOf(rank));
        if (rank != homes[t]) ranks.insert(rank);
      }
      touched.between += static_cast<int64_t>(nodes.size());
      for (const int rank : ranks) {
        const bool near = topology.NodeOf(rank) == topology.NodeOf(homes[t]);
        touched.inside += near;
        (near ? deduplicated.inside : deduplicated.between) += 1;
      }
    }
    EXPECT_EQ(CountTouched(sets, j, table[j], topology), touched);
    EXPECT_EQ(CountRows(sets, j, table[j], topology, DispatchConfig::FLAT), flat);
    EXPECT_EQ(CountRows(sets, j, table[j], topology, DispatchConfig::DEDUPLICATED), deduplicated);
    EXPECT_EQ(CountRows(sets, j, table[j], topology, DispatchConfig::DEDUPLICATED_HIERARCHICAL).between, touched.between);
    EXPECT_EQ(CountRows(sets, j, table[j], topology, DispatchConfig::HIERARCHICAL).between, flat.between);
    EXPECT_LT(sets.sets(j), 60);
  }
}

// Without homes: the sum over all homes that every token could have.
TEST(RoutedSets, UnknownHomesAreAllHomes) {
  const RoutingTrace trace = SkewedTrace(1, 8, 2, 40, 2);
  const Topology topology{.ranks = 4, .nodes = 2};
  const std::vector<int> rank_of = RandomTable(1, 8, 4, 5)[0];
  const RoutedSets any = RoutedSets::Of(trace, 4);
  EXPECT_EQ(any.homes(), 4);
  RowCount touched, rows;
  for (int home = 0; home < 4; ++home) {
    const RoutedSets here = RoutedSets::Of(trace, 4, std::vector<int>(40, home));
    touched += CountTouched(here, 0, rank_of, topology);
    rows += CountRows(here, 0, rank_of, topology, DispatchConfig::HIERARCHICAL);
  }
  EXPECT_EQ(CountTouched(any, 0, rank_of, topology), touched);
  EXPECT_EQ(CountRows(any, 0, rank_of, topology, DispatchConfig::HIERARCHICAL), rows);
}

// Every pair of 8 experts once, on 4 ranks: k (1 - 1/P) = 1.5 rows a token, 39/28 without duplicates.
TEST(RoutedSets, UniformRoutingHasTheExpectedRows) {
  std::vector<int32_t> ids;
  for (int a = 0; a < 8; ++a) {
    for (int b = 0; b < a; ++b) ids.insert(ids.end(), {a, b});
  }
  const RoutedSets sets = RoutedSets::Of(TraceOf(1, 8, 2, ids), 4);
  const std::vector<int> rank_of = ContiguousTable(1, 8, 4)[0];
  EXPECT_EQ(CountRows(sets, 0, rank_of, {.ranks = 4}, DispatchConfig::FLAT).inside * 2, 3 * 28 * 4);
  EXPECT_EQ(CountRows(sets, 0, rank_of, {.ranks = 4}, DispatchConfig::DEDUPLICATED).inside * 28, 39 * 28 * 4);
  // The 4 pairs of one rank come home as one row to the 3 others.
  EXPECT_NEAR(CountFolded(sets, 0, rank_of, {.ranks = 4}, DispatchConfig::DEDUPLICATED).inside, 4 * 3, 1e-12);
}

// Against all orders of a token's experts: 3 on rank 2, 1 on rank 3, 1 at home.
TEST(RoutedSets, FoldedRowsAreTheMeanOverOrders) {
  const Topology topology{.ranks = 4, .nodes = 2};
  const std::vector<int> rank_of = {2, 2, 2, 3, 0, 0, 1, 1};
  std::vector<int32_t> order = {0, 1, 2, 3, 4};
  const RoutedSets sets = RoutedSets::Of(TraceOf(1, 8, 5, order), 4, std::vector<int>{0});
  double by_rank = 0, by_node = 0, orders = 0;
  do {
    size_t ranks = 1, nodes = 1;
    while (ranks < 5 && rank_of[order[ranks]] == rank_of[order[0]]) ++ranks;
    while (nodes < 5 && topology.NodeOf(rank_of[order[nodes]]) == topology.NodeOf(rank_of[order[0]])) ++nodes;
    by_rank += rank_of[order[0]] == 0 ? 0.0 : static_cast<double>(ranks - 1);
    by_node += topology.NodeOf(rank_of[order[0]]) == 0 ? 0.0 : static_cast<double>(nodes - 1);
    ++orders;
  } while (std::ranges::next_permutation(order).found);
  EXPECT_NEAR(CountFolded(sets, 0, rank_of, topology, DispatchConfig::DEDUPLICATED).between, by_rank / orders, 1e-12);
  EXPECT_NEAR(CountFolded(sets, 0, rank_of, topology, DispatchConfig::DEDUPLICATED_HIERARCHICAL).between, by_node / orders, 1e-12);
}

TEST(SetCuts, KeepTheCostOfTheirTable) {
  const RoutingTrace trace = SkewedTrace(1, 70, 4, 90, 3);
  for (const bool known : {false, true}) {
    for (const Topology& topology :
         {Topology{.ranks = 5}, {.ranks = 14, .nodes = 7, .intra_cost = 2, .inter_cost = 5}, {.ranks = 7, .nodes = 7}}) {
      const RoutedSets sets = RoutedSets::Of(trace, topology.ranks, known ? HomesInOrder(90, topology.ranks) : std::vector<int>());
      SetCuts cuts(sets, 0, topology, RandomTable(1, 70, topology.ranks, 1)[0]);
      const RngKey key{.seed = 9};
      for (uint64_t i = 0; i < 40; ++i) {
        const int x = static_cast<int>(key.Below(70, 2 * i)), y = static_cast<int>(key.Below(70, 2 * i + 1));
        const int64_t expected = cuts.cost() + cuts.SwapCost(x, y);
        cuts.Swap(x, y);
        ASSERT_EQ(cuts.cost(), expected);
        ASSERT_EQ(cuts.cost(), TouchedCost(sets, 0, cuts.rank_of(), topology));
      }
      const int64_t before = cuts.cost();
      DescendCuts(cuts);
      EXPECT_LT(cuts.cost(), before);
      const std::vector<int> end = cuts.rank_of();
      DescendCuts(cuts);
      EXPECT_EQ(cuts.rank_of(), end);
    }
  }
}

std::unique_ptr<PlacementSolver> Coactivation(int64_t effort) {
  PlacementConfig config;
  config.mutable_coactivation()->set_effort(effort);
  auto solver = MakePlacementSolver(config);
  CHECK_OK(solver.status());
  return *std::move(solver);
}

PlacementPlan PlannedTouched(const RoutingTrace& trace, const Topology& topology, const std::vector<int>& homes, int64_t effort) {
  const RoutingCounts counts = RoutingCounts::Of(trace);
  const RoutedSets sets = RoutedSets::Of(trace, topology.ranks, homes);
  auto plan =
      PlanPlacement({.counts = &counts, .topology = topology, .current = {}, .sets = &sets, .objective = PlacementObjective::kTouched},
                    *Coactivation(effort));
  CHECK_OK(plan.status());
  return *std::move(plan);
}

// Sizes beyond those where the planner looks at all placements itself.
TEST(CoactivationPlacement, EqualsExhaustiveSearch) {
  for (const Topology& topology : {Topology{.ranks = 3}, {.ranks = 8, .nodes = 2}, {.ranks = 3, .nodes = 3}}) {
    const int experts = topology.ranks == 3 ? 12 : 8;
    for (uint64_t seed = 1; seed <= 2; ++seed) {
      const RoutingTrace trace = SkewedTrace(1, experts, 3, 360, seed);
      const std::vector<int> homes = seed % 2 == 0 ? HomesInOrder(360, topology.ranks) : std::vector<int>();
      const RoutedSets sets = RoutedSets::Of(trace, topology.ranks, homes);
      std::vector<int> rank_of = ContiguousTable(1, experts, topology.ranks)[0];
      int64_t optimum = TouchedCost(sets, 0, rank_of, topology);
      while (std::next_permutation(rank_of.begin(), rank_of.end())) optimum = std::min(optimum, TouchedCost(sets, 0, rank_of, topology));
      const PlacementPlan plan = PlannedTouched(trace, topology, homes, 10);
      EXPECT_EQ(plan.cost, optimum) << topology.ranks << " " << topology.nodes << " " << seed;
      EXPECT_EQ(plan.cost, TouchedCost(sets, 0, plan.table[0], topology));
      EXPECT_TRUE(IsBalanced(plan.table, topology.ranks));
    }
  }
}

// Where all placements of a layer can be looked at, the plan is the best of them whatever the effort: a search without any would stop at
// the first table that no swap improves.
TEST(CoactivationPlacement, IsOptimalWhereAllCanBeLookedAt) {
  int descended_short = 0;
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    for (const Topology& topology : {Topology{.ranks = 2}, {.ranks = 4}, {.ranks = 4, .nodes = 2}}) {
      const RoutingTrace trace = SkewedTrace(1, 8, 3, 80, seed);
      const std::vector<int> homes = seed % 2 == 0 ? HomesInOrder(80, topology.ranks) : std::vector<int>();
      const RoutedSets sets = RoutedSets::Of(trace, topology.ranks, homes);
      std::vector<int> rank_of = ContiguousTable(1, 8, topology.ranks)[0];
      SetCuts cuts(sets, 0, topology, rank_of);
      DescendCuts(cuts);
      int64_t optimum = TouchedCost(sets, 0, rank_of, topology);
      while (std::next_permutation(rank_of.begin(), rank_of.end())) optimum = std::min(optimum, TouchedCost(sets, 0, rank_of, topology));
      EXPECT_EQ(PlannedTouched(trace, topology, homes, 0).cost, optimum) << topology.ranks << " " << topology.nodes << " " << seed;
      descended_short += cuts.cost() > optimum ? 1 : 0;
    }
  }
  EXPECT_GT(descended_short, 0);  // or the cases above would ask nothing
}

// Tokens use experts of one planted rank alone: every token touches one rank, so a quarter of the homes is its own.
TEST(CoactivationPlacement, RecoversPlantedGroups) {
  const Topology topology{.ranks = 4, .nodes = 2};
  const PlacementTable planted = RandomTable(2, 16, 4, 3);
  const RngKey key{.seed = 4};
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < 200; ++t) {
    for (int j = 0; j < 2; ++j) {
      std::vector<int32_t> members;
      for (int e = 0; e < 16; ++e) {
        if (planted[j][e] == t % 4) members.push_back(e);
      }
      members.erase(members.begin() + static_cast<int64_t>(key.Below(4, ids.size())));
      ids.insert(ids.end(), members.begin(), members.end());
    }
  }
  const PlacementPlan plan = PlannedTouched(TraceOf(2, 16, 3, ids), topology, {}, 20);
  EXPECT_EQ(plan.cost, 200 * 2 * (2 * 2 + 1));  // from the four homes: two on another node, one on another rank of the node
  for (int j = 0; j < 2; ++j) {                 // layers have nothing to do with each other, not even the names of ranks
    EXPECT_EQ(CountMoves(Align({plan.table[j]}, {planted[j]}, {.ranks = 4}), {planted[j]}), 0);
  }
}

// A sequence that uses one rank's experts belongs there, and no even dealing is better than the one found.
TEST(SequenceHomes, AreTheBestEvenOnes) {
  const Topology topology{.ranks = 2, .nodes = 2};
  const RoutingTrace trace = SkewedTrace(2, 8, 2, 24, 6);
  const PlacementTable table = RandomTable(2, 8, 2, 2);
  const auto homes = PlaceSequences(trace, 4, table, topology);
  ASSERT_TRUE(homes.ok()) << homes.status();
  EXPECT_EQ(std::ranges::count(*homes, 0), 3);
  const auto cost = [&](const std::vector<int>& sequences) {
    const RoutedSets sets = RoutedSets::Of(trace, 2, TokenHomes(sequences, 4));
    return CountTouched(sets, table, topology).between;
  };
  std::vector<int> all = {0, 0, 0, 1, 1, 1};
  int64_t best = cost(all);
  while (std::next_permutation(all.begin(), all.end())) best = std::min(best, cost(all));
  EXPECT_EQ(cost(*homes), best);
  EXPECT_EQ(PlaceSequences(trace, 5, table, topology).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(PlaceSequences(trace, 8, table, topology).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(SequenceHomes, JointPlansAreNoWorseThanExpertsAlone) {
  const Topology topology{.ranks = 4, .nodes = 2};
  const RoutingTrace trace = SkewedTrace(2, 16, 2, 64, 8);
  const RoutingCounts counts = RoutingCounts::Of(trace);
  const PlacementPlan experts = PlannedTouched(trace, topology, HomesInOrder(64, 4), 10);
  const PlacementProblem problem{.counts = &counts, .topology = topology, .current = experts.table};
  const auto joint = PlanJointly(trace, 8, problem, *Coactivation(10));
  ASSERT_TRUE(joint.ok()) << joint.status();
  EXPECT_LT(joint->cost, experts.cost);
  const RowCount touched = CountTouched(RoutedSets::Of(trace, 4, TokenHomes(joint->homes, 8)), joint->table, topology);
  EXPECT_EQ(joint->cost, 2 * touched.between + touched.inside);
}

}  // namespace
}  // namespace conclave
