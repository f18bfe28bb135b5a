// OGDA, past extragradient, reflected gradient, FBF and anchored extragradient against their closed forms.
#include <cmath>
#include <complex>
#include <functional>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/optim/test_operators.h"

namespace conclave {
namespace {

using Mode = std::complex<double>;

absl::StatusOr<Outcome> After(Play play, int steps) {
  play.steps = steps;
  return PlayGame(play);
}

// The mean field is diagonal: e = (x_i - x*_i) + i (y_i - y*_i) of mode i moves by nu_i = lambda - i sigma_i alone.
Mode Nu(double lambda, size_t i) { return {lambda, -(0.2 + 0.8 * static_cast<double>(i) / 5)}; }

std::vector<Mode> Errors(const Outcome& outcome, const Outcome& solution) {
  const auto x = outcome.state.Doubles("model/x.weight"), y = outcome.state.Doubles("model/y.bias");
  const auto xs = solution.state.Doubles("model/x.weight"), ys = solution.state.Doubles("model/y.bias");
  std::vector<Mode> errors;
  for (size_t i = 0; i < x.size(); ++i) errors.emplace_back(x[i] - xs[i], y[i] - ys[i]);
  return errors;
}

// One scheme's e_0, e_1, ..., e_steps for a = gamma nu and e_0 = start.
using Recursion = std::function<std::vector<Mode>(Mode a, Mode start, int steps)>;

struct ModeCase {
  std::string name, config;
  Recursion recursion;
  bool two_roots = false;  // the factor a step tends to the larger root of s^2 - (1 - 2 a) s - a = 0
};

std::vector<Mode> OneTerm(Mode start, int steps, const std::function<Mode(Mode e, int k)>& next) {
  std::vector<Mode> e = {start};
  for (int k = 0; k < steps; ++k) e.push_back(next(e.back(), k));
  return e;
}

std::vector<Mode> Optimistic(Mode a, Mode start, int steps) {
  std::vector<Mode> e = {start};
  for (int k = 0; k < steps; ++k) e.push_back(k == 0 ? (1.0 - a) * e[0] : (1.0 - 2.0 * a) * e[k] + a * e[k - 1]);
  return e;
}

std::vector<Mode> Past(Mode a, Mode start, int steps) {
  Mode half = start;
  return OneTerm(start, steps, [a, half](Mode e, int k) mutable {
    half = k == 0 ? e : e - a * half;
    return e - a * half;
  });
}

std::vector<ModeCase> ModeCases() {
  const auto korpelevich = [](Mode a, Mode start, int steps) {
    return OneTerm(start, steps, [a](Mode e, int) { return (1.0 - a + a * a) * e; });
  };
  const auto anchored = [](Mode a, Mode start, int steps) {
    return OneTerm(start, steps, [a, start](Mode e, int k) {
      const Mode pulled = e + (start - e) / static_cast<double>(k + 2);
      return pulled - a * (pulled - a * e);
    });
  };
  return {{"Ogda", "ogda { gamma: 0.4 }", Optimistic, true},
          {"PastExtragradient", "past_extragradient { gamma: 0.4 }", Past, true},
          {"ReflectedGradient", "reflected_gradient { gamma: 0.4 }", Optimistic, true},
          {"Fbf", "fbf { gamma: 0.4 }", korpelevich},
          {"Anchored", "anchored { gamma: 0.4 }", anchored}};
}

class ModeTest : public testing::TestWithParam<ModeCase> {};
INSTANTIATE_TEST_SUITE_P(All, ModeTest, testing::ValuesIn(ModeCases()), [](const auto& info) { return info.param.name; });

TEST_P(ModeTest, EveryModeFollowsItsRecursion) {
  constexpr int kSteps = 40;
  for (const double lambda : {0.0, 0.1}) {
    Play play{.config = ParseConfig<OptimConfig>(GetParam().config), .ranks = 2};
    play.game.lambda = lambda;
    Play still = play;
    still.from_solution = true;
    const auto solution = After(still, 0), start = After(play, 0), before = After(play, kSteps - 1), end = After(play, kSteps);
    ASSERT_TRUE(solution.ok() && start.ok() && before.ok() && end.ok()) << end.status();
    const std::vector<Mode> from = Errors(*start, *solution), got = Errors(*end, *solution), last = Errors(*before, *solution);
    for (size_t i = 0; i < from.size(); ++i) {
      const Mode a = 0.4 * Nu(lambda, i);
      EXPECT_NEAR(std::abs(got[i] - GetParam().recursion(a, from[i], kSteps).back()), 0, 1e-12) << "mode " << i << " lambda " << lambda;
      if (!GetParam().two_roots) continue;
      const Mode half = (1.0 - 2.0 * a) / 2.0, spread = std::sqrt(half * half + a);
      const Mode root = std::abs(half + spread) > std::abs(half - spread) ? half + spread : half - spread;
      EXPECT_NEAR(std::abs(got[i] / last[i] - root), 0, 1e-10) << "mode " << i << " lambda " << lambda;
    }
  }
}

// The stability limit on bilinear games is 1 / (sqrt(3) L) = 0.577 / L; L = sigma_max = 1 here.
TEST(UncompressedTest, OgdaIsStableUpToItsLimitAndNotBeyond) {
  for (const char* scheme : {"ogda", "past_extragradient", "reflected_gradient"}) {
    for (const auto& [gamma, stable] : std::vector<std::pair<double, bool>>{{0.55, true}, {0.6, false}}) {
      Play play{.config = ParseConfig<OptimConfig>(absl::StrFormat("%s { gamma: %g }", scheme, gamma))};
      play.game.lambda = 0;
      play.game.sigma_min = 0.6;
      const auto outcome = After(play, 300);
      ASSERT_TRUE(outcome.ok()) << outcome.status();
      const double ratio = outcome->distances.back() / outcome->distances.front();
      if (stable) {
        EXPECT_LT(ratio, 1e-7) << scheme << " gamma " << gamma;
      } else {
        EXPECT_GT(ratio, 1e5) << scheme << " gamma " << gamma;
      }
    }
  }
}

// The half points of past extragradient are the iterates of OGDA: zh_k = z_k - gamma F(zh_{k-1}), and the stored fields are F(zh_k).
TEST(UncompressedTest, PastExtragradientIsOgdaInOtherVariables) {
  constexpr double kGamma = 0.3;
  Play play{.config = ParseConfig<OptimConfig>("past_extragradient { gamma: 0.3 }")};
  play.game.heterogeneity = 0.5;
  std::vector<std::vector<double>> half, field;
  for (int k = 1; k <= 5; ++k) {
    const auto outcome = After(play, k);
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    const auto z = outcome->state.All("model");
    field.push_back(outcome->state.All("past_extragradient.F_before"));
    half.push_back(z);
    for (size_t i = 0; i < z.size(); ++i) half.back()[i] -= kGamma * field.back()[i];
  }
  // half[k] = zh_{k+1}; field[k] = F(zh_k).
  for (size_t k = 1; k + 1 < half.size(); ++k) {
    for (size_t i = 0; i < half[k].size(); ++i) {
      EXPECT_NEAR(half[k][i], half[k - 1][i] - kGamma * (2 * field[k][i] - field[k - 1][i]), 1e-14) << k << ' ' << i;
    }
  }
}

// With steps that change, the correction is that of the step before: z2 = z1 - g1 F(z1) - g0 (F(z1) - F(z0)).
TEST(UncompressedTest, OgdaRemembersTheStepOfItsCorrection) {
  Play play{.config = ParseConfig<OptimConfig>("ogda { gamma: 0.3 } schedule { warmup_steps: 2 }")};
  const auto zero = After(play, 0), one = After(play, 1), two = After(play, 2), three = After(play, 3);
  ASSERT_TRUE(zero.ok() && one.ok() && two.ok() && three.ok());
  const double g0 = 0.1, g1 = 0.2;
  const auto z0 = zero->state.All("model"), z1 = one->state.All("model"), z2 = two->state.All("model");
  const auto f0 = one->state.All("ogda.F_before"), f1 = two->state.All("ogda.F_before");
  for (size_t i = 0; i < z0.size(); ++i) {
    EXPECT_NEAR(z1[i], z0[i] - g0 * f0[i], 1e-15);
    EXPECT_NEAR(z2[i], z1[i] - g1 * f1[i] - g0 * (f1[i] - f0[i]), 1e-15);
  }
  EXPECT_EQ(three->reports[2].learning_rate, 0.3);
}

TEST(UncompressedTest, FbfWithoutProxIsExtragradient) {
  Play fbf{.config = ParseConfig<OptimConfig>("fbf { gamma: 0.4 }")};
  Play extragradient{.config = ParseConfig<OptimConfig>("extragradient { gamma: 0.4 }")};
  fbf.game.experts = extragradient.game.experts = 2;
  const auto a = After(fbf, 30), b = After(extragradient, 30);
  ASSERT_TRUE(a.ok() && b.ok()) << a.status();
  const auto x = a->state.All("model"), y = b->state.All("model");
  ASSERT_EQ(x.size(), y.size());
  for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(x[i], y[i], 1e-13) << i;
}

// The bound of Yoon and Ryu 2021, theorem 2, on a bilinear game with modes that extragradient hardly moves; L = 1.
TEST(UncompressedTest, TheAnchoredOperatorNormFallsAsOneOverK) {
  constexpr double kGamma = 0.12;
  Play play{.config = ParseConfig<OptimConfig>("anchored { gamma: 0.12 }")};
  play.game.lambda = 0;
  play.game.sigma_min = 1e-3;
  const auto outcome = After(play, 3000);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  const double constant = 2 * std::sqrt((1 + kGamma + kGamma * kGamma) / (kGamma * kGamma * (1 + kGamma))) * outcome->distances[0];
  for (size_t k = 0; k < outcome->reports.size(); ++k) {
    ASSERT_LE(outcome->reports[k].gradient_norm, constant / static_cast<double>(k + 1)) << "step " << k;
  }
  EXPECT_LT(outcome->reports.back().gradient_norm, 0.01 * outcome->reports.front().gradient_norm);
}

// All methods find the one solution of a constrained problem, where the constraints bind.
TEST(UncompressedTest, EverySchemeFindsTheSolutionThatAProxAsksFor) {
  const std::string prox =
      R"(prox { product { factors { pattern: "x.*" prox { l2_ball { radius: 0.7 } } } factors { pattern: "y.*" prox { simplex {} } } } })";
  const auto limit = After({.config = ParseConfig<OptimConfig>("extragradient { gamma: 0.4 } " + prox)}, 600);
  ASSERT_TRUE(limit.ok()) << limit.status();
  const auto expected = limit->state.All("model");
  double norm = 0, sum = 0;
  for (const double x : limit->state.Doubles("model/x.weight")) norm += x * x;
  for (const double y : limit->state.Doubles("model/y.bias")) sum += y;
  EXPECT_NEAR(norm, 0.49, 1e-12);
  EXPECT_NEAR(sum, 1, 1e-14);
  for (const auto& [scheme, tolerance] : std::vector<std::pair<std::string, double>>{
           {"ogda { gamma: 0.3 }", 1e-10},
           {"past_extragradient { gamma: 0.25 }", 1e-10},
           {"reflected_gradient { gamma: 0.3 }", 1e-10},
           {"fbf { gamma: 0.4 }", 1e-10},
           {"anchored { gamma: 0.3 }", 2e-2},
           {"masha1 { gamma: 0.2 p: 0.5 exchange { quantized { codec { rand_k { fraction: 0.5 } } } } }", 1e-10},
       }) {
    const auto outcome = After({.config = ParseConfig<OptimConfig>(scheme + " " + prox)}, 900);
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    const auto got = outcome->state.All("model");
    for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], expected[i], tolerance) << scheme << " coordinate " << i;
  }
}

}  // namespace
}  // namespace conclave
