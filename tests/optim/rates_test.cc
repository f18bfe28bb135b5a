// Closed-form rates and step laws: extragradient, gradient descent-ascent, first-order steps, refused settings.
#include <cmath>
#include <complex>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/optim/test_operators.h"

namespace conclave {
namespace {

constexpr double kGamma = 0.4;

absl::StatusOr<Outcome> After(Play play, int steps) {
  play.steps = steps;
  return PlayGame(play);
}

// |(x_i - x*_i, y_i - y*_i)| of every mode of a game whose A is diagonal.
std::vector<double> ModeDistances(const Outcome& outcome, const Outcome& solution) {
  const auto x = outcome.state.Doubles("model/x.weight"), y = outcome.state.Doubles("model/y.bias");
  const auto xs = solution.state.Doubles("model/x.weight"), ys = solution.state.Doubles("model/y.bias");
  std::vector<double> distances;
  for (size_t i = 0; i < x.size(); ++i) distances.push_back(std::hypot(x[i] - xs[i], y[i] - ys[i]));
  return distances;
}

// Every mode must shrink (or grow) by |factor(nu)| a step, nu = lambda + i sigma.
template <typename Factor>
void CheckRate(const std::string& config, double lambda, Factor factor) {
  Play play{.config = ParseConfig<OptimConfig>(config)};
  play.game.lambda = lambda;
  play.ranks = 2;
  Play still = play;
  still.from_solution = true;
  const auto solution = After(still, 0);
  ASSERT_TRUE(solution.ok()) << solution.status();
  std::vector<double> last;
  for (int steps = 0; steps < 6; ++steps) {
    const auto outcome = After(play, steps);
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    const std::vector<double> now = ModeDistances(*outcome, *solution);
    for (size_t i = 0; i < now.size() && steps > 0; ++i) {
      const double sigma = 0.2 + 0.8 * static_cast<double>(i) / 5;
      EXPECT_NEAR(now[i] / last[i], std::abs(factor(std::complex<double>(lambda, sigma))), 1e-10) << "mode " << i << " step " << steps;
    }
    last = now;
  }
}

TEST(RatesTest, ExtragradientHasItsClosedFormRate) {
  const auto factor = [](std::complex<double> nu) { return 1.0 - kGamma * nu + kGamma * kGamma * nu * nu; };
  CheckRate("extragradient { gamma: 0.4 }", 0, factor);
  CheckRate("extragradient { gamma: 0.4 }", 0.5, factor);
}

TEST(RatesTest, GradientDescentAscentSpiralsOutOfABilinearGame) {
  const auto factor = [](std::complex<double> nu) { return 1.0 - kGamma * nu; };
  EXPECT_GT(std::abs(factor({0, 0.2})), 1);
  CheckRate("gda { gamma: 0.4 }", 0, factor);
  CheckRate("gda { gamma: 0.4 }", 0.5, factor);
}

TEST(RatesTest, PlainSgdIsGradientDescentAscent) {
  Play sgd{.config = ParseConfig<OptimConfig>("first_order { lr: 0.4 rule { sgd {} } }")};
  Play gda{.config = ParseConfig<OptimConfig>("gda { gamma: 0.4 }")};
  const auto a = PlayGame(sgd), b = PlayGame(gda);
  ASSERT_TRUE(a.ok() && b.ok());
  for (size_t i = 0; i < a->distances.size(); ++i) EXPECT_NEAR(a->distances[i], b->distances[i], 1e-13) << i;
}

TEST(RatesTest, AProxMovesTheSolution) {
  // h = 0.5 |z|^2 on lambda = 0.5 is the game with lambda = 1 and the same offsets: its solution solves the equation below for every mode.
  Play play{.config = ParseConfig<OptimConfig>("extragradient { gamma: 0.4 } prox { l2_squared { weight: 0.5 } }")};
  play.game.heterogeneity = 0;
  const auto end = After(play, 400);
  Play still = play;
  still.from_solution = true;
  const auto plain = After(still, 0);
  ASSERT_TRUE(end.ok() && plain.ok());
  const auto x = end->state.Doubles("model/x.weight"), y = end->state.Doubles("model/y.bias");
  const auto xs = plain->state.Doubles("model/x.weight"), ys = plain->state.Doubles("model/y.bias");
  for (size_t i = 0; i < x.size(); ++i) {
    const double sigma = 0.2 + 0.8 * static_cast<double>(i) / 5;
    EXPECT_NEAR(0.5 * (x[i] - xs[i]) + sigma * (y[i] - ys[i]) + 0.5 * x[i], 0, 1e-12) << i;
    EXPECT_NEAR(0.5 * (y[i] - ys[i]) - sigma * (x[i] - xs[i]) + 0.5 * y[i], 0, 1e-12) << i;
  }
}

TEST(RatesTest, ClippingBoundsTheStepAndReportsItsFactor) {
  Play play{.config = ParseConfig<OptimConfig>("first_order { lr: 0.1 rule { sgd {} } } clip_norm: 0.25")};
  play.game.experts = 2;
  const auto start = After(play, 0), one = After(play, 1);
  ASSERT_TRUE(start.ok() && one.ok()) << one.status();
  const auto a = start->state.All("model"), b = one->state.All("model");
  double moved = 0;
  for (size_t i = 0; i < a.size(); ++i) moved += (a[i] - b[i]) * (a[i] - b[i]);
  EXPECT_NEAR(std::sqrt(moved), 0.1 * 0.25, 1e-14);
  EXPECT_EQ(one->reports[0].clip_factor, 0.25 / one->reports[0].gradient_norm);
  EXPECT_GT(one->reports[0].gradient_norm, 0.25);
}

TEST(RatesTest, GroupsReachTheirBlocks) {
  const std::string base = "first_order { lr: 0.1 rule { sgd {} } } ";
  Play plain{.config = ParseConfig<OptimConfig>(base)};
  Play grouped{.config = ParseConfig<OptimConfig>(base + R"(groups { pattern: "x.*" lr_multiplier: 0.5 }
                                                            groups { pattern: "*.experts.0.*" frozen: true }
                                                            groups { pattern: "*.experts.1.*" rule { adamw { weight_decay: 0 } } })")};
  plain.game.experts = grouped.game.experts = 2;
  const auto start = After(plain, 0), a = After(plain, 1), b = After(grouped, 1), c = After(grouped, 5);
  ASSERT_TRUE(start.ok() && a.ok() && b.ok() && c.ok()) << b.status();
  const auto move = [&](const absl::StatusOr<Outcome>& outcome, const std::string& block, int i) {
    return outcome->state.Doubles("model/" + block)[i] - start->state.Doubles("model/" + block)[i];
  };
  EXPECT_NEAR(move(b, "x.weight", 1), 0.5 * move(a, "x.weight", 1), 1e-15);
  EXPECT_EQ(move(b, "y.bias", 1), move(a, "y.bias", 1));
  EXPECT_EQ(c->state.tensors.at("model/layer.experts.0.w"), start->state.tensors.at("model/layer.experts.0.w"));
  EXPECT_NEAR(std::abs(move(b, "layer.experts.1.w", 0)), 0.1, 1e-7) << "Adam's first step";
  EXPECT_TRUE(b->state.tensors.contains("adamw.m/layer.experts.1.w"));
  EXPECT_FALSE(b->state.tensors.contains("adamw.m/x.weight")) << "a rule keeps slots of its own blocks only";
  EXPECT_LT(b->reports[0].gradient_norm, a->reports[0].gradient_norm) << "frozen blocks do not count";
}

TEST(RatesTest, SkippedStepsDoNotCountForBiasCorrection) {
  Play play{.config = ParseConfig<OptimConfig>("first_order { lr: 0.1 rule { adamw {} } }")};
  play.game.poison_step = 1;
  const auto outcome = After(play, 4);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(outcome->state.scalars.at("optim.accepted"), 3);
}

TEST(RatesTest, SettingsWithoutAMeaningAreRefused) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "a scheme must be chosen"},
      {"first_order { lr: 1 }", "a rule must be chosen"},
      {"first_order { lr: 1 rule { sgd {} } } prox { l1 { weight: 1 } }", "take no prox"},
      {"extragradient { gamma: 1 exchange { one_bit { warmup_steps: 5 } } }", "needs first_order with rule"},
      {"first_order { lr: 1 rule { adamw { freeze_after: 4 } } exchange { one_bit { warmup_steps: 5 } } }", "freeze_after: 5"},
      {"first_order { lr: 1 rule { adamw { freeze_after: 4 } } }", "goes with exchange { one_bit {} } only"},
      {"diloco { lr: 1 local_steps: 3 rule { adamw { freeze_after: 4 } } exchange { one_bit { warmup_steps: 4 } } }", "needs first_order"},
      {"extragradient { gamma: 1 } clip_norm: 1", "only first_order and diloco clip"},
      {"masha1 { gamma: 1 p: 1 } groups { pattern: \"*\" }", "only first_order and diloco have groups"},
      {"gda { }", "optim.gda.gamma must be positive, got 0"},
      {"first_order { lr: 1 rule { sgd {} } } groups { pattern: \"z*\" }", "matches none"},
      {"extragradient { gamma: 1 } prox { box { lower: 1 upper: 0 } }", "optim.prox.box"},
  };
  for (const auto& [config, expected] : cases) {
    const absl::Status status = After({.config = ParseConfig<OptimConfig>(config)}, 1).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << config;
    EXPECT_NE(std::string(status.message()).find(expected), std::string::npos) << config << ": " << status;
  }
}

}  // namespace
}  // namespace conclave
