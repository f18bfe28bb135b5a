// MASHA1 against its theory.
#include <cmath>
#include <complex>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "comm/loopback.h"
#include "gtest/gtest.h"
#include "optim/guard.h"
#include "tests/optim/test_operators.h"

namespace conclave {
namespace {

constexpr char kRandK[] = "exchange { quantized { codec { rand_k { fraction: 0.34 } } } }";  // k = 2 of 6 coordinates: q = 3

double SquaredDistance(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum;
}

// Equal workers on a game with lambda = mu: L, the constant Cq of M = 4 RandK codecs and the provable step size.
struct Theory {
  double p = 1.0 / 3;
  double q = 3;
  double mu = 0.5;
  double lipschitz = std::hypot(0.5, 1.0);
  double cq = std::sqrt(lipschitz * lipschitz * (1 + (q - 1) / 4));
  double gamma = std::min(std::sqrt(p / 2) / cq, p / (2 * mu));
};

// Between ranks, by exchanges.
int64_t ExchangedBytes(const std::vector<WireReport>& wires) {
  int64_t bytes = 0;
  for (WireReport report : wires) {
    std::erase_if(report.lines, [](const WireLine& line) { return !line.label.starts_with("exchange."); });
    bytes += report.BetweenRanks().sent_bytes;
  }
  return bytes;
}

Play PlayOf(const std::string& config) { return {.config = ParseConfig<OptimConfig>(config)}; }

TEST(Masha1Test, WithoutCompressionAndAlwaysRefreshedItIsExtragradient) {
  const auto extragradient = PlayGame(PlayOf("extragradient { gamma: 0.4 }"));
  ASSERT_TRUE(extragradient.ok()) << extragradient.status();
  const auto expected = extragradient->state.All("model");
  for (const char* exchange : {"exchange { exact {} }", "exchange { quantized { codec { identity {} } } }"}) {
    const auto masha = PlayGame(PlayOf(absl::StrFormat("masha1 { gamma: 0.4 p: 1 %s }", exchange)));
    ASSERT_TRUE(masha.ok()) << masha.status();
    const auto got = masha->state.All("model");
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], expected[i], 1e-13) << exchange << " coordinate " << i;
  }
}

// Without compression a mode e = (x - x*) + i (y - y*) moves by nu = lambda - i sigma alone: zh = (1 - p) z + (p - gamma nu) w,
// z+ = (1 - gamma nu) zh + gamma nu w; w+ = z+ where the coin says so.
TEST(Masha1Test, FollowsItsRecursionModeByMode) {
  using Mode = std::complex<double>;
  Play play = PlayOf("masha1 { gamma: 0.4 p: 0.3 exchange { exact {} } }");
  Play still = play;
  still.from_solution = true;
  still.steps = 0;
  const auto solution = PlayGame(still);
  ASSERT_TRUE(solution.ok()) << solution.status();
  const auto modes = [&](const Outcome& outcome) {
    std::vector<Mode> errors;
    const auto x = outcome.state.Doubles("model/x.weight"), y = outcome.state.Doubles("model/y.bias");
    const auto xs = solution->state.Doubles("model/x.weight"), ys = solution->state.Doubles("model/y.bias");
    for (size_t i = 0; i < x.size(); ++i) errors.emplace_back(x[i] - xs[i], y[i] - ys[i]);
    return errors;
  };
  play.steps = 0;
  const auto start = PlayGame(play);
  play.steps = 25;
  const auto end = PlayGame(play);
  ASSERT_TRUE(start.ok() && end.ok()) << end.status();
  const std::vector<Mode> expected = modes(*end);
  std::vector<Mode> z = modes(*start);
  for (size_t i = 0; i < z.size(); ++i) {
    const Mode step = 0.4 * Mode(0.5, -(0.2 + 0.8 * static_cast<double>(i) / 5));
    Mode w = z[i];
    for (const double evaluations : end->evaluations) {
      const Mode zh = 0.7 * z[i] + (0.3 - step) * w;
      z[i] = (1.0 - step) * zh + step * w;
      if (evaluations == 2) w = z[i];
    }
    EXPECT_NEAR(std::abs(z[i] - expected[i]), 0, 1e-12) << "mode " << i;
  }
}

