// Laws of the planner: what every solver keeps, and what the good ones reach.
#include <gtest/gtest.h>

#include <google/protobuf/descriptor.h>

#include "base/check.h"
#include "parallel/chain_search.h"
#include "parallel/markov_trace.h"
#include "parallel/placement_bound.h"
#include "parallel/placement_solver.h"
#include "tests/parallel/placement_case.h"

namespace conclave {
namespace {

// A config with the named member of the oneof.
PlacementConfig ConfigOf(const std::string& name) {
  PlacementConfig config;
  const auto* field = config.GetDescriptor()->FindFieldByName(name);
  config.GetReflection()->MutableMessage(&config, field);
  return config;
}

PlacementConfig Affinity(int64_t effort) {
  PlacementConfig config;
  config.mutable_affinity()->set_effort(effort);
  return config;
}

PlacementPlan Planned(const PlacementProblem& problem, const PlacementConfig& config) {
  const auto solver = MakePlacementSolver(config);
  CHECK_OK(solver.status());
  auto plan = PlanPlacement(problem, **solver);
  CHECK_OK(plan.status());
  return *std::move(plan);
}

TEST(Placements, EverySolverKeepsTheLaws) {
  const MarkovInstance chain{.layers = 3, .experts = 8, .tokens = 2000};
  const RoutingCounts counts = RoutingCounts::Of(MarkovTrace(chain));
  const auto* solvers = PlacementConfig::descriptor()->FindOneofByName("solver");
  for (int i = 0; i < solvers->field_count(); ++i) {
    PlacementConfig config = ConfigOf(solvers->field(i)->name());
    if (config.has_affinity()) config.mutable_affinity()->set_effort(1);
    if (config.has_coactivation()) config.mutable_coactivation()->set_effort(1);
    for (const Topology& topology : {Topology{.ranks = 1}, {.ranks = 4}, {.ranks = 4, .nodes = 2}, {.ranks = 8, .nodes = 8}}) {
      const RoutedSets sets = RoutedSets::Of(MarkovTrace(chain), topology.ranks, HomesInOrder(chain.tokens, topology.ranks));
      const bool touched = config.has_coactivation();
      const PlacementProblem problem{.counts = &counts,
                                     .topology = topology,
                                     .current = {},
                                     .sets = &sets,
                                     .objective = touched ? PlacementObjective::kTouched : PlacementObjective::kChain};
      SCOPED_TRACE(absl::StrFormat("%s, %d ranks, %d nodes", solvers->field(i)->name(), topology.ranks, topology.nodes));
      const auto solver = MakePlacementSolver(config);
      ASSERT_TRUE(solver.ok()) << solver.status();
      const auto table = (*solver)->Solve(problem);
      ASSERT_TRUE(table.ok()) << table.status();
      EXPECT_TRUE(IsBalanced(*table, topology.ranks));
      EXPECT_EQ(*table, *(*solver)->Solve(problem));  // deterministic
      const PlacementPlan plan = Planned(problem, config);
      EXPECT_TRUE(IsBalanced(plan.table, topology.ranks));
      EXPECT_EQ(plan.crossings, CountCrossings(counts, plan.table, topology));
      EXPECT_EQ(plan.cost, CostOf(problem, plan.table));
      EXPECT_LE(plan.cost, CostOf(problem, ContiguousTable(3, 8, topology.ranks)));
      EXPECT_GE(plan.crossings.Cost(topology), LowerBound(problem));
      // An unchanged trace moves nothing, whatever stood before.
      PlacementProblem again = problem;
      again.current = RandomTable(3, 8, topology.ranks, 5);
      const PlacementPlan first = Planned(again, config);
      EXPECT_EQ(first.moves, CountMoves(again.current, first.table));
      again.current = first.table;
      EXPECT_EQ(Planned(again, config).moves, 0);
    }
  }
}

TEST(Placements, EqualExhaustiveSearch) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    const int experts = seed % 2 == 0 ? 4 : 2, layers = 2 + static_cast<int>(seed % 3);
    const RoutingCounts counts = RoutingCounts::Of(UniformTrace(layers, experts, 60, seed));
    for (const int nodes : {1, 2}) {
      const PlacementProblem problem{.counts = &counts, .topology = {.ranks = 2, .nodes = nodes}, .current = {}};
      const int64_t optimum = ExhaustiveCost(problem);
      EXPECT_EQ(Planned(problem, ConfigOf("exact")).crossings.Cost(problem.topology), optimum) << seed;
      EXPECT_EQ(Planned(problem, Affinity(1)).crossings.Cost(problem.topology), optimum) << seed;
      EXPECT_LE(LowerBound(problem), optimum) << seed;
    }
  }
}

// Four ranks on two nodes, where the two levels pull apart: 4 experts, one a rank, 24^3 placements.
TEST(Placements, ExactKnowsNodes) {
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    const RoutingCounts counts = RoutingCounts::Of(UniformTrace(3, 4, 40, seed));
    const PlacementProblem problem{
        .counts = &counts, .topology = {.ranks = 4, .nodes = 2, .intra_cost = 1, .inter_cost = 5}, .current = {}};
    const int64_t optimum = ExhaustiveCost(problem);
    EXPECT_EQ(Planned(problem, ConfigOf("exact")).crossings.Cost(problem.topology), optimum);
    EXPECT_EQ(Planned(problem, Affinity(1)).crossings.Cost(problem.topology), optimum);
    EXPECT_LE(LowerBound(problem), optimum);
  }
}

