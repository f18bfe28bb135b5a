#include "trainer/trainer.h"

#include <cerrno>

#include <gtest/gtest.h>

#include "base/fault_file_system.h"
#include "comm/loopback.h"
#include "tests/trainer/config_fixture.h"
#include "trainer/config_resolved.h"
#include "trainer/json.h"

namespace conclave {
namespace {

constexpr char kGame[] = R"(name: "game"
trainer { steps: 6 workers: 4 eval { ema_decay: 0.5 } }
optim { extragradient { gamma: 0.3 } }
model { bilinear_game { dim: 5 lambda: 0.1 } precision { compute: F64 } }
data { sources { none {} } }
)";

// Compressed between groups of workers, which only some ranks lead.
constexpr char kGroups[] = R"(name: "game"
trainer { steps: 6 workers: 4 }
optim { first_order { lr: 0.1 rule { sgd {} } exchange { hierarchical { workers_per_group: 2 exchange { %s } } } } }
model { bilinear_game { dim: 5 lambda: 0.1 } precision { compute: F64 } }
data { sources { none {} } }
)";

struct RunOf {
  const FileSystem* files = nullptr;
  std::vector<std::string> overrides;
  bool resume = false;
  int64_t stop_after = 0;
  std::string config = kGame;
};

struct Outcome {
  StopReason reason = StopReason::kNone;
  std::vector<double> x;
};

absl::StatusOr<Outcome> Train(const RunOf& run, int ranks = 1) {
  ASSIGN_OR_RETURN(const LoadedConfig loaded, LoadText(run.config, run.overrides));
  const RunFolder folder(run.files, "runs/game");
  RETURN_IF_ERROR(folder.Prepare(loaded, {}, run.overrides, run.resume));
  const StopRequests stop(run.files, "", 0);
  Outcome outcome;
  RETURN_IF_ERROR(RunRanks(ranks, [&](Communicator& world) -> absl::Status {
    Assembly assembly;
    RETURN_IF_ERROR(Assemble(loaded.config, world, *run.files, &assembly));
    ASSIGN_OR_RETURN(
        const std::unique_ptr<Trainer> trainer,
        Trainer::Create(&assembly, &world,
                        {.files = run.files, .folder = &folder, .stop = &stop, .resume = run.resume, .stop_after = run.stop_after}));
    ASSIGN_OR_RETURN(const StopReason reason, trainer->Run());
    if (world.rank() != 0) return absl::OkStatus();
    outcome.reason = reason;
    const std::span<double> x = assembly.scheme->point().block(assembly.model->parameters().Find("x")).span<double>();
    outcome.x.assign(x.begin(), x.end());
    return absl::OkStatus();
  }));
  return outcome;
}

TEST(Trainer, StoppingAndResumingChangesNoBit) {
  const FaultFileSystem straight_files, stopped_files;
  const absl::StatusOr<Outcome> straight = Train({.files = &straight_files});
  ASSERT_TRUE(straight.ok()) << straight.status();
  EXPECT_EQ(straight->reason, StopReason::kNone);
  const absl::StatusOr<Outcome> first = Train({.files = &stopped_files, .stop_after = 2});
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->reason, StopReason::kPreempted);
  EXPECT_NE(first->x, straight->x);
  const absl::StatusOr<Outcome> second = Train({.files = &stopped_files, .resume = true});
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->x, straight->x);
  // The averaged weights are train state too: the last checkpoints hold the same bytes.
  const std::string shard = "runs/game/checkpoints/step-6/rank-0.safetensors";
  EXPECT_EQ(*straight_files.ReadAll(shard), *stopped_files.ReadAll(shard));
}

TEST(Trainer, ResumesWhereOnlySomeRanksHaveAScalar) {
  for (const char* inner : {"marina { p: 0.5 codec { rand_k { fraction: 0.5 } } }", "ef21_sgdm { codec { top_k { fraction: 0.5 } } }",
                            "ok_topk { fraction: 0.5 exact_below: 1 }"}) {
    SCOPED_TRACE(inner);
    const FaultFileSystem straight_files, stopped_files;
    const std::string config = absl::StrFormat(kGroups, inner);
    const absl::StatusOr<Outcome> straight = Train({.files = &straight_files, .config = config}, 4);
    ASSERT_TRUE(straight.ok()) << straight.status();
    ASSERT_TRUE(Train({.files = &stopped_files, .stop_after = 2, .config = config}, 4).ok());
    const absl::StatusOr<Outcome> resumed = Train({.files = &stopped_files, .resume = true, .config = config}, 4);
    ASSERT_TRUE(resumed.ok()) << resumed.status();
    EXPECT_EQ(resumed->x, straight->x);
  }
}