TEST(Masha1Test, ConvergesLinearlyAtProvableSteps) {
  const Theory theory;
  Play play = PlayOf(absl::StrFormat("masha1 { gamma: %.17g p: %.17g %s }", theory.gamma, theory.p, kRandK));
  play.game.heterogeneity = 0;
  play.steps = static_cast<int64_t>(std::ceil(2 / (theory.gamma * theory.mu) * std::log(1e12)));
  const auto outcome = PlayGame(play);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  const double start = outcome->distances.front();
  EXPECT_LT(outcome->distances.back() * outcome->distances.back(), 1e-12 * (2 - theory.p) * start * start);
}

// The reference point is what makes compression harmless: extragradient with the same codec stalls where workers differ at the solution.
TEST(Masha1Test, NaiveCompressedExtragradientStalls) {
  Play naive = PlayOf(absl::StrFormat("extragradient { gamma: 0.2 %s }", kRandK));
  Play masha = PlayOf(absl::StrFormat("masha1 { gamma: 0.2 p: 0.33 %s }", kRandK));
  naive.steps = masha.steps = 500;
  const auto a = PlayGame(naive), b = PlayGame(masha);
  ASSERT_TRUE(a.ok() && b.ok()) << a.status() << b.status();
  EXPECT_GT(a->distances.back(), 1e-2 * a->distances.front());
  EXPECT_LT(b->distances.back(), 1e-8 * b->distances.front());
}

TEST(Masha1Test, TheCoinIsFairAndSharedAndCostsNoState) {
  Play play = PlayOf("masha1 { gamma: 0.1 p: 0.3 exchange { exact {} } }");
  play.steps = 500;
  play.ranks = 2;  // PlayGame compares the reports of both
  const auto outcome = PlayGame(play);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  int refreshed = 0;
  for (const double evaluations : outcome->evaluations) refreshed += evaluations == 2;
  EXPECT_NEAR(refreshed, 150, 4 * std::sqrt(500 * 0.3 * 0.7));
}

TEST(Masha1Test, WhereEveryWorkerParticipatesNothingChanges) {
  Play all = PlayOf(absl::StrFormat("masha1 { gamma: 0.2 p: 0.4 %s }", kRandK));
  Play named = PlayOf(absl::StrFormat("masha1 { gamma: 0.2 p: 0.4 participants: 4 %s }", kRandK));
  all.ranks = named.ranks = 3;
  const auto a = PlayGame(all), b = PlayGame(named);
  ASSERT_TRUE(a.ok() && b.ok()) << b.status();
  EXPECT_EQ(FirstDifference(a->state, b->state), "");
  EXPECT_EQ(a->evaluations, b->evaluations);
  for (size_t rank = 0; rank < a->wires.size(); ++rank) {
    EXPECT_EQ(a->wires[rank].logical, b->wires[rank].logical);
    EXPECT_EQ(a->wires[rank].BetweenRanks(), b->wires[rank].BetweenRanks());
  }
}

// Two blocks of 60 coordinates of 8 bytes; RandK sends 3 of each. The start and refreshes are of all four workers.
TEST(Masha1Test, WhoTakesNoPartNeitherEvaluatesNorSends) {
  constexpr int64_t kMessage = 2 * 3 * 8, kVector = 2 * 60 * 8;
  for (const int b : {1, 2, 3}) {
    Play play = PlayOf(absl::StrFormat(
        "masha1 { gamma: 0.01 p: 0.4 participants: %d exchange { quantized { codec { rand_k { fraction: 0.05 } } } } }", b));
    play.game.n = 60;
    std::optional<Outcome> one;
    for (const int ranks : {1, 2, 4}) {
      play.ranks = ranks;
      const auto outcome = PlayGame(play);
      ASSERT_TRUE(outcome.ok()) << outcome.status();
      LogicalWire wire;
      for (const WireReport& report : outcome->wires) wire += report.logical;
      int64_t full = 1;
      for (const double evaluations : outcome->evaluations) {
        EXPECT_TRUE(evaluations == b / 4.0 || evaluations == b / 4.0 + 1) << evaluations;
        full += evaluations > 1 ? 1 : 0;
      }
      EXPECT_GT(full, 1);
      EXPECT_EQ(wire.encoded_bytes, play.steps * b * kMessage + full * 4 * kVector);
      // Messages with their two frames to three others each; exact sums up and down.
      EXPECT_EQ(wire.uplink_bytes + wire.downlink_bytes, play.steps * b * 3 * (kMessage + 2 * 32) + full * 4 * 2 * kVector * 3 / 4);
      if (ranks == 4) {
        EXPECT_EQ(ExchangedBytes(outcome->wires), wire.uplink_bytes + wire.downlink_bytes);
      }
      if (!one) one = *outcome;
      EXPECT_EQ(FirstDifference(one->state, outcome->state), "") << ranks << " ranks";
    }
  }
}

