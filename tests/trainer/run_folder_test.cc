#include "trainer/run_folder.h"

#include <cerrno>

#include <gtest/gtest.h>

#include "base/fault_file_system.h"
#include "tests/trainer/config_fixture.h"
#include "trainer/config_resolved.h"

namespace conclave {
namespace {

LoadedConfig Loaded(const std::vector<std::string>& overrides = {}) {
  absl::StatusOr<LoadedConfig> loaded = LoadText(kSmallConfig, overrides);
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  return *std::move(loaded);
}

absl::Status Prepare(const RunFolder& folder, const std::vector<std::string>& overrides, bool resume) {
  return folder.Prepare(Loaded(overrides), {"train", "x.textproto"}, overrides, resume);
}

// A run that has begun: its metrics exist.
void Begin(const FaultFileSystem& files, const RunFolder& folder) {
  ASSERT_TRUE(Prepare(folder, {}, false).ok());
  ASSERT_TRUE(files.WriteAtomically(folder.Metrics(), "{}\n").ok());
}

TEST(RunFolder, HoldsWhatTheRunWasStartedWith) {
  const FaultFileSystem files;
  const RunFolder folder(&files, "runs/a");
  const std::vector<std::string> overrides{"trainer.steps=7", "seed=5"};
  ASSERT_TRUE(Prepare(folder, overrides, false).ok());
  const absl::StatusOr<Experiment> read = folder.ReadConfig();
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->trainer().steps(), 7);
  EXPECT_EQ(ConfigHash(*read), ConfigHash(Loaded(overrides).config));
  EXPECT_EQ(*files.ReadAll("runs/a/config.input/0-x.textproto"), kSmallConfig);
  EXPECT_EQ(*files.ReadAll("runs/a/overrides.txt"), "trainer.steps=7\nseed=5\n");
  const std::string environment = *files.ReadAll("runs/a/env.textproto");
  EXPECT_NE(environment.find("arguments: \"x.textproto\""), std::string::npos) << environment;
  EXPECT_NE(environment.find("program_version: "), std::string::npos) << environment;
  EXPECT_EQ(*files.Kind("runs/a/logs"), FileKind::kDirectory);
  EXPECT_EQ(*files.Kind(folder.Heartbeats()), FileKind::kDirectory);
}

TEST(RunFolder, AnotherRunIsNotOverwritten) {
  const FaultFileSystem files;
  const RunFolder folder(&files, "runs/a");
  Begin(files, folder);
  const absl::Status refused = Prepare(folder, {"seed=9"}, false);
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(refused.message().find("'runs/a' already holds a run; give --resume"), std::string::npos) << refused;
  EXPECT_EQ(folder.ReadConfig()->seed(), 1u);
}

TEST(RunFolder, ResumeTakesSafeChangesOnly) {
  const FaultFileSystem files;
  const RunFolder folder(&files, "runs/a");
  Begin(files, folder);
  const absl::Status refused = Prepare(folder, {"seed=9"}, true);
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(refused.message().find("seed"), std::string::npos) << refused;
  EXPECT_EQ(folder.ReadConfig()->seed(), 1u);
  ASSERT_TRUE(Prepare(folder, {"trainer.steps=30"}, true).ok());
  EXPECT_EQ(folder.ReadConfig()->trainer().steps(), 30);
}

TEST(RunFolder, AFolderWithoutARunIsNamed) {
  const FaultFileSystem files;
  const absl::StatusOr<Experiment> read = RunFolder(&files, "runs/none").ReadConfig();
  EXPECT_EQ(read.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(read.status().message().find("'runs/none' is no run folder"), std::string::npos) << read.status();
}

TEST(RunFolder, EveryFailedWriteIsReported) {
  for (int64_t n = 0;; ++n) {
    FaultFileSystem files;
    files.FailOperations(n, 1, ENOSPC);
    const absl::Status status = Prepare(RunFolder(&files, "runs/a"), {}, false);
    if (files.operations() <= n) {
      EXPECT_TRUE(status.ok()) << status;
      EXPECT_GT(n, 10);
      break;
    }
    EXPECT_FALSE(status.ok()) << "operation " << n;
  }
}

TEST(RunFolder, AStopWhileResumingLeavesAConfigThatReads) {
  for (int64_t n = 0;; ++n) {
    FaultFileSystem files;
    const RunFolder folder(&files, "runs/a");
    Begin(files, folder);
    files.Reopen(Survival::kAll);
    files.CrashAt(n);
    Prepare(folder, {"trainer.steps=30"}, true).IgnoreError();
    const bool done = !files.crashed();
    files.Reopen(Survival::kSynced);
    const absl::StatusOr<Experiment> read = folder.ReadConfig();
    ASSERT_TRUE(read.ok()) << "operation " << n << ": " << read.status();
    const int64_t steps = read->trainer().steps();
    EXPECT_TRUE(steps == (done ? 30 : 20) || steps == 30) << "operation " << n << ": " << steps;
    if (done) break;
  }
}

}  // namespace
}  // namespace conclave
