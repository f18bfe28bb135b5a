// Workers that stand at points of their own: what is measured there belongs to each worker alone, wherever it is evaluated.
#include <gtest/gtest.h>

#include <utility>

#include "tests/trainer/laws.h"

namespace conclave {
namespace {

// Four workers whose copies part at once, and a bias moved by what the router chose in them.
ModelRun AloneOn(int data, int expert) {
  const std::string config = R"(name: "alone"
    seed: 5
    trainer { workers: 4 global_batch: 16 micro_batches: 2 }
    optim { diloco { lr: 0.05 local_steps: 3 outer_lr: 0.7 rule { adamw {} } } }
    parallel { numerics: WORLD_SIZE_INVARIANT }
    model { moe_lm { vocab_size: 16 layers: 2 width: 16 heads: 2 context: 8
                     moe { experts: 4 top_k: 2 hidden: 12 balance_loss: 0 bias_rate: 0.05 } } })";
  ModelRun run{.config = config, .data = data, .expert = expert, .steps = 5};
  run.source = [] { return std::make_unique<RandomTokens>(RandomTokens::Options{.ragged = true}); };
  return run;
}

TEST(LocalStepsTraining, LossesAndLoadsAreThoseOfEveryWorkersOwnPointOnAnyMesh) {
  const auto apart = RunModel(AloneOn(4, 1));  // every worker is alone on its replica
  ASSERT_TRUE(apart.ok()) << apart.status();
  for (const auto& [data, expert] : {std::pair{1, 1}, {2, 1}, {3, 1}, {2, 2}, {1, 4}}) {
    SCOPED_TRACE(NameOfSplit({data, expert}));
    const auto together = RunModel(AloneOn(data, expert));
    ASSERT_TRUE(together.ok()) << together.status();
    EXPECT_EQ(FirstDifference(*together, *apart), "");
  }
}

// Every token of the step chooses top_k experts in every layer, whoever evaluates it.
TEST(LocalStepsTraining, EveryTokenIsCountedOnce) {
  const auto outcome = RunModel(AloneOn(1, 1));
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  for (const StepReport& report : outcome->reports) {
    ASSERT_EQ(report.evaluation.counters.size(), 8u);
    for (size_t layer = 0; layer < 2; ++layer) {
      int64_t chosen = 0;
      for (size_t e = 0; e < 4; ++e) chosen += report.evaluation.counters[layer * 4 + e];
      EXPECT_EQ(chosen, 16 * 8 * 2) << report.step;
    }
  }
}

}  // namespace
}  // namespace conclave