// The participants' terms stand for everyone's.
TEST(Masha1Test, ThePartialLossIsAnEstimateOfTheWhole) {
  Play all = PlayOf(absl::StrFormat("masha1 { gamma: 0.2 p: 0.4 %s }", kRandK));
  Play some = PlayOf(absl::StrFormat("masha1 { gamma: 0.2 p: 0.4 participants: 1 %s }", kRandK));
  all.steps = some.steps = 1;  // the same half step
  const auto a = PlayGame(all), b = PlayGame(some);
  ASSERT_TRUE(a.ok() && b.ok()) << a.status() << b.status();
  const Evaluation &whole = a->reports[0].evaluation, &part = b->reports[0].evaluation;
  EXPECT_NEAR(part.objective, whole.objective, 1e-12 * std::abs(whole.objective));
  EXPECT_NEAR(part.terms[0].value, whole.terms[0].value, 1e-12 * std::abs(whole.objective));
}

// Steps from one state many times, with fresh masks and coins each time: the mean of V+ = (1 - p) |z+ - u|^2 + |w+ - u|^2.
struct Mean {
  double value = 0, deviation = 0;  // of the mean itself
};
absl::StatusOr<Mean> MeanLyapunov(const Play& play, const SavedState& from, int draws, const std::function<double(const SavedState&)>& v) {
  double sum = 0, squares = 0;
  const absl::Status status = RunRanks(1, [&](Communicator& world) -> absl::Status {
    Stage stage(world, play);
    RETURN_IF_ERROR(stage.Open());
    ASSIGN_OR_RETURN(std::unique_ptr<Scheme> scheme, MakeScheme(play.config, stage.context));
    const std::unique_ptr<Guard> guard = MakeGuard(play.config.guard(), 0);
    StateDict state;
    scheme->Register(state);
    for (int i = 0; i < draws; ++i) {
      RETURN_IF_ERROR(from.Restore(state));
      RETURN_IF_ERROR(scheme->Step(*stage.game, {.step = 1000 + i}, *guard).status());
      SavedState after;
      after.Add(state);
      const double value = v(after);
      sum += value;
      squares += value * value;
    }
    return absl::OkStatus();
  });
  RETURN_IF_ERROR(status);
  const double mean = sum / draws;
  return Mean{mean, std::sqrt(std::max(0.0, squares / draws - mean * mean) / draws)};
}

