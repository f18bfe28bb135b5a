// The bound by Gram matrices: never below what a placement keeps, and near to it where nothing else is.
#include "parallel/placement_gram_bound.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/check.h"
#include "base/rng.h"
#include "parallel/chain_search.h"
#include "parallel/markov_trace.h"
#include "parallel/placement_bound.h"
#include "parallel/placement_solver.h"
#include "parallel/symmetric_eigen.h"
#include "tests/parallel/placement_case.h"

namespace conclave {
namespace {

int64_t KeptBy(const RoutingCounts& counts, int ranks, const PlacementConfig& config) {
  const auto solver = MakePlacementSolver(config);
  CHECK_OK(solver.status());
  const auto plan = PlanPlacement({.counts = &counts, .topology = {.ranks = ranks}, .current = {}}, **solver);
  CHECK_OK(plan.status());
  return counts.total() - plan->crossings.rank;
}

int64_t MostKept(const RoutingCounts& counts, int ranks) {
  PlacementConfig config;
  config.mutable_exact();
  return KeptBy(counts, ranks, config);
}

TEST(GramBound, NoPlacementKeepsMore) {
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    const int layers = 1 + static_cast<int>(seed % 4);
    const RoutingCounts counts = RoutingCounts::Of(UniformTrace(layers, 4, 40, seed));
    const PlacementProblem problem{.counts = &counts, .topology = {.ranks = 2}, .current = {}};
    EXPECT_GE(GramsKeepAtMost(counts, 2), counts.total() - ExhaustiveCost(problem)) << seed;
  }
}

TEST(GramBound, EightExpertsAreWithinFivePercent) {
  for (const int ranks : {2, 4}) {
    for (const double sigma : {0.5, 1.5, 4.0}) {
      const RoutingCounts counts = MarkovCounts({.layers = 6, .experts = 8, .sigma = sigma, .tokens = 100'000});
      const int64_t kept = MostKept(counts, ranks), bound = GramsKeepAtMost(counts, ranks);
      EXPECT_GE(bound, kept) << ranks << " ranks, sigma " << sigma;
      EXPECT_LE(static_cast<double>(bound), 1.05 * static_cast<double>(kept)) << ranks << " ranks, sigma " << sigma;
    }
  }
}

// What nobody can choose is known: with equal transitions every placement keeps one part of them.
TEST(GramBound, EqualTransitionsAreTight) {
  RoutingCounts counts(4, 12);
  for (int j = 0; j < 3; ++j) {
    for (int64_t& c : counts.transitions(j)) c = 1000;
  }
  const int64_t kept = counts.total() / 3;
  EXPECT_GE(GramsKeepAtMost(counts, 3), kept);
  EXPECT_LE(static_cast<double>(GramsKeepAtMost(counts, 3)), 1.0001 * static_cast<double>(kept));
}

TEST(GramBound, PlantedPartsAreTight) {
  const PlacementTable planted = RandomTable(6, 16, 4, 3);
  RoutingCounts counts = RoutingCounts::Of(PlantedTrace(planted, 4, 4000, 1));
  const int64_t kept = counts.total();
  // Tokens of expert 0 that leave its rank: none of them can be kept.
  for (int e = 0; e < 16; ++e) {
    if (planted[1][e] != planted[0][0]) counts.transitions(0)[e] += 10;
  }
  EXPECT_EQ(counts.total(), kept + 120);
  const int64_t bound = GramsKeepAtMost(counts, 4);
  EXPECT_GE(bound, kept);
  EXPECT_LT(bound, kept + 20);
}

TEST(GramBound, ThirtyTwoExpertsAreWithinATenth) {
  for (const double sigma : {1.5, 3.0}) {
    const RoutingCounts counts = MarkovCounts({.layers = 8, .experts = 32, .sigma = sigma, .tokens = 100'000});
    PlacementConfig config;
    config.mutable_affinity()->set_effort(2);
    const int64_t kept = KeptBy(counts, 4, config), bound = GramsKeepAtMost(counts, 4);
    EXPECT_GE(bound, kept) << sigma;
    EXPECT_LE(static_cast<double>(bound), 1.1 * static_cast<double>(kept)) << sigma;
    EXPECT_EQ(KeptAtMost(counts, 4), bound) << sigma;
  }
}

TEST(GramBound, NothingToShareIsAllThereIs) {
  const RoutingCounts counts = RoutingCounts::Of(UniformTrace(3, 8, 50, 1));
  EXPECT_EQ(GramsKeepAtMost(counts, 1), counts.total());
  EXPECT_EQ(GramsKeepAtMost(counts, 8), counts.total());
  EXPECT_EQ(GramsKeepAtMost(RoutingCounts(3, 8), 2), 0);
  EXPECT_EQ(GramsKeepAtMost(RoutingCounts(1, 8), 2), 0);
  // Too large to try: more than twice 24 layers of 64 experts.
  RoutingCounts large(8, 256);
  large.transitions(0)[0] = 7;
  EXPECT_EQ(GramsKeepAtMost(large, 2), 7);
}

// M = P - N with P and N positive semidefinite and P N = 0.
TEST(PositivePart, SplitsAMatrix) {
  constexpr int kN = 9;
  const RngKey key{.seed = 1, .site = 2, .kind = RngKind::kProblem};
  std::vector<double> matrix(kN * kN);
  for (int i = 0; i < kN; ++i) {
    for (int k = 0; k <= i; ++k) matrix[i * kN + k] = matrix[k * kN + i] = key.UniformDouble(i * kN + k) - 0.5;
  }
  PositivePart positive(kN);
  std::vector<double> copy = matrix;
  const double* const part = positive.Of(copy.data());
  const std::vector<double> p(part, part + kN * kN);
  std::vector<double> n(p);
  for (int i = 0; i < kN * kN; ++i) n[i] -= matrix[i];
  for (const auto& m : {p, n}) {
    for (int draw = 0; draw < 50; ++draw) {
      double form = 0;
      for (int i = 0; i < kN; ++i) {
        for (int k = 0; k < kN; ++k) {
          form += m[i * kN + k] * (key.UniformDouble(1000 + draw * kN + i) - 0.5) * (key.UniformDouble(1000 + draw * kN + k) - 0.5);
        }
      }
      EXPECT_GE(form, -1e-14);
    }
  }
  for (int i = 0; i < kN; ++i) {
    for (int k = 0; k < kN; ++k) {
      EXPECT_EQ(p[i * kN + k], p[k * kN + i]);
      double product = 0;
      for (int l = 0; l < kN; ++l) product += p[i * kN + l] * n[l * kN + k];
      EXPECT_NEAR(product, 0, 1e-13);
    }
  }
  std::vector<double> negative(kN * kN);
  for (int i = 0; i < kN; ++i) negative[i * kN + i] = -1;
  const double* const none = positive.Of(negative.data());
  for (int i = 0; i < kN * kN; ++i) EXPECT_EQ(none[i], 0);
}

}  // namespace
}  // namespace conclave
