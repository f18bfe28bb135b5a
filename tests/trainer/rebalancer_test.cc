// A whole run that records its routing and moves its experts: same metrics, same weights, resumable, traces as promised.
#include "trainer/rebalancer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <mutex>

#include "base/strings.h"
#include "comm/loopback.h"
#include "parallel/dispatch_route.h"
#include "parallel/trace_files.h"
#include "tests/trainer/config_fixture.h"
#include "tests/trainer/forwarding_communicator.h"
#include "tests/trainer/state_fields.h"
#include "trainer/checkpoint_manifest.h"
#include "trainer/trainer.h"

namespace conclave {
namespace {

constexpr char kMovingConfig[] = R"(name: "moving"
trainer { steps: 9 workers: 4 global_batch: 8 eval { ema_decay: 0.5 every: 4 batches: 1 } }
optim { first_order { lr: 0.01 rule { adamw {} } } }
model { moe_lm { layers: 2 width: 16 heads: 2 context: 8 moe { experts: 8 top_k: 2 hidden: 8 } } }
parallel { numerics: WORLD_SIZE_INVARIANT }
data { sources { text { path: "a.txt" } } validation_fraction: 0.2 }
checkpoint { every: 3 keep_last: 9 }
)";

const std::vector<std::string> kMoves = {"parallel.rebalance.every=2", "parallel.rebalance.after_step=1", "parallel.rebalance.hysteresis=0",
                                         "parallel.rebalance.placement.random.seed=4"};

// A folder of its own: token shards are mapped, so the files must be real.
class MovingFolder {
 public:
  MovingFolder() : MovingFolder(std::to_string(Next())) {}
  // In the process of a death test: the folder of that name of the test that started it.
  explicit MovingFolder(const std::string& name) {
    const int process = static_cast<int>(testing::internal::InDeathTestChild() ? getppid() : getpid());
    path_ = absl::StrFormat("%s/rebalancer.%d.%s", testing::TempDir(), process, name);
    std::filesystem::create_directories(path_);
  }
  ~MovingFolder() { std::filesystem::remove_all(path_); }
  std::string At(const std::string& name) const { return path_ + "/" + name; }
  std::string Read(const std::string& name) const { return *RealFileSystem().ReadAll(At(name)); }

 private:
  static int Next() {
    static int number = 0;
    return number++;
  }
  std::string path_;
};

// Once so many layers of experts went over the wire, the process is gone before it can say anything else.
class DyingCommunicator : public ForwardingCommunicator {
 public:
  static constexpr int kDead = 9;

  DyingCommunicator(Communicator* inner, std::unique_ptr<Communicator> owned, std::shared_ptr<int> left)
      : ForwardingCommunicator(inner, std::move(owned)), left_(std::move(left)) {}

 protected:
  std::unique_ptr<Communicator> Wrap(std::unique_ptr<Communicator> part) override {
    Communicator* const raw = part.get();
    return std::make_unique<DyingCommunicator>(raw, std::move(part), left_);
  }
  absl::StatusOr<Request> StartImpl(const Collective& op, int64_t sequence) override {
    if (*left_ == 0) _exit(kDead);
    if (op.label != "migration") return ForwardingCommunicator::StartImpl(op, sequence);
    RETURN_IF_ERROR(inner().AllToAllV(op));
    --*left_;
    return Request();
  }

 private:
  std::shared_ptr<int> left_;
};

struct MovingRun {
  const MovingFolder* files = nullptr;
  std::vector<std::string> overrides;
  int ranks = 2;
  bool resume = false;
  int64_t stop_after = 0;
  std::vector<int> nodes;     // by rank; empty: one
  int dies_after_layers = 0;  // the process ends once rank 1 has exchanged the experts of so many layers; 0: it lives
};

std::vector<std::string> Joined(std::vector<std::string> a, const std::vector<std::string>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// The averaged weights at the end, by block name, and the state fields of the metrics.
absl::StatusOr<std::pair<std::map<std::string, std::string>, std::string>> TrainMoving(const MovingRun& run) {
  std::string text;
  for (int i = 0; i < 400; ++i)
    absl::StrAppendFormat(&text, "the %dth of %d said unto %d\n%s", i * 79 % 97, i % 13, i * 31 % 11, i % 6 == 0 ? "\n" : "");
  RETURN_IF_ERROR(RealFileSystem().WriteAtomically(run.files->At("a.txt"), text));
  ASSIGN_OR_RETURN(
      const LoadedConfig loaded,
      LoadText(kMovingConfig, Joined(run.overrides, {absl::StrFormat("data.sources[0].text.path=\"%s\"", run.files->At("a.txt")),
                                                     absl::StrFormat("data.cache_dir=\"%s\"", run.files->At("cache"))})));
  const RunFolder folder(&RealFileSystem(), run.files->At("run"));
  RETURN_IF_ERROR(folder.Prepare(loaded, {}, run.overrides, run.resume));
  const StopRequests stop(&RealFileSystem(), "", 0);
  std::map<std::string, std::string> weights;
  std::mutex mutex;
  RETURN_IF_ERROR(RunRanks(
      run.ranks,
      [&](Communicator& communicator) -> absl::Status {
        DyingCommunicator dying(&communicator, nullptr, std::make_shared<int>(run.dies_after_layers));
        Communicator& world = run.dies_after_layers > 0 && communicator.rank() == 1 ? dying : communicator;
        Assembly assembly;
        RETURN_IF_ERROR(Assemble(loaded.config, world, RealFileSystem(), &assembly));
        ASSIGN_OR_RETURN(
            const std::unique_ptr<Trainer> trainer,
            Trainer::Create(
                &assembly, &world,
                {.files = &RealFileSystem(), .folder = &folder, .stop = &stop, .resume = run.resume, .stop_after = run.stop_after}));
        RETURN_IF_ERROR(trainer->Run().status());
        const std::lock_guard<std::mutex> lock(mutex);
        for (const BlockId id : assembly.layout->local_blocks()) {
          const auto bytes = assembly.scheme->point().block(id).AsBytes();
          weights[assembly.model->parameters()[id].name].assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
        }
        return absl::OkStatus();
      },
      {.nodes = run.nodes}));
  ASSIGN_OR_RETURN(const std::string metrics, RealFileSystem().ReadAll(folder.Metrics()));
  std::string states;
  for (const std::string& line : SplitString(metrics, '\n')) states += std::string(StateFields(line)) + "\n";
  return std::pair(weights, states);
}

std::vector<int> SavedCoordinates(const MovingFolder& files, int step) {
  const auto found = FindCheckpoint(RealFileSystem(), files.At(absl::StrFormat("run/checkpoints/step-%d", step)));
  CHECK_OK(found.status());
  std::vector<int> all;
  for (const SavedPlacement& layer : found->manifest.state().placement())
    all.insert(all.end(), layer.coordinate().begin(), layer.coordinate().end());
  return all;
}

// A number of the metrics line of `step`.
double MetricOf(const std::string& metrics, int step, const std::string& name) {
  for (const std::string& line : SplitString(metrics, '\n')) {
    if (!line.starts_with(absl::StrFormat("{\"step\":%d,", step))) continue;
    const size_t at = line.find("\"" + name + "\":");
    return at == std::string::npos ? -1 : std::stod(line.substr(at + name.size() + 3));
  }
  return -1;
}

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
              testing::ExitedWithCode(DyingCommunicator::kDead), "");
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
