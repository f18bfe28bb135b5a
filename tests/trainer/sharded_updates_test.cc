// Sharded updates: one owner of a block updates it, and no bit of the run changes.
#include <algorithm>

#include <gtest/gtest.h>

#include "base/fault_file_system.h"
#include "parallel/shard_owners.h"
#include "tests/trainer/config_fixture.h"
#include "tests/trainer/laws.h"
#include "trainer/memory_plan.h"
#include "trainer/trainer.h"

namespace conclave {
namespace {

constexpr char kSharded[] = " parallel { updates: SHARDED }";

TEST(ShardOwners, AreSpreadBySize) {
  ParameterSet parameters;
  for (const int64_t n : {70, 10, 60, 30, 30, 40}) parameters.Add({.name = absl::StrFormat("b%d", parameters.size()), .shape = {n}});
  parameters.Add({.name = "expert", .shape = {500}, .kind = BlockKind::kExpert, .expert = 0, .moe_layer = 0});
  std::vector<BlockHome> homes(7, {.owners = {0, 1, 2}});
  homes[6] = {.owners = {1}, .canonical = 1};
  std::vector<int64_t> canonical(3);
  for (int rank = 0; rank < 3; ++rank) {
    const Layout layout = SpreadCanonicalOwners(Layout(&parameters, rank, homes));
    for (int i = 0; i < 7; ++i) {
      if (layout.is_canonical({i})) canonical[rank] += parameters[{i}].shape.elements();
      EXPECT_EQ(layout.is_local({i}), i < 6 || rank == 1);
    }
  }
  EXPECT_EQ(canonical, (std::vector<int64_t>{70 + 30 + 30, 500, 60 + 40 + 10}));
}

void ExpectSameBitsSharded(ModelRun run) {
  for (const auto& split : {std::pair{1, 1}, {2, 1}, {1, 2}, {2, 2}, {3, 1}}) {
    std::tie(run.data, run.expert) = split;
    ModelRun sharded = run;
    sharded.config += kSharded;
    const auto whole = RunModel(run), shared = RunModel(sharded);
    ASSERT_TRUE(whole.ok() && shared.ok()) << whole.status() << shared.status();
    EXPECT_EQ(FirstDifference(*shared, *whole), "") << NameOfSplit(split);
  }
}

TEST(ShardedUpdates, ChangeNoBit) {
  ExpectSameBitsSharded(SmallMixture(""));
  ExpectSameBitsSharded(
      SmallMixture("parallel { numerics: WORLD_SIZE_INVARIANT } comm { bucket_bytes: 4096 }"
                   " optim { groups { pattern: '*.router.*' frozen: true }"
                   " groups { pattern: '*norm*' rule { sgd { momentum: 0.9 } } } }"));
}

TEST(ShardedUpdates, ChangeNoBitOfMuon) {
  ExpectSameBitsSharded(
      SmallMixture("optim { groups { pattern: '*norm*' rule { adamw {} } }"
                   " groups { pattern: 'embedding.*' rule { adamw {} } }"
                   " groups { pattern: 'positions.*' rule { adamw {} } }"
                   " groups { pattern: '*' rule { muon {} } } }"));
}

TEST(ShardedUpdates, HoldARulesStateOnce) {
  const auto states = [](const std::string& more, int ranks) {
    ModelRun run = SmallMixture(more);
    run.data = ranks;
    std::vector<MemoryPlan> plans(ranks);
    EXPECT_EQ(RunRanks(ranks,
                       [&](Communicator& world) -> absl::Status {
                         Assembly a;
                         RETURN_IF_ERROR(BuildRun(run, world, &a));
                         ASSIGN_OR_RETURN(plans[world.rank()], PlanMemory(a));
                         return absl::OkStatus();
                       }),
              absl::OkStatus());
    return plans;
  };
  const int64_t whole = states("", 1)[0].scheme_state;
  const std::vector<MemoryPlan> replicated = states("", 4), sharded = states(kSharded, 4);
  int64_t sum = 0;
  for (int r = 0; r < 4; ++r) {
    EXPECT_EQ(replicated[r].scheme_state, whole);
    EXPECT_LE(sharded[r].scheme_state, whole * 3 / 10);
    EXPECT_LT(sharded[r].exchange, replicated[r].exchange);  // the means too
    sum += sharded[r].scheme_state;
  }
  EXPECT_EQ(sum, whole);
}

TEST(ShardedUpdates, AreRefusedWhereTheyMakeNoSense) {
  ModelRun run = SmallMixture(kSharded);
  run.data = 2;
  const std::string config = run.config;
  run.config += " optim { first_order { exchange { quantized { codec { natural {} } } } } }";
  EXPECT_NE(RunModel(run).status().ToString().find("needs the exact exchange"), std::string::npos) << RunModel(run).status();
  const ModelRun game{.config = std::string("name: 'game' trainer { workers: 2 global_batch: 0 } optim { extragradient { gamma: 0.1 } }"
                                            " model { bilinear_game { dim: 3 } }") +
                                kSharded};
  EXPECT_NE(RunModel(game).status().ToString().find("for first_order"), std::string::npos) << RunModel(game).status();
}

constexpr char kVae[] = R"(name: "vae"
trainer { steps: 6 workers: 4 global_batch: 8 }
optim { first_order { lr: 0.01 rule { adamw {} } } }
model { linear_vae { data_dim: 5 latent_dim: 2 } }
parallel { numerics: WORLD_SIZE_INVARIANT }
data { sources { gaussian { dim: 5 samples: 100 eigenvalues: 4 } } }
)";

struct Leg {
  int ranks = 1;
  bool sharded = false;
  bool resume = false;
  int64_t stop_after = 0;
};

// One leg of a run; returns rank 0's weights at its end.
absl::StatusOr<std::vector<float>> TrainLeg(const FileSystem& files, const Leg& leg) {
  std::vector<std::string> overrides;
  if (leg.sharded) overrides.push_back("parallel.updates=SHARDED");
  ASSIGN_OR_RETURN(const LoadedConfig loaded, LoadText(kVae, overrides));
  const RunFolder folder(&files, "runs/vae");
  RETURN_IF_ERROR(folder.Prepare(loaded, {}, overrides, leg.resume));
  const StopRequests stop(&files, "", 0);
  std::vector<float> weights;
  RETURN_IF_ERROR(RunRanks(leg.ranks, [&](Communicator& world) -> absl::Status {
    Assembly a;
    RETURN_IF_ERROR(Assemble(loaded.config, world, files, &a));
    ASSIGN_OR_RETURN(
        const std::unique_ptr<Trainer> trainer,
        Trainer::Create(&a, &world,
                        {.files = &files, .folder = &folder, .stop = &stop, .resume = leg.resume, .stop_after = leg.stop_after}));
    RETURN_IF_ERROR(trainer->Run().status());
    if (world.rank() == 0) {
      const std::span<float> all = a.scheme->point().flat().span<float>();
      weights.assign(all.begin(), all.end());
    }
    return absl::OkStatus();
  }));
  return weights;
}

// Stopped and resumed on other numbers of ranks, sharded or not: the straight run's bits.
TEST(ShardedUpdates, ResumeOnOtherRanks) {
  const FaultFileSystem straight_files, legs_files;
  const auto straight = TrainLeg(straight_files, {});
  ASSERT_TRUE(straight.ok()) << straight.status();
  std::vector<float> last;
  for (const Leg& leg : {Leg{3, true, false, 2}, Leg{2, true, true, 3}, Leg{1, false, true, 4}, Leg{4, true, true, 0}}) {
    const auto weights = TrainLeg(legs_files, leg);
    ASSERT_TRUE(weights.ok()) << leg.ranks << " ranks: " << weights.status();
    last = *weights;
  }
  EXPECT_EQ(last, *straight);
}

}  // namespace
}  // namespace conclave
