#include "optim/schedule.h"

#include <cmath>

#include "gtest/gtest.h"
#include "tests/optim/test_operators.h"

namespace conclave {
namespace {

TEST(ScheduleTest, ConstantIsOneAfterALinearWarmUp) {
  const auto config = ParseConfig<ScheduleConfig>("constant {} warmup_steps: 3");
  EXPECT_DOUBLE_EQ(ScheduleFactor(config, 0, 10), 0.25);
  EXPECT_DOUBLE_EQ(ScheduleFactor(config, 1, 10), 0.5);
  EXPECT_DOUBLE_EQ(ScheduleFactor(config, 2, 10), 0.75);
  EXPECT_EQ(ScheduleFactor(config, 3, 10), 1);
  EXPECT_EQ(ScheduleFactor(config, 1000, 10), 1);
  EXPECT_EQ(ScheduleFactor(ParseConfig<ScheduleConfig>(""), 0, 10), 1);
}

TEST(ScheduleTest, CosineGoesFromOneToItsFloor) {
  const auto config = ParseConfig<ScheduleConfig>("cosine { min_ratio: 0.1 } warmup_steps: 2");
  EXPECT_DOUBLE_EQ(ScheduleFactor(config, 1, 13), 2.0 / 3);
  EXPECT_DOUBLE_EQ(ScheduleFactor(config, 2, 13), 1);
  EXPECT_NEAR(ScheduleFactor(config, 7, 13), 0.55, 1e-15);  // half way between steps 2 and 12
  EXPECT_DOUBLE_EQ(ScheduleFactor(config, 12, 13), 0.1);
  EXPECT_DOUBLE_EQ(ScheduleFactor(config, 99, 13), 0.1);
  for (int step = 3; step < 13; ++step) EXPECT_LT(ScheduleFactor(config, step, 13), ScheduleFactor(config, step - 1, 13)) << step;
}

TEST(ScheduleTest, WsdIsFlatThenLinear) {
  const auto config = ParseConfig<ScheduleConfig>("wsd { decay_fraction: 0.2 min_ratio: 0.2 } warmup_steps: 4");
  EXPECT_EQ(ScheduleFactor(config, 4, 50), 1);
  EXPECT_EQ(ScheduleFactor(config, 39, 50), 1);  // the last 10 steps decay
  EXPECT_DOUBLE_EQ(ScheduleFactor(config, 40, 50), 0.92);
  EXPECT_DOUBLE_EQ(ScheduleFactor(config, 44, 50), 0.6);
  EXPECT_DOUBLE_EQ(ScheduleFactor(config, 49, 50), 0.2);
  EXPECT_DOUBLE_EQ(ScheduleFactor(config, 50, 50), 0.2);
}

TEST(ScheduleTest, ShortRunsHaveValuesToo) {
  for (const char* text : {"constant {}", "cosine { min_ratio: 0.5 }", "wsd { decay_fraction: 1 min_ratio: 0.5 }"}) {
    auto config = ParseConfig<ScheduleConfig>(text);
    for (int64_t total : {0, 1, 2}) {
      for (int64_t step = 0; step < 3; ++step) {
        const double factor = ScheduleFactor(config, step, total);
        EXPECT_TRUE(factor >= 0.5 && factor <= 1) << text << " step " << step << " of " << total << ": " << factor;
      }
    }
    config.set_warmup_steps(9);  // longer than the run: it ends while warming up
    EXPECT_DOUBLE_EQ(ScheduleFactor(config, 1, 2), 0.2) << text;
  }
}

}  // namespace
}  // namespace conclave
