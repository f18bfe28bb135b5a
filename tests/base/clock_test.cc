#include "base/clock.h"

#include <thread>

#include "gtest/gtest.h"

namespace conclave {
namespace {

TEST(ClockTest, RealClockMovesOnAndKnowsTheYear) {
  const int64_t begin = RealClock().MonotonicNanos();
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  EXPECT_GE(RealClock().MonotonicNanos() - begin, 2'000'000);
  EXPECT_GT(RealClock().WallNanos(), int64_t{1'600'000'000} * 1'000'000'000);
}

TEST(ClockTest, FakeClockMovesOnlyWhenTold) {
  FakeClock clock(100, 5000);
  EXPECT_EQ(clock.MonotonicNanos(), 100);
  clock.Advance(1'500'000'000);
  EXPECT_EQ(clock.MonotonicNanos(), 1'500'000'100);
  EXPECT_EQ(clock.WallNanos(), 1'500'005'000);
  clock.SetWall(1);
  EXPECT_EQ(clock.WallNanos(), 1);
  EXPECT_EQ(clock.MonotonicNanos(), 1'500'000'100);
  EXPECT_DOUBLE_EQ(clock.Seconds(), 1.5000001);
}

TEST(ClockTest, FormatUtc) {
  EXPECT_EQ(FormatUtc(0), "1970-01-01T00:00:00.000Z");
  EXPECT_EQ(FormatUtc(int64_t{951'782'400} * 1'000'000'000 + 7'999'999), "2000-02-29T00:00:00.007Z");
  EXPECT_EQ(FormatUtc(-1'000'000), "1969-12-31T23:59:59.999Z");
}

}  // namespace
}  // namespace conclave
