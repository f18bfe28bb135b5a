// Recomputed blocks: the same bits in less memory.
#include <gtest/gtest.h>

#include "tests/trainer/laws.h"
#include "trainer/memory_plan.h"

namespace conclave {
namespace {

ModelRun Recomputed(ModelRun run) {
  run.config += " model { recompute: BLOCKS }";
  return run;
}

void ExpectSameBitsRecomputed(ModelRun run) {
  for (const auto& split : {std::pair{1, 1}, {1, 2}, {2, 2}}) {
    std::tie(run.data, run.expert) = split;
    const auto kept = RunModel(run), again = RunModel(Recomputed(run));
    ASSERT_TRUE(kept.ok() && again.ok()) << kept.status() << again.status();
    EXPECT_EQ(FirstDifference(*again, *kept), "") << NameOfSplit(split);
  }
}

TEST(Recompute, ChangesNoBit) {
  ExpectSameBitsRecomputed(SmallMixture(""));
  ExpectSameBitsRecomputed(SmallMixture("parallel { numerics: WORLD_SIZE_INVARIANT } trainer { workers: 4 micro_batches: 2 }"));
}

TEST(Recompute, ChangesNoBitOfOtherLayers) {
  ExpectSameBitsRecomputed(SmallMixture("",
                                        "position: ROTARY norm: RMS_NORM activation: SWIGLU tied_head: false bias: true"
                                        " moe { router: SOFTMAX_POST top_k: 3 every: 2 z_loss: 0.01 }"));
}

// Counts of the whole step are added up once, though the block that adds them is recorded twice.
TEST(Recompute, CountsOnce) {
  ModelRun run = SmallMixture("trainer { workers: 4 micro_batches: 2 }", "moe { balance_scope: GLOBAL balance_loss: 0.3 }");
  ExpectSameBitsRecomputed(run);
}

// Router logits that are not finite refuse the step once and for all, with and without.
TEST(Recompute, RefusesTheSameSteps) {
  ModelRun run = SmallMixture("", "tied_head: false");
  run.source = [] { return std::make_unique<RandomTokens>(RandomTokens::Options{.marked = 2 * 16 + 5}); };
  run.prepare = [](const ParameterSet& parameters, FlatVector& point) {
    point.block(parameters.Find("embedding.weight")).Slice(15, 1).Fill(std::numeric_limits<double>::quiet_NaN());
  };
  const auto through = RunModel(Recomputed(run));
  ASSERT_TRUE(through.ok()) << through.status();
  for (int step = 0; step < 4; ++step) EXPECT_EQ(through->reports[step].skipped, step == 2) << step;
}

struct Memories {
  MemoryPlan plan;
  int64_t measured = 0;
};

Memories MemoryOf(const ModelRun& run) {
  Memories memories;
  const absl::Status status = RunRanks(1, [&](Communicator& world) -> absl::Status {
    Assembly a;
    RETURN_IF_ERROR(BuildRun(run, world, &a));
    ASSIGN_OR_RETURN(memories.plan, PlanMemory(a));
    for (Cursor cursor; cursor.step < 2; ++cursor.step) RETURN_IF_ERROR(a.scheme->Step(*a.field, cursor, *a.guard).status());
    memories.measured = MeasuredMemory(a);
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
  return memories;
}

// Eight blocks: one is held whole, and one tensor of each.
TEST(Recompute, TakesTheMemoryOfOneBlock) {
  const ModelRun run = SmallMixture("trainer { workers: 1 global_batch: 32 }", "layers: 8 width: 32");
  const Memories kept = MemoryOf(run), again = MemoryOf(Recomputed(run));
  EXPECT_LT(again.plan.activations, 0.35 * static_cast<double>(kept.plan.activations));
  for (const Memories& m : {kept, again}) {
    EXPECT_NEAR(static_cast<double>(m.plan.total()), static_cast<double>(m.measured), 0.1 * static_cast<double>(m.measured));
  }
}

}  // namespace
}  // namespace conclave
