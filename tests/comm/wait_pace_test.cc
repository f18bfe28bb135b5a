#include "comm/wait_pace.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace conclave {
namespace {

constexpr int64_t kMicrosecond = 1'000, kMillisecond = 1'000'000;

// Looks every `look` nanoseconds until the first sleep. Returns when that is.
int64_t AwakeFrom(WaitPace& pace, int64_t now, int64_t look) {
  for (;; now += look) {
    if (pace.Next(now) > 0) return now;
    pace.NoteGiven(now, now + look);
  }
}

TEST(WaitPaceTest, StaysAwakeForMillisecondsThenSleepsLongerAndLonger) {
  WaitPace pace;
  pace.Restart(0);
  const int64_t asleep = AwakeFrom(pace, 0, kMicrosecond);
  EXPECT_GE(asleep, kMillisecond);
  EXPECT_LE(asleep, 10 * kMillisecond);
  int last = 0;
  for (int i = 0; i < 1000; ++i) {
    const int sleep = pace.Next(asleep + i * kMillisecond);
    EXPECT_GE(sleep, last);
    last = sleep;
  }
  EXPECT_EQ(last, 200);
}

TEST(WaitPaceTest, NewsKeepItAwake) {
  WaitPace pace;
  for (int64_t now = 0; now < 100 * kMillisecond; now += kMillisecond) {
    pace.Restart(now);
    EXPECT_EQ(pace.Next(now), 0);
    pace.NoteGiven(now, now + kMicrosecond);
  }
  pace.Restart(100 * kMillisecond);
  const int64_t asleep = AwakeFrom(pace, 100 * kMillisecond, kMicrosecond);
  EXPECT_GE(asleep, 101 * kMillisecond);
  EXPECT_EQ(pace.Next(asleep), 10) << "sleeps begin short again";
}

TEST(WaitPaceTest, LeavesACoreThatOthersWant) {
  WaitPace pace;
  pace.Restart(0);
  ASSERT_EQ(pace.Next(0), 0);
  pace.NoteGiven(0, 3 * kMillisecond);  // somebody had it for a slice
  pace.Restart(3 * kMillisecond);
  EXPECT_GT(pace.Next(3 * kMillisecond), 0) << "remembered over the next wait";
  int looks = 0;  // of a second, so many begin with giving the core away
  for (int64_t now = 4 * kMillisecond; now < 1000 * kMillisecond; now += 100 * kMicrosecond) {
    pace.Restart(now);
    if (pace.Next(now) > 0) continue;
    ++looks;
    pace.NoteGiven(now, now + 3 * kMillisecond);
    now += 3 * kMillisecond;
  }
  EXPECT_GT(looks, 10);
  EXPECT_LT(looks, 60);
  pace.Restart(2000 * kMillisecond);
  EXPECT_EQ(pace.Next(2000 * kMillisecond), 0) << "not for ever";
}

}  // namespace
}  // namespace conclave
