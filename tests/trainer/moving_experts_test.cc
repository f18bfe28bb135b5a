// Experts that move and copies of hot ones: same metrics, same weights, resumable.
#include <gtest/gtest.h>

#include "base/strings.h"
#include "tests/trainer/moving_run.h"

namespace conclave {
namespace {

TEST(Rebalancer, MovingExpertsChangesNoMetricAndNoWeight) {
  const MovingFolder still_files, moving_files;
  const auto still = TrainMoving({.files = &still_files, .overrides = {"parallel.expert=2"}});
  const auto moving = TrainMoving({.files = &moving_files, .overrides = Joined(kMoves, {"parallel.expert=2"})});
  ASSERT_TRUE(still.ok()) << still.status();
  ASSERT_TRUE(moving.ok()) << moving.status();
  EXPECT_EQ(moving->first, still->first);
  EXPECT_EQ(moving->second, still->second);
  const std::string metrics = moving_files.Read("run/metrics.jsonl");
  EXPECT_NE(metrics.find("\"moved_bytes\":"), std::string::npos);
  // Checkpoints say where the experts were.
  EXPECT_EQ(SavedCoordinates(still_files, 9).size(), 16u);
  EXPECT_NE(SavedCoordinates(moving_files, 9), SavedCoordinates(still_files, 9));
  EXPECT_NE(SavedCoordinates(moving_files, 9), SavedCoordinates(moving_files, 3));
}

TEST(Rebalancer, AMovedRunResumesWhereItsExpertsWere) {
  const MovingFolder straight_files, stopped_files;
  const std::vector<std::string> overrides = Joined(kMoves, {"parallel.expert=2"});
  const auto straight = TrainMoving({.files = &straight_files, .overrides = overrides});
  ASSERT_TRUE(straight.ok()) << straight.status();
  ASSERT_TRUE(TrainMoving({.files = &stopped_files, .overrides = overrides, .stop_after = 5}).ok());
  const auto resumed = TrainMoving({.files = &stopped_files, .overrides = overrides, .resume = true});
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  EXPECT_EQ(resumed->first, straight->first);
  EXPECT_EQ(resumed->second, straight->second);
  EXPECT_EQ(SavedCoordinates(stopped_files, 9), SavedCoordinates(straight_files, 9));
  const std::string shard = "run/checkpoints/step-9/rank-1.safetensors";
  EXPECT_EQ(stopped_files.Read(shard), straight_files.Read(shard));
  // On another mesh, and without moves, the same run goes on from the same checkpoint.
  ASSERT_TRUE(RealFileSystem().Rename(stopped_files.At("run/checkpoints/step-9"), stopped_files.At("old")).ok());
  const auto other = TrainMoving({.files = &stopped_files, .overrides = {"parallel.expert=1"}, .ranks = 1, .resume = true});
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_EQ(other->first, straight->first);
}

// Its experts were elsewhere, and are now on disk, where they stay: the states that moved are the checkpoint's, to the bit.
TEST(Rebalancer, AMovedRunGoesOnWithItsExpertsOnDisk) {
  const MovingFolder straight_files, stopped_files;
  const std::vector<std::string> overrides = {"parallel.expert=2", "trainer.eval.ema_decay=0"};
  const auto straight = TrainMoving({.files = &straight_files, .overrides = overrides});
  ASSERT_TRUE(straight.ok()) << straight.status();
  ASSERT_TRUE(TrainMoving({.files = &stopped_files, .overrides = Joined(kMoves, overrides), .stop_after = 5}).ok());
  for (const char* room : {"0", "3"}) {
    const auto resumed = TrainMoving({.files = &stopped_files,
                                      .overrides = Joined(overrides, {absl::StrFormat("parallel.expert_memory.resident_experts=%s", room)}),
                                      .resume = true});
    ASSERT_TRUE(resumed.ok()) << resumed.status();
    EXPECT_EQ(resumed->first, straight->first);
    EXPECT_EQ(resumed->second, straight->second);
    ASSERT_TRUE(RealFileSystem().RemoveTree(stopped_files.At("run/checkpoints/step-9")).ok());
  }
}

// Hot experts get copies as plans fall due: the bits of a run without any, resumable, and checkpoints that hold every expert once.
TEST(Rebalancer, CopiesOfHotExpertsChangeNoMetricAndNoWeight) {
  const std::vector<std::string> overrides = {"parallel.expert=4",
                                              "observe.routing_window=1",
                                              "parallel.rebalance.every=2",
                                              "parallel.rebalance.after_step=1",
                                              "parallel.rebalance.hysteresis=0",
                                              "parallel.rebalance.replicas=2",
                                              "parallel.rebalance.placement.load_greedy={}"};
  const MovingFolder still_files, copied_files, stopped_files;
  const auto still = TrainMoving({.files = &still_files, .overrides = {"parallel.expert=4"}, .ranks = 4});
  const auto copied = TrainMoving({.files = &copied_files, .overrides = overrides, .ranks = 4});
  ASSERT_TRUE(still.ok()) << still.status();
  ASSERT_TRUE(copied.ok()) << copied.status();
  EXPECT_EQ(copied->first, still->first);
  EXPECT_EQ(copied->second, still->second);
  const std::string metrics = copied_files.Read("run/metrics.jsonl");
  EXPECT_GT(MetricOf(metrics, 4, "copies"), 0);
  EXPECT_LE(MetricOf(metrics, 4, "copies"), 2 * 4 * 2);
  EXPECT_LT(MetricOf(metrics, 4, "load_ratio_planned"), MetricOf(metrics, 4, "load_ratio_now"));
  EXPECT_GT(MetricOf(metrics, 4, "copy_bytes"), 0);
  ASSERT_TRUE(TrainMoving({.files = &stopped_files, .overrides = overrides, .ranks = 4, .stop_after = 5}).ok());
  const auto resumed = TrainMoving({.files = &stopped_files, .overrides = overrides, .ranks = 4, .resume = true});
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  EXPECT_EQ(resumed->first, still->first);
  EXPECT_EQ(resumed->second, still->second);
  for (const char* shard : {"run/checkpoints/step-9/rank-1.safetensors", "run/checkpoints/step-9/rank-3.safetensors"}) {
    EXPECT_EQ(stopped_files.Read(shard), copied_files.Read(shard));
  }
  const auto saved = FindCheckpoint(RealFileSystem(), copied_files.At("run/checkpoints/step-9"));
  ASSERT_TRUE(saved.ok());
  int64_t copies = 0;
  for (const SavedPlacement& layer : saved->manifest.state().placement()) copies += layer.copies_size();
  EXPECT_GT(copies, 0);
  const auto plain = FindCheckpoint(RealFileSystem(), still_files.At("run/checkpoints/step-9"));
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(saved->manifest.tensors_size(), plain->manifest.tensors_size());
}

// On a fixed mesh copies change roundings, so a resumed run must plan what the straight one planned: from the whole window that it was
// stopped in, and from the one before it until then.
TEST(Rebalancer, CopiesOnAFixedMeshAreThoseOfTheStraightRun) {
  const std::vector<std::string> overrides = {"parallel.numerics=FIXED_MESH",    "parallel.expert=4",
                                              "observe.routing_window=4",        "parallel.rebalance.every=2",
                                              "parallel.rebalance.after_step=1", "parallel.rebalance.hysteresis=0",
                                              "parallel.rebalance.replicas=2",   "parallel.rebalance.placement.load_greedy={}"};
  const MovingFolder straight_files, stopped_files;
  const auto straight = TrainMoving({.files = &straight_files, .overrides = overrides, .ranks = 4});
  ASSERT_TRUE(straight.ok()) << straight.status();
  // Before the first window nothing is known, and nothing is planned.
  const std::string metrics = straight_files.Read("run/metrics.jsonl");
  EXPECT_EQ(MetricOf(metrics, 2, "planned_moves"), -1);
  EXPECT_GT(MetricOf(metrics, 4, "copies"), 0);
  ASSERT_TRUE(TrainMoving({.files = &stopped_files, .overrides = overrides, .ranks = 4, .stop_after = 5}).ok());
  const auto resumed = TrainMoving({.files = &stopped_files, .overrides = overrides, .ranks = 4, .resume = true});
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  EXPECT_EQ(resumed->first, straight->first);
  EXPECT_EQ(resumed->second, straight->second);
  for (const int step : {6, 9}) {
    const std::string path = absl::StrFormat("run/checkpoints/step-%d", step);
    const auto a = FindCheckpoint(RealFileSystem(), straight_files.At(path)), b = FindCheckpoint(RealFileSystem(), stopped_files.At(path));
    ASSERT_TRUE(a.ok() && b.ok()) << a.status() << b.status();
    EXPECT_EQ(a->manifest.state().SerializeAsString(), b->manifest.state().SerializeAsString()) << step;
    EXPECT_GT(a->manifest.state().placement(0).copies_size() + a->manifest.state().placement(1).copies_size(), 0);
  }
}

// Experts were sent and received, and the process dies before the vote: the files know nothing of it, and the run goes on to the same bits.
TEST(Rebalancer, DeathBetweenSendAndCommitLosesNothing) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // another process starts this test anew, up to the line that kills it
  const std::vector<std::string> overrides = Joined(kMoves, {"parallel.expert=2"});
  const MovingFolder killed_files("killed");
  EXPECT_EXIT((void)TrainMoving({.files = &killed_files, .overrides = overrides, .dies_after_layers = 4}),
              testing::ExitedWithCode(MovingRun::kDead), "");
  const MovingFolder straight_files;
  const auto straight = TrainMoving({.files = &straight_files, .overrides = overrides});
  ASSERT_TRUE(straight.ok()) << straight.status();
  EXPECT_EQ(MetricOf(killed_files.Read("run/metrics.jsonl"), 3, "step"), 3);
  EXPECT_EQ(MetricOf(killed_files.Read("run/metrics.jsonl"), 4, "step"), -1);  // two layers of the second move, behind step 4
  const auto resumed = TrainMoving({.files = &killed_files, .overrides = overrides, .resume = true});
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  EXPECT_EQ(resumed->first, straight->first);
  EXPECT_EQ(resumed->second, straight->second);
  const std::string shard = "run/checkpoints/step-9/rank-1.safetensors";
  EXPECT_EQ(killed_files.Read(shard), straight_files.Read(shard));
}

}  // namespace
}  // namespace conclave
