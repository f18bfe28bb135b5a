// WORLD_SIZE_INVARIANT over 50 steps: every legal split of 1, 2, 3, 4 and 8 ranks, losses and parameters to the bit.
#include <gtest/gtest.h>

#include "tests/trainer/laws.h"

namespace conclave {
namespace {

TEST(WorldSizeInvariant, FiftySteps) {
  ModelRun run = SmallMixture("parallel { numerics: WORLD_SIZE_INVARIANT }");
  run.steps = 50;
  const auto alone = RunModel(run);
  ASSERT_TRUE(alone.ok()) << alone.status();
  EXPECT_LT(alone->loss(), alone->reports[0].evaluation.objective);
  for (const int ranks : {2, 3, 4, 8}) {
    for (const auto& split : Splits(ranks, 8)) {
      std::tie(run.data, run.expert) = split;
      const auto together = RunModel(run);
      ASSERT_TRUE(together.ok()) << NameOfSplit(split) << ": " << together.status();
      EXPECT_EQ(FirstDifference(*together, *alone), "") << NameOfSplit(split);
    }
  }
}

}  // namespace
}  // namespace conclave