TEST(Trainer, ResumingWithoutACheckpointIsAnErrorUnlessTheConfigSaysOtherwise) {
  const FaultFileSystem files;
  const absl::StatusOr<Outcome> refused = Train({.files = &files, .resume = true});
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(refused.status().message().find("checkpoint.fresh_start"), std::string::npos) << refused.status();
  const absl::StatusOr<Outcome> fresh = Train({.files = &files, .overrides = {"checkpoint.fresh_start=true"}, .resume = true});
  ASSERT_TRUE(fresh.ok()) << fresh.status();
  EXPECT_TRUE(files.Exists("runs/game/checkpoints/step-6/MANIFEST.pb"));
}

TEST(Trainer, StartsFromAnotherRunsWeights) {
  const FaultFileSystem files;
  const absl::StatusOr<Outcome> source = Train({.files = &files});
  ASSERT_TRUE(source.ok()) << source.status();
  ASSERT_TRUE(files.Rename("runs/game", "runs/source").ok());
  const absl::StatusOr<Outcome> started =
      Train({.files = &files, .overrides = {"trainer.init_from.path=runs/source", "trainer.steps=0", "seed=9"}});
  ASSERT_TRUE(started.ok()) << started.status();
  EXPECT_EQ(started->x, source->x);
}

// Whatever operation on files fails once: a checkpoint or the config end the run and say so, and what a run tells of itself never does.
TEST(Trainer, GoesOnWhereItsMetricsCannotBeWritten) {
  const FaultFileSystem sound;
  const std::vector<std::string> overrides{"observe.trace_every=4"};
  const absl::StatusOr<Outcome> straight = Train({.files = &sound, .overrides = overrides});
  ASSERT_TRUE(straight.ok()) << straight.status();
  testing::internal::CaptureStderr();
  int survived = 0;
  for (int64_t n = 0; n < sound.operations(); ++n) {
    FaultFileSystem files;
    files.FailOperations(n, 1, ENOSPC);
    const absl::StatusOr<Outcome> outcome = Train({.files = &files, .overrides = overrides});
    if (!outcome.ok()) {
      EXPECT_EQ(outcome.status().message().find("status.json"), std::string::npos) << outcome.status();
      EXPECT_EQ(outcome.status().message().find("/trace"), std::string::npos) << outcome.status();
      continue;
    }
    EXPECT_EQ(outcome->x, straight->x) << "operation " << n;
    ++survived;
  }
  const std::string told = testing::internal::GetCapturedStderr();
  // Six lines and the sync before the last checkpoint and at the end.
  EXPECT_GE(survived, 8);
  size_t lines = 0;
  for (size_t at = 0; (at = told.find("lacks 1 lines, of steps between", at)) != std::string::npos; ++at) ++lines;
  EXPECT_EQ(lines, 6u);
}

TEST(Trainer, TracesOneStepInSoMany) {
  const FaultFileSystem files;
  ASSERT_TRUE(Train({.files = &files, .overrides = {"observe.trace_every=4"}}, 2).ok());
  for (const char* path : {"runs/game/trace/step-0.rank-0.json", "runs/game/trace/step-4.rank-1.json"}) {
    const absl::StatusOr<std::string> text = files.ReadAll(path);
    ASSERT_TRUE(text.ok()) << text.status();
    ASSERT_TRUE(ParseJson(*text).ok()) << *text;
    for (const char* span : {"\"step\"", "\"forward\"", "\"backward\"", "\"leaf table\""}) {
      EXPECT_NE(text->find(span), std::string::npos) << path << " has no span " << span;
    }
  }
  EXPECT_FALSE(files.Exists("runs/game/trace/step-1.rank-0.json"));
}

}  // namespace
}  // namespace conclave
