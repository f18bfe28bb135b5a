#include "optim/guard.h"

#include <cmath>
#include <limits>
#include <string>

#include "gtest/gtest.h"
#include "tests/optim/test_operators.h"

namespace conclave {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

std::unique_ptr<Guard> Make(const std::string& text) { return MakeGuard(ParseConfig<GuardConfig>(text), 0); }

TEST(GuardTest, RefusesWhatIsNotFinite) {
  const auto guard = Make("");
  EXPECT_TRUE(guard->Accept(1, 1).ok());
  for (const double bad : {kNan, kInf, -kInf}) {
    EXPECT_FALSE(guard->Accept(bad, 1).ok());
    EXPECT_FALSE(guard->Accept(1, bad).ok());
  }
  EXPECT_TRUE(guard->Accept(-1e30, 1e30).ok()) << "no spikes are looked for by default";
}

TEST(GuardTest, SpikesAreMeasuredAgainstTheWindow) {
  const auto guard = Make("spike_zscore: 3 window: 4");
  EXPECT_TRUE(guard->Accept(0, 1).ok());
  EXPECT_TRUE(guard->Accept(0, 100).ok()) << "the window is not full yet";
  for (const double norm : {9.0, 11.0, 9.0, 11.0}) EXPECT_TRUE(guard->Accept(0, norm).ok());
  // Mean 10, deviation 1: the limit is 13.
  const absl::Status refused = guard->Accept(0, 13.01);
  EXPECT_FALSE(refused.ok());
  EXPECT_NE(std::string(refused.message()).find("3.0 deviations above the mean 10 of the last 4"), std::string::npos) << refused;
  EXPECT_FALSE(guard->Accept(0, 13.01).ok()) << "a refused norm does not enter the window";
  EXPECT_TRUE(guard->Accept(0, 0).ok()) << "small norms are no spikes";
  EXPECT_TRUE(guard->Accept(0, 12.99).ok());
}

TEST(GuardTest, EqualNormsHaveAFloorUnderTheirDeviation) {
  const auto guard = Make("spike_zscore: 5 window: 2");
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(guard->Accept(0, 10).ok());
  EXPECT_TRUE(guard->Accept(0, 10 + 1e-9).ok());
  EXPECT_FALSE(guard->Accept(0, 10.06).ok());
}

TEST(GuardTest, SkipGoesOnUntilTooManyInARow) {
  const auto guard = Make("policy: SKIP max_consecutive_skips: 3");
  const absl::Status reason = guard->Accept(0, kNan);
  EXPECT_TRUE(guard->Refused(reason).ok());
  EXPECT_TRUE(guard->Refused(reason).ok());
  EXPECT_TRUE(guard->Accept(0, 1).ok());  // starts the count anew
  EXPECT_TRUE(guard->Refused(reason).ok());
  EXPECT_TRUE(guard->Refused(reason).ok());
  const absl::Status end = guard->Refused(reason);
  EXPECT_FALSE(end.ok());
  EXPECT_NE(std::string(end.message()).find("3 steps refused in a row"), std::string::npos) << end;
  EXPECT_NE(std::string(end.message()).find("operator norm is nan"), std::string::npos) << end;
}

TEST(GuardTest, HaltEndsTheRunAtOnce) {
  const auto guard = Make("policy: HALT");
  const absl::Status reason = guard->Accept(kNan, 1);
  const absl::Status end = guard->Refused(reason);
  EXPECT_FALSE(end.ok());
  EXPECT_NE(std::string(end.message()).find("loss is nan"), std::string::npos) << end;
}

TEST(GuardTest, ItsWindowAndCountsAreTrainState) {
  const std::string config = "spike_zscore: 3 window: 4 max_consecutive_skips: 2";
  const auto first = Make(config), second = Make(config);
  for (const double norm : {7.0, 9.0, 11.0, 9.0, 11.0}) EXPECT_TRUE(first->Accept(0, norm).ok());
  EXPECT_TRUE(first->Refused(first->Accept(0, 99)).ok());
  SavedState saved;
  StateDict from, to;
  first->Register(from);
  second->Register(to);
  saved.Add(from);
  ASSERT_TRUE(saved.Restore(to).ok());
  EXPECT_FALSE(second->Accept(0, 13.01).ok());
  EXPECT_FALSE(second->Refused(second->Accept(0, 99)).ok()) << "the second refusal in a row, counted across the resume";
}

}  // namespace
}  // namespace conclave
