// What a running training plans by, what it moves, and what its ledger says of it.
#include "trainer/rebalancer.h"

#include <gtest/gtest.h>

#include "base/strings.h"
#include "parallel/dispatch_route.h"
#include "parallel/trace_files.h"
#include "tests/trainer/config_fixture.h"
#include "tests/trainer/moving_run.h"

namespace conclave {
namespace {

TEST(Rebalancer, RecordsTheSameRoutingOnEveryRankCount) {
  std::vector<std::string> traces;
  for (const auto& [ranks, expert] : {std::pair{1, 1}, {2, 2}, {4, 2}}) {
    const MovingFolder files;
    const auto run =
        TrainMoving({.files = &files,
                     .overrides = {absl::StrFormat("parallel.expert=%d", expert), "observe.routing_window=4", "observe.routing_tokens=50"},
                     .ranks = ranks});
    ASSERT_TRUE(run.ok()) << run.status();
    traces.push_back(files.Read("run/routing/step-8.npy"));
    const auto trace = ReadTrace(RealFileSystem(), files.At("run/routing/step-4.npy"));
    ASSERT_TRUE(trace.ok()) << trace.status();
    EXPECT_EQ(trace->tokens(), 50);
    EXPECT_EQ(trace->header().step, 4);
    EXPECT_EQ(trace->header().corpus, files.At("a.txt"));
    EXPECT_EQ(trace->header().batches, kSampledBatches);
    EXPECT_EQ(trace->top_k(), 2);
    const std::string metrics = files.Read("run/metrics.jsonl");
    EXPECT_NE(metrics.find("\"routing\":{\"largest_affinity\":"), std::string::npos);
    EXPECT_NE(metrics.find("\"drift\":"), std::string::npos);
  }
  EXPECT_EQ(traces[1], traces[0]);
  EXPECT_EQ(traces[2], traces[0]);
}

// A trace is looked at later, or never: a disk that takes none ends no run.
TEST(Rebalancer, TracesThatCannotBeWrittenEndNoRun) {
  const MovingFolder written_files, refused_files;
  const std::vector<std::string> overrides = {"parallel.expert=2",
                                              "observe.routing_window=1",
                                              "parallel.rebalance.every=2",
                                              "parallel.rebalance.after_step=1",
                                              "parallel.rebalance.hysteresis=0",
                                              "parallel.rebalance.placement.load_greedy={}"};
  const auto written = TrainMoving({.files = &written_files, .overrides = overrides});
  ASSERT_TRUE(written.ok()) << written.status();
  ASSERT_TRUE(TrainMoving({.files = &refused_files, .overrides = overrides, .stop_after = 1}).ok());
  ASSERT_TRUE(RealFileSystem().RemoveTree(refused_files.At("run/routing")).ok());
  ASSERT_TRUE(RealFileSystem().WriteAtomically(refused_files.At("run/routing"), "no folder").ok());
  const auto refused = TrainMoving({.files = &refused_files, .overrides = overrides, .resume = true});
  ASSERT_TRUE(refused.ok()) << refused.status();
  EXPECT_EQ(refused->first, written->first);
  EXPECT_EQ(refused->second, written->second);
  EXPECT_EQ(SavedCoordinates(refused_files, 9), SavedCoordinates(written_files, 9));
}

// Loads of real routing are uneven at first: the greedy plan lowers the busiest rank's share. With an impossible price nothing moves.
// Every replica of an expert moves.
TEST(Rebalancer, PredictsTheBytesThatMove) {
  const MovingFolder files;
  const auto run =
      TrainMoving({.files = &files, .overrides = Joined(kMoves, {"parallel.data=2", "parallel.expert=2", "trainer.steps=4"}), .ranks = 4});
  ASSERT_TRUE(run.ok()) << run.status();
  const std::string metrics = files.Read("run/metrics.jsonl");
  for (const int step : {2, 4}) {
    EXPECT_GT(MetricOf(metrics, step, "moved_bytes"), 0);
    EXPECT_EQ(MetricOf(metrics, step, "predicted_moved_bytes"), MetricOf(metrics, step, "moved_bytes"));
  }
}

TEST(Rebalancer, MovesOnlyWhatPays) {
  const std::vector<std::string> greedy = {"parallel.expert=2", "observe.routing_window=2", "parallel.rebalance.every=4",
                                           "parallel.rebalance.after_step=1", "parallel.rebalance.placement.load_greedy={}"};
  for (const auto& [hysteresis, moves] : {std::pair{"0", true}, {"1e12", false}}) {
    const MovingFolder files;
    const auto run =
        TrainMoving({.files = &files, .overrides = Joined(greedy, {absl::StrFormat("parallel.rebalance.hysteresis=%s", hysteresis)})});
    ASSERT_TRUE(run.ok()) << run.status();
    const std::string metrics = files.Read("run/metrics.jsonl");
    EXPECT_NE(metrics.find("\"predicted_saved_bytes\":"), std::string::npos);
    EXPECT_EQ(metrics.find("\"moved_experts\":") != std::string::npos, moves) << hysteresis;
  }
}

// The trace of a whole step says which rows it sent: the ledger's bytes are those rows, by route, with experts that have moved.
TEST(Rebalancer, TheLedgerBooksTheRowsOfTheTrace) {
  const Topology topology{.ranks = 4, .nodes = 2};
  for (const DispatchConfig::Route route :
       {DispatchConfig::FLAT, DispatchConfig::DEDUPLICATED, DispatchConfig::HIERARCHICAL, DispatchConfig::DEDUPLICATED_HIERARCHICAL}) {
    SCOPED_TRACE(DispatchConfig::Route_Name(route));
    const MovingFolder files;
    const auto run = TrainMoving(
        {.files = &files,
         .overrides = Joined(kMoves, {"parallel.expert=4", "observe.routing_window=1", "trainer.steps=3", "observe.routing_tokens=1000",
                                      "checkpoint.every=2", "parallel.dispatch.route=" + DispatchConfig::Route_Name(route)}),
         .ranks = 4,
         .nodes = {0, 0, 1, 1}});
    ASSERT_TRUE(run.ok()) << run.status();
    const auto trace = ReadTrace(RealFileSystem(), files.At("run/routing/step-3.npy"));
    ASSERT_TRUE(trace.ok()) << trace.status();
    ASSERT_EQ(trace->tokens(), 8 * 8);
    const std::vector<int> saved = SavedCoordinates(files, 2);  // the third step's placement
    const PlacementTable table = {{saved.begin(), saved.begin() + 8}, {saved.begin() + 8, saved.end()}};
    EXPECT_NE(table, ContiguousTable(2, 8, 4));
    const RoutedSets sets = RoutedSets::Of(*trace, 4, HomesInOrder(trace->tokens(), 4));
    RowCount out, home;
    for (int j = 0; j < 2; ++j) {
      out += CountRows(sets, j, table[j], topology, route);
      home += CountRows(sets, j, table[j], topology, RouteHome(route, /*pre_reduce=*/false));
    }
    const std::string metrics = files.Read("run/metrics.jsonl");
    const int64_t row_bytes = 2 * 16 * 4;  // there and, for the gradients, there again; width 16 in f32
    EXPECT_EQ(MetricOf(metrics, 3, "dispatch_bytes_inside"), static_cast<double>(out.inside * row_bytes));
    EXPECT_EQ(MetricOf(metrics, 3, "dispatch_bytes_between"), static_cast<double>(out.between * row_bytes));
    EXPECT_EQ(MetricOf(metrics, 3, "combine_bytes_inside"), static_cast<double>(home.inside * row_bytes));
    EXPECT_EQ(MetricOf(metrics, 3, "combine_bytes_between"), static_cast<double>(home.between * row_bytes));
  }
}

// Nodes that take turns: the plan knows which ranks share one, and predicts fewer rows between them; the bits stay.
TEST(Rebalancer, CoactivationSendsFewerRowsBetweenNodes) {
  const std::vector<std::string> observed = {"parallel.expert=4", "observe.routing_window=1", "observe.routing_tokens=1000",
                                             "parallel.dispatch.route=DEDUPLICATED_HIERARCHICAL", "trainer.steps=6"};
  const MovingFolder still_files, moving_files;
  const std::vector<int> nodes = {0, 1, 0, 1};
  const auto still = TrainMoving({.files = &still_files, .overrides = observed, .ranks = 4, .nodes = nodes});
  const auto moving =
      TrainMoving({.files = &moving_files,
                   .overrides = Joined(observed, {"parallel.rebalance.every=2", "parallel.rebalance.after_step=1",
                                                  "parallel.rebalance.hysteresis=0", "parallel.rebalance.placement.coactivation.effort=5"}),
                   .ranks = 4,
                   .nodes = nodes});
  ASSERT_TRUE(still.ok()) << still.status();
  ASSERT_TRUE(moving.ok()) << moving.status();
  EXPECT_EQ(moving->first, still->first);
  EXPECT_EQ(moving->second, still->second);
  const std::string metrics = moving_files.Read("run/metrics.jsonl");
  EXPECT_LT(MetricOf(metrics, 2, "rows_planned"), MetricOf(metrics, 2, "rows_now"));
  EXPECT_GT(MetricOf(metrics, 2, "moved_experts"), 0);
  EXPECT_LT(MetricOf(metrics, 3, "dispatch_bytes_between"), MetricOf(still_files.Read("run/metrics.jsonl"), 3, "dispatch_bytes_between"));
}

TEST(Rebalancer, SaysThatUnevenNodesCountAsOne) {
  const MovingFolder files;
  testing::internal::CaptureStderr();
  const std::vector<std::string> overrides = {"parallel.expert=4", "observe.routing_window=1", "parallel.dispatch.route=DEDUPLICATED",
                                              "parallel.rebalance.every=2", "parallel.rebalance.placement.coactivation.effort=5"};
  const auto run = TrainMoving({.files = &files, .overrides = overrides, .ranks = 4, .nodes = {0, 0, 0, 1}});
  EXPECT_NE(testing::internal::GetCapturedStderr().find("unequal numbers of the 4 ranks of the expert axis"), std::string::npos);
  EXPECT_TRUE(run.ok()) << run.status();
}

// Windows close behind steps 3, 6 and 9, plans fall due behind every step.
TEST(Rebalancer, PlansWaitForLoadsToSettle) {
  const auto train = [](const MovingFolder& files, double most, int64_t stop_after = 0, bool resume = false) {
    return TrainMoving(
        {.files = &files,
         .overrides = {"parallel.numerics=FIXED_MESH", "parallel.expert=2", "observe.routing_window=3", "parallel.rebalance.every=1",
                       "parallel.rebalance.after_step=1", "parallel.rebalance.hysteresis=0", "parallel.rebalance.replicas=1",
                       "parallel.rebalance.placement.load_greedy={}", absl::StrFormat("parallel.rebalance.most_drift=%.17g", most)},
         .resume = resume,
         .stop_after = stop_after});
  };
  const auto metrics = [](const MovingFolder& files) { return files.Read("run/metrics.jsonl"); };
  const MovingFolder any, settled, moving, stopped;
  ASSERT_TRUE(train(any, 1).ok());
  EXPECT_GE(MetricOf(metrics(any), 3, "planned_moves"), 0);  // nothing to compare the first window with, no matter
  EXPECT_EQ(MetricOf(metrics(any), 3, "load_drift"), -1);
  const double drift = MetricOf(metrics(any), 6, "load_drift");
  ASSERT_GT(drift, 0);
  const auto straight = train(settled, drift);
  ASSERT_TRUE(straight.ok() && train(moving, drift * 0.99).ok());
  EXPECT_EQ(MetricOf(metrics(settled), 5, "planned_moves"), -1);
  for (const int step : {6, 7, 8}) {
    EXPECT_GE(MetricOf(metrics(settled), step, "planned_moves"), 0) << step;
    EXPECT_EQ(MetricOf(metrics(moving), step, "planned_moves"), -1) << step;
    EXPECT_EQ(MetricOf(metrics(moving), step, "skipped_at_drift"), drift) << step;
  }
  // What was seen of drift is train state: stopped inside a window, the run goes on with the same plans, to the same bits.
  ASSERT_TRUE(train(stopped, drift, 7).ok());
  const auto resumed = train(stopped, drift, 0, true);
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  EXPECT_EQ(*resumed, *straight);
  EXPECT_GE(MetricOf(metrics(stopped), 8, "planned_moves"), 0);
  EXPECT_EQ(MetricOf(metrics(stopped), 9, "load_drift"), MetricOf(metrics(settled), 9, "load_drift"));
}

TEST(Rebalancer, RefusesWhatWouldSaveNothing) {
  const auto affinity =
      LoadText(kMovingConfig, {"parallel.expert=2", "parallel.rebalance.every=4", "parallel.rebalance.placement.affinity={}"});
  EXPECT_NE(std::string(affinity.status().message()).find("brings every token home"), std::string::npos) << affinity.status();
  const auto greedy = LoadText(kMovingConfig, {"parallel.expert=4", "parallel.rebalance.every=4", "parallel.rebalance.replicas=7",
                                               "observe.routing_window=2", "parallel.rebalance.placement.load_greedy={}"});
  EXPECT_NE(std::string(greedy.status().message()).find("7 copies of experts on a rank are over the budget: of a layer's 8 experts a rank"),
            std::string::npos)
      << greedy.status();
  for (const auto& [route, allowed] : {std::pair("FLAT", false), {"HIERARCHICAL", false}, {"DEDUPLICATED", true}, {"AUTO", true}}) {
    const auto together =
        LoadText(kMovingConfig, {"parallel.expert=2", "parallel.rebalance.every=4", "observe.routing_window=2",
                                 "parallel.rebalance.placement.coactivation={}", std::string("parallel.dispatch.route=") + route});
    EXPECT_EQ(together.ok(), allowed) << route << together.status();
    const std::string told(together.status().message());
    EXPECT_TRUE(allowed || told.find(absl::StrFormat("route %s sends a row for each", route)) != std::string::npos) << told;
  }
  const auto blind = LoadText(kMovingConfig, {"parallel.expert=2", "parallel.rebalance.every=4"});
  EXPECT_NE(std::string(blind.status().message()).find("observe.routing_window is 0"), std::string::npos) << blind.status();
  const auto unseen = LoadText(kMovingConfig, Joined(kMoves, {"parallel.expert=2", "parallel.rebalance.most_drift=0.5"}));
  EXPECT_NE(std::string(unseen.status().message()).find("how far loads drift is seen from window to window"), std::string::npos)
      << unseen.status();
}

}  // namespace
}  // namespace conclave