// E V+ <= V - 2 gamma <F(zh), zh - u> - (1 - p) |z - zh|^2 - (p - gamma^2 Cq^2) |w - zh|^2, u the solution, one-sided at 4 deviations; for
// workers that differ, on a game of two sides of 16: Cq^2 = L^2 + (q - 1) / M^2 sum_m L_m^2.
TEST(Masha1Test, ItsLyapunovFunctionFallsAsItMust) {
  Theory theory{.q = 4};
  Play play;
  play.game.n = 16;
  play.game.sigma_min = 1;  // every mode turns as fast as L allows: the law is nearly an equality
  play.game.heterogeneity = 0.1;
  double squares = 0;
  for (int m = 0; m < play.game.workers; ++m) squares += std::pow(WorkerLipschitz(play.game, m), 2);
  theory.cq = std::sqrt(theory.lipschitz * theory.lipschitz + (theory.q - 1) / std::pow(play.game.workers, 2) * squares);
  // The law holds for every gamma, the provable range is where it is a contraction.
  theory.gamma = 1.4 * std::min(std::sqrt(theory.p / 2) / theory.cq, theory.p / (2 * theory.mu));
  play.config = ParseConfig<OptimConfig>(absl::StrFormat(
      "masha1 { gamma: %.17g p: %.17g exchange { quantized { codec { rand_k { fraction: 0.25 } } } } }", theory.gamma, theory.p));
  Play still = play;
  still.from_solution = true;
  still.steps = 0;
  const auto at_solution = PlayGame(still);
  ASSERT_TRUE(at_solution.ok()) << at_solution.status();
  const std::vector<double> u = at_solution->state.All("model");
  const auto lyapunov = [&](const SavedState& s) {
    return (1 - theory.p) * SquaredDistance(s.All("model"), u) + SquaredDistance(s.All("masha1.w"), u);
  };
  double tightest = 1;  // of V, between the bound and the mean
  for (int visited = 0; visited < 50; ++visited) {
    play.steps = visited;
    const auto state = PlayGame(play);
    ASSERT_TRUE(state.ok()) << state.status();
    const auto z = state->state.All("model"), w = state->state.All("masha1.w"), fw = state->state.All("masha1.F_w");
    std::vector<double> zh(z.size());
    for (size_t i = 0; i < z.size(); ++i) zh[i] = (1 - theory.p) * z[i] + theory.p * w[i] - theory.gamma * fw[i];
    const double gap = theory.mu * SquaredDistance(zh, u);  // the bilinear part is skew
    const double now = lyapunov(state->state);
    const double bound = now - 2 * theory.gamma * gap - (1 - theory.p) * SquaredDistance(z, zh) -
                         (theory.p - std::pow(theory.gamma * theory.cq, 2)) * SquaredDistance(w, zh);
    const auto mean = MeanLyapunov(play, state->state, 2000, lyapunov);
    ASSERT_TRUE(mean.ok()) << mean.status();
    EXPECT_LE(mean->value, bound + 4 * mean->deviation) << "visited state " << visited << ", deviation " << mean->deviation;
    tightest = std::min(tightest, (bound - mean->value) / now);
  }
  EXPECT_LT(tightest, 0.01) << "a bound that is far off says little";
}

// One state, one step, many draws of b workers: z is linear in their mean, so its mean must be that of the step of all workers. Its spread
// is that of sampling without replacement: the sum of squares is (M - b) / (b (M - 1)) of that of a single worker's step about the mean.
TEST(Masha1Test, APartialMeanIsUnbiasedAndHasTheSpreadOfSamplingWithoutReplacement) {
  const auto config = [](int b) { return absl::StrFormat("masha1 { gamma: 0.3 p: 0.3 participants: %d exchange { exact {} } }", b); };
  Play play = PlayOf(config(4));
  play.steps = 5;
  const auto visited = PlayGame(play);
  ASSERT_TRUE(visited.ok()) << visited.status();
  play.resume = &visited->state;
  play.first = 5;
  play.steps = 1;
  const auto all = PlayGame(play);
  ASSERT_TRUE(all.ok()) << all.status();
  const std::vector<double> expected = all->state.All("model");
  double single = 0;
  for (const int b : {1, 2, 3}) {
    constexpr int kDraws = 1200;
    double spread = 0;
    std::vector<double> mean(expected.size());
    play.config = ParseConfig<OptimConfig>(config(b));
    for (int i = 0; i < kDraws; ++i) {
      play.first = 1000 + i;
      const auto drawn = PlayGame(play);
      ASSERT_TRUE(drawn.ok()) << drawn.status();
      const std::vector<double> z = drawn->state.All("model");
      spread += SquaredDistance(z, expected) / kDraws;
      for (size_t k = 0; k < z.size(); ++k) mean[k] += z[k] / kDraws;
    }
    if (b == 1) single = spread;
    EXPECT_LT(SquaredDistance(mean, expected), 9 * spread / kDraws) << b << " participants";
    EXPECT_NEAR(spread / single, (4.0 - b) / (b * 3.0), 0.08) << b << " participants";
  }
}

}  // namespace
}  // namespace conclave
