// Methods whose workers walk alone between meetings.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/optim/test_operators.h"

namespace conclave {
namespace {

Play LocalPlay(const std::string& config, double heterogeneity, int steps) {
  Play play{.config = ParseConfig<OptimConfig>(config)};
  play.game.heterogeneity = heterogeneity;
  play.steps = steps;
  return play;
}

// The controls add up to nothing, whatever the coins were.
TEST(ProxSkipTest, ControlsAddUpToZero) {
  const auto outcome = PlayGame(LocalPlay("proxskip { gamma: 0.2 p: 0.4 }", 0.5, 40));
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  for (const char* block : {"x.weight", "y.bias"}) {
    std::vector<double> sum;
    double largest = 0;
    for (int m = 0; m < 4; ++m) {
      const std::vector<double> h = outcome->state.Doubles(absl::StrFormat("proxskip.h/worker.%d/%s", m, block));
      sum.resize(h.size());
      for (size_t i = 0; i < h.size(); ++i) {
        sum[i] += h[i];
        largest = std::max(largest, std::abs(h[i]));
      }
    }
    EXPECT_GT(largest, 0.01) << block;
    for (const double s : sum) EXPECT_NEAR(s, 0, 1e-13) << block;
  }
}

// With a meeting in every step the controls have no part in it: the mean walks as descent-ascent does.
TEST(ProxSkipTest, MeetingInEveryStepIsDescentAscent) {
  const auto meet = PlayGame(LocalPlay("proxskip { gamma: 0.2 p: 1 }", 0.5, 30)), gda = PlayGame(LocalPlay("gda { gamma: 0.2 }", 0.5, 30));
  ASSERT_TRUE(meet.ok() && gda.ok()) << meet.status() << gda.status();
  for (size_t i = 0; i < gda->distances.size(); ++i) EXPECT_NEAR(meet->distances[i], gda->distances[i], 1e-12 * gda->distances[0]) << i;
}

// Without controls workers who differ stop off the solution; with them they do not.
TEST(ProxSkipTest, ControlsRemoveTheBias) {
  const std::string scheme = "proxskip { gamma: 0.2 p: 0.25 meetings: PERIODIC ";
  const auto with = PlayGame(LocalPlay(scheme + "}", 0.5, 600)), without = PlayGame(LocalPlay(scheme + "control: false }", 0.5, 600));
  ASSERT_TRUE(with.ok() && without.ok()) << with.status() << without.status();
  EXPECT_LT(with->distances.back(), 1e-9 * with->distances.front());
  EXPECT_GT(without->distances.back(), 1e-3 * without->distances.front());
}

// The closer workers look alike, the nearer local steps are to extragradient; alike, they are it.
TEST(LocalExtragradientTest, IsExtragradientWhereWorkersAreAlike) {
  Play local = LocalPlay("local_extragradient { gamma: 0.3 local_steps: 3 }", 0, 30),
       central = LocalPlay("extragradient { gamma: 0.3 }", 0, 30);
  const auto alone = PlayGame(local), together = PlayGame(central);
  ASSERT_TRUE(alone.ok() && together.ok()) << alone.status() << together.status();
  for (size_t i = 0; i < together->distances.size(); i += 3) {
    EXPECT_NEAR(alone->distances[i], together->distances[i], 1e-12 * together->distances[0]) << i;
  }
}

// An update that overflows a worker's copy, whether the round ends with it or goes on: the round is lost, and the next one begins at x.
void ExpectRoundLost(const std::string& scheme, int refused, int lost) {
  SCOPED_TRACE(scheme);
  Play play = LocalPlay(scheme, 0.3, 6);
  play.game.dtype = DType::kF32;
  play.game.poison_step = 0;
  play.game.spike = 3e37;  // finite, and its norm too; a hundred times as much is not
  const auto outcome = PlayGame(play);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  for (int step = 0; step < 6; ++step) EXPECT_EQ(outcome->reports[step].skipped, step == refused) << step << outcome->reports[step].reason;
  EXPECT_NE(outcome->reports[refused].reason.find(absl::StrFormat("the %d local steps of the round are lost", lost)), std::string::npos)
      << outcome->reports[refused].reason;
  EXPECT_EQ(outcome->distances[refused + 1], outcome->distances[0]) << "x is kept";
  EXPECT_NE(outcome->distances.back(), outcome->distances[0]);
  EXPECT_TRUE(std::isfinite(outcome->distances.back()));
}

TEST(LocalStepsTest, CopiesThatOverflowStartAgainFromTheMeeting) {
  ExpectRoundLost("diloco { lr: 100 local_steps: 1 outer_lr: 1e-3 outer_momentum: 0 rule { sgd {} } }", 0, 1);
  ExpectRoundLost("diloco { lr: 100 local_steps: 3 outer_lr: 1e-3 outer_momentum: 0 rule { sgd {} } }", 1, 1);
  ExpectRoundLost("proxskip { gamma: 100 p: 1 }", 0, 0);
  ExpectRoundLost("proxskip { gamma: 100 p: 0.5 meetings: PERIODIC }", 1, 1);
}

// Every evaluation is fine, and no meeting ever is.
TEST(LocalStepsTest, MeetingsThatFailInARowEndTheRun) {
  for (const char* scheme : {"proxskip { gamma: 1e200 p: 1 }", "local_extragradient { gamma: 1e100 local_steps: 1 }",
                             "diloco { lr: 1e200 local_steps: 1 outer_lr: 1e-3 outer_momentum: 0 rule { sgd {} } }"}) {
    Play play = LocalPlay(std::string(scheme) + " guard { max_consecutive_skips: 4 }", 0.3, 3);
    const auto three = PlayGame(play);
    ASSERT_TRUE(three.ok()) << scheme << three.status();
    for (const StepReport& report : three->reports) EXPECT_TRUE(report.skipped) << scheme << report.step;
    play.steps = 10;
    const auto all = PlayGame(play);
    EXPECT_EQ(all.status().code(), absl::StatusCode::kFailedPrecondition) << scheme;
    EXPECT_NE(std::string(all.status().message()).find("4 steps refused in a row"), std::string::npos) << scheme << all.status();
  }
}

// The last step of a schedule may have length 0: its meeting says nothing about what sets workers apart.
TEST(ProxSkipTest, AStepOfLengthZeroTeachesNothing) {
  Play play = LocalPlay("proxskip { gamma: 0.2 p: 1 } schedule { cosine { min_ratio: 0 } }", 0.5, 5);
  play.first = 995;  // of a thousand
  const auto outcome = PlayGame(play);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  ASSERT_EQ(outcome->reports.back().learning_rate, 0);
  for (const double h : outcome->state.All("proxskip.h")) ASSERT_TRUE(std::isfinite(h));
  EXPECT_FALSE(outcome->state.All("proxskip.h").empty());
}

TEST(LocalStepsTest, SettingsThatMakeNoSenseAreRefused) {
  EXPECT_EQ(PlayGame(LocalPlay("proxskip { gamma: 0.1 p: 0.5 } prox { l1 { weight: 0.1 } }", 0.3, 1)).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(
      PlayGame(LocalPlay("local_extragradient { gamma: 0.1 exchange { quantized { codec { natural {} } } } } prox { l1 { weight: 0.1 } }",
                         0.3, 1))
          .status()
          .code(),
      absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace conclave
