// Optimistic MASHA against its recursion and its relatives.
#include <cmath>
#include <complex>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/optim/test_operators.h"

namespace conclave {
namespace {

absl::StatusOr<Outcome> After(Play play, int64_t steps) {
  play.steps = steps;
  return PlayGame(play);
}

TEST(OptimisticMashaTest, WithoutCompressionAndAlwaysRefreshedItIsOgda) {
  for (const char* prox : {"", "prox { l1 { weight: 0.2 } }"}) {
    const auto ogda = After({.config = ParseConfig<OptimConfig>(absl::StrFormat("ogda { gamma: 0.3 } %s", prox))}, 30);
    ASSERT_TRUE(ogda.ok()) << ogda.status();
    const auto expected = ogda->state.All("model");
    for (const char* exchange : {"exchange { exact {} }", "exchange { quantized { codec { identity {} } } }"}) {
      Play play{.config = ParseConfig<OptimConfig>(absl::StrFormat("optimistic_masha { gamma: 0.3 p: 1 %s } %s", exchange, prox))};
      play.ranks = 2;
      const auto masha = After(play, 30);
      ASSERT_TRUE(masha.ok()) << masha.status();
      const auto got = masha->state.All("model");
      ASSERT_EQ(got.size(), expected.size());
      for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], expected[i], 1e-13) << exchange << prox << " coordinate " << i;
    }
  }
}

// Without compression a mode e = (x - x*) + i (y - y*) moves by nu = lambda - i sigma alone, and w' drops out:
//   z+ = (1 - p) z + p w - gamma nu (z + alpha (z - z')); w+ = z+ where the coin says so.
TEST(OptimisticMashaTest, FollowsItsRecursionModeByMode) {
  using Mode = std::complex<double>;
  Play play{.config = ParseConfig<OptimConfig>("optimistic_masha { gamma: 0.35 p: 0.3 alpha: 0.8 exchange { exact {} } }")};
  Play still = play;
  still.from_solution = true;
  const auto solution = After(still, 0);
  ASSERT_TRUE(solution.ok()) << solution.status();
  const auto xs = solution->state.Doubles("model/x.weight"), ys = solution->state.Doubles("model/y.bias");
  std::vector<Mode> z, before, w;
  int moves = 0;
  for (int steps = 0; steps <= 25; ++steps) {
    const auto outcome = After(play, steps);
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    const auto x = outcome->state.Doubles("model/x.weight"), y = outcome->state.Doubles("model/y.bias");
    const bool moved = outcome->state.scalars.at("optimistic_masha.moved") != 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const Mode now(x[i] - xs[i], y[i] - ys[i]);
      if (steps == 0) {
        z.push_back(now);
        before.push_back(now);
        w.push_back(now);
        continue;
      }
      const Mode step = 0.35 * Mode(0.5, -(0.2 + 0.8 * static_cast<double>(i) / 5));
      const Mode next = 0.7 * z[i] + 0.3 * w[i] - step * (z[i] + 0.8 * (z[i] - before[i]));
      before[i] = z[i];
      z[i] = next;
      if (moved) w[i] = next;
      EXPECT_NEAR(std::abs(now - next), 0, 1e-12) << "mode " << i << " after " << steps << " steps";
    }
    moves += moved && steps > 0;
    for (const double evaluations : outcome->evaluations) EXPECT_EQ(evaluations, 1);
  }
  EXPECT_GT(moves, 2);
  EXPECT_LT(moves, 15);
}

TEST(OptimisticMashaTest, WhatItsTheoryExcludesIsRefused) {
  for (const char* config : {"optimistic_masha { gamma: 0.3 p: 0.5 exchange { ef14 { codec { top_k { fraction: 0.5 } } } } }",
                             "masha1 { gamma: 0.3 p: 0.5 exchange { ef14 { codec { top_k { fraction: 0.5 } } } } }",
                             "masha1 { gamma: 0.3 p: 0.5 exchange { quantized { codec { top_k { fraction: 0.5 } } } } }",
                             "masha2 { gamma: 0.3 p: 0.5 exchange { quantized { codec { rand_k { fraction: 0.5 } } } } }",
                             "masha2 { gamma: 0.3 p: 0.5 exchange { ef14 { codec { rand_k { fraction: 0.25 } } } } }",
                             "masha2 { gamma: 0.3 p: 0.5 } prox { l1 { weight: 0.1 } }", "masha1 { gamma: 0.3 p: 0.5 participants: 5 }"}) {
    const absl::Status status = After({.config = ParseConfig<OptimConfig>(config)}, 1).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << config << ": " << status;
  }
}

}  // namespace
}  // namespace conclave