// Where dynamic programming reaches, the search finds the optimum too: 8 experts on 2 and 4 ranks, many layers.
TEST(Placements, AffinityEqualsExactAtEightExperts) {
  for (const auto& [ranks, layers] : {std::pair{2, 12}, {4, 6}}) {
    const RoutingCounts counts = MarkovCounts({.layers = layers, .experts = 8, .tokens = 1'000'000});
    const PlacementProblem problem{.counts = &counts, .topology = {.ranks = ranks}, .current = {}};
    EXPECT_EQ(Planned(problem, Affinity(4)).crossings, Planned(problem, ConfigOf("exact")).crossings) << ranks;
  }
}

TEST(Placements, ExactSaysItsReach) {
  const RoutingCounts counts(2, 64);
  const auto solver = MakePlacementSolver(ConfigOf("exact"));
  const auto plan = PlanPlacement({.counts = &counts, .topology = {.ranks = 8}, .current = {}}, **solver);
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kUnimplemented);
}

TEST(Placements, PlantedColumnsAreRecovered) {
  for (const Topology& topology : {Topology{.ranks = 4}, {.ranks = 8, .nodes = 2}}) {
    const PlacementTable planted = RandomTable(6, 16, topology.ranks, 3);
    const RoutingCounts counts = RoutingCounts::Of(PlantedTrace(planted, topology.ranks, 4000, 1));
    const PlacementPlan plan = Planned({.counts = &counts, .topology = topology, .current = {}}, Affinity(2));
    EXPECT_EQ(plan.crossings, (Crossings{.rank = 0, .node = 0}));
    // On the planted columns themselves nothing moves, and under other names of ranks it is the planted table again.
    EXPECT_EQ(CountMoves(Align(plan.table, planted, {.ranks = topology.ranks}), planted), 0);
  }
}

TEST(Placements, RenumberedExpertsRenumberThePlan) {
  const RoutingCounts counts = MarkovCounts({.layers = 4, .experts = 8, .sigma = 2, .tokens = 1'000'000});
  const std::vector<int> to{3, 0, 6, 1, 7, 2, 5, 4};
  const RoutingCounts renumbered = Renumbered(counts, to);
  const Topology topology{.ranks = 2};
  const PlacementTable plan = Planned({.counts = &counts, .topology = topology, .current = {}}, Affinity(1)).table;
  PlacementTable expected = plan;
  for (size_t j = 0; j < plan.size(); ++j) {
    for (size_t e = 0; e < to.size(); ++e) expected[j][to[e]] = plan[j][e];
  }
  const PlacementTable got = Planned({.counts = &renumbered, .topology = topology, .current = {}}, Affinity(1)).table;
  EXPECT_EQ(Align(got, expected, topology), expected);
}

TEST(Align, NeverMovesMoreAndKeepsTheCost) {
  const RoutingCounts counts = MarkovCounts({.layers = 5, .experts = 16, .tokens = 100'000});
  for (const Topology& topology : {Topology{.ranks = 8}, {.ranks = 8, .nodes = 2}, {.ranks = 8, .nodes = 8}}) {
    for (uint32_t start = 0; start < 5; ++start) {
      const PlacementTable a = RandomTable(5, 16, 8, 1, start), b = RandomTable(5, 16, 8, 2, start);
      const PlacementTable aligned = Align(a, b, topology);
      EXPECT_LE(CountMoves(b, aligned), CountMoves(b, a));
      EXPECT_EQ(CountCrossings(counts, aligned, topology), CountCrossings(counts, a, topology));
      EXPECT_EQ(Align(aligned, b, topology), aligned);
    }
  }
  // Ranks 0 and 1, which share a node, changed places, and so did both nodes: nothing needs to move.
  const PlacementTable current = {{0, 1, 2, 3}};
  EXPECT_EQ(Align({{2, 3, 1, 0}}, current, {.ranks = 4, .nodes = 2}), current);
  // Ranks of different nodes cannot change places alone.
  EXPECT_EQ(CountMoves(current, Align({{2, 1, 0, 3}}, current, {.ranks = 4, .nodes = 2})), 2);
}

TEST(PlanPlacement, RefusesWhatCannotBe) {
  const RoutingCounts counts(2, 8);
  const auto solver = MakePlacementSolver(ConfigOf("contiguous"));
  const auto error = [&](PlacementProblem problem) {
    problem.counts = &counts;
    return std::string(PlanPlacement(problem, **solver).status().message());
  };
  EXPECT_NE(error({.topology = {.ranks = 3}, .current = {}}).find("8 experts cannot be split evenly over 3 ranks"), std::string::npos);
  EXPECT_NE(error({.topology = {.ranks = 4, .nodes = 3}, .current = {}}).find("4 ranks cannot be split evenly over 3 nodes"),
            std::string::npos);
  EXPECT_NE(error({.topology = {.ranks = 2, .intra_cost = 3}, .current = {}}).find("intra 3 and inter 2"), std::string::npos);
  EXPECT_NE(error({.topology = {.ranks = 2}, .current = {{0, 0, 0, 0, 1, 1, 1, 1}}}).find("1 layers"), std::string::npos);
  EXPECT_NE(error({.topology = {.ranks = 2}, .current = {{0, 0, 0, 0, 1, 1, 1, 1}, {0, 0, 0, 0, 0, 1, 1, 1}}}).find("layer 1, expert 4"),
            std::string::npos);
  EXPECT_EQ(MakePlacementSolver(PlacementConfig()).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace conclave
