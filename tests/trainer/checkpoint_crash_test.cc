// The commit protocol under crashes and failing calls, at every single operation.
#include <cerrno>
#include <cstring>
#include <set>

#include "base/fault_file_system.h"
#include "gtest/gtest.h"
#include "tests/trainer/checkpoint_fixture.h"
#include "trainer/checkpoint_manifest.h"

namespace conclave {
namespace {

constexpr const char* kFolder = "run/checkpoints";

std::vector<std::string> Names(const FileSystem& files) {
  const auto names = files.ListDir(kFolder);
  EXPECT_TRUE(names.ok()) << names.status();
  return names.ok() ? *names : std::vector<std::string>{};
}

// Nothing but whole checkpoints and the hint.
void ExpectTidy(const FaultFileSystem& fs, const std::string& where) {
  for (const std::string& name : Names(fs)) {
    if (name == kLatestName) continue;
    ASSERT_EQ(CheckpointFolderName::Parse(name).kind, CheckpointFolderName::Kind::kStep) << where << ": " << name << " is left";
    ASSERT_EQ(ReadManifest(fs, JoinPath(kFolder, name)).status(), absl::OkStatus()) << where;
  }
}

// After any stop: the next start finds `committed` or a later step that was being saved, whole, and nothing temporary is left.
void ExpectLaw(const FaultFileSystem& fs, int ranks, const std::set<int64_t>& allowed, const std::string& where) {
  const Loaded loaded = LoadNewestOn(fs, ranks);
  for (const absl::Status& status : loaded.statuses) ASSERT_EQ(status, absl::OkStatus()) << where;
  ASSERT_TRUE(allowed.contains(loaded.step)) << where << ": got step " << loaded.step;
  ASSERT_EQ(loaded.gathered, StateAt(loaded.step)) << where;
  ExpectTidy(fs, where);
}

class CrashTest : public testing::TestWithParam<std::tuple<int, Survival>> {};

TEST_P(CrashTest, NothingTornIsAcceptedAndNothingCommittedIsLost) {
  const auto [ranks, survival] = GetParam();
  CheckpointConfig config = KeepAll();
  config.set_keep_last(1);
  int64_t points = 0;
  for (int64_t n = 0;; ++n) {
    FaultFileSystem fs;
    ExpectAllOk(SaveSteps(fs, ranks, {10}, 0, config));
    const int64_t before = fs.operations();
    fs.CrashAt(before + n);
    const auto statuses = SaveSteps(fs, ranks, {20}, 0, config);  // retires step 10
    const bool done = !fs.crashed();
    for (const absl::Status& status : statuses) ASSERT_EQ(status.ok(), statuses[0].ok()) << "ranks disagree at operation " << n;
    fs.Reopen(survival, static_cast<uint64_t>(n));
    ExpectLaw(fs, ranks, statuses[0].ok() ? std::set<int64_t>{20} : std::set<int64_t>{10, 20}, "operation " + std::to_string(n));
    if (HasFatalFailure()) return;
    if (done) break;
    ++points;
  }
  EXPECT_GT(points, 20);
}

TEST_P(CrashTest, ReplacingAStepLosesNeitherTheOldNorTheNew) {
  const auto [ranks, survival] = GetParam();
  for (int64_t n = 0;; ++n) {
    FaultFileSystem fs;
    ExpectAllOk(SaveSteps(fs, ranks, {10, 20}));
    const int64_t before = fs.operations();
    fs.CrashAt(before + n);
    SaveSteps(fs, ranks, {20});
    const bool done = !fs.crashed();
    fs.Reopen(survival, static_cast<uint64_t>(n));
    ExpectLaw(fs, ranks, {20}, "operation " + std::to_string(n));
    if (HasFatalFailure() || done) return;
  }
}

std::string CaseName(const testing::TestParamInfo<std::tuple<int, Survival>>& info) {
  const Survival survival = std::get<1>(info.param);
  const char* const name = survival == Survival::kAll ? "Killed" : survival == Survival::kSynced ? "PowerLoss" : "ChancePowerLoss";
  return name + std::to_string(std::get<0>(info.param)) + "Ranks";
}

INSTANTIATE_TEST_SUITE_P(All, CrashTest,
                         testing::Combine(testing::Values(1, 2), testing::Values(Survival::kAll, Survival::kSynced, Survival::kChance)),
                         CaseName);

TEST(CheckpointCrashTest, ACrashWhileCleaningUpAfterACrashIsCleanedUpToo) {
  for (int64_t n = 0;; ++n) {
    FaultFileSystem fs;
    ExpectAllOk(SaveSteps(fs, 1, {10}));
    fs.CrashAt(fs.operations() + 12);  // in the middle of writing
    SaveSteps(fs, 1, {20});
    ASSERT_TRUE(fs.crashed());
    fs.Reopen(Survival::kAll);
    fs.CrashAt(n);
    LoadNewestOn(fs, 1);
    const bool done = !fs.crashed();
    fs.Reopen(Survival::kChance, static_cast<uint64_t>(n));
    ExpectLaw(fs, 1, {10}, "operation " + std::to_string(n));
    if (HasFatalFailure() || done) return;
  }
}

// One failing call: every rank gets the same error, or the save is committed; what was there stays; the next save succeeds and tidies up.
void EveryOperationFails(int ranks, int error_number) {
  int64_t failed = 0;
  for (int64_t n = 0;; ++n) {
    FaultFileSystem fs;
    std::vector<absl::Status> first(static_cast<size_t>(ranks)), second(static_cast<size_t>(ranks));
    bool done = false;
    OnRanks(ranks, [&](Communicator& world) -> absl::Status {
      ASSIGN_OR_RETURN(const auto store, CheckpointStore::Open(fs, world, kFolder, KeepAll()));
      FakeState state(world.rank(), ranks);
      state.Fill(10);
      RETURN_IF_ERROR(store->Save(RequestOf(state.dict(), 10)));
      const int64_t before = fs.operations();
      RETURN_IF_ERROR(world.Barrier("before"));
      if (world.rank() == 0) fs.FailOperations(before + n, 1, error_number);
      RETURN_IF_ERROR(world.Barrier("armed"));
      state.Fill(20);
      first[static_cast<size_t>(world.rank())] = store->Save(RequestOf(state.dict(), 20));
      RETURN_IF_ERROR(world.Barrier("saved"));
      if (world.rank() == 0) done = fs.operations() <= before + n;
      state.Fill(30);
      if (!first[0].ok()) second[static_cast<size_t>(world.rank())] = store->Save(RequestOf(state.dict(), 30));
      return absl::OkStatus();
    });
    for (const absl::Status& status : first) ASSERT_EQ(status, first[0]) << "operation " << n;
    ExpectAllOk(second);
    const std::string where = "operation " + std::to_string(n);
    ExpectLaw(fs, ranks, {first[0].ok() ? 20 : 30}, where);
    if (testing::Test::HasFatalFailure() || done) break;
    if (first[0].ok()) continue;
    ++failed;
    const std::string message(first[0].message());
    ASSERT_NE(message.find("the checkpoint of step 20 was not saved"), std::string::npos) << message;
    ASSERT_NE(message.find(kFolder), std::string::npos) << message;
    ASSERT_NE(message.find(strerror(error_number)), std::string::npos) << message;
    ASSERT_EQ(message.find("rank ") != std::string::npos, ranks > 1) << message;
  }
  EXPECT_GT(failed, 15);
}

TEST(CheckpointFaultTest, FullDiskAtEveryOperation) {
  EveryOperationFails(1, ENOSPC);
  EveryOperationFails(2, ENOSPC);
}

TEST(CheckpointFaultTest, NoPermissionAtEveryOperation) { EveryOperationFails(2, EACCES); }

TEST(CheckpointFaultTest, PreviousStaysLoadableWhileEveryOperationFromSomePointFails) {
  for (int64_t n = 0; n < 40; n += 3) {
    FaultFileSystem fs;
    ExpectAllOk(SaveSteps(fs, 2, {10}));
    fs.FailOperations(fs.operations() + n, 1'000'000, EIO);
    const auto statuses = SaveSteps(fs, 2, {20});
    for (const absl::Status& status : statuses) ASSERT_EQ(status.ok(), statuses[0].ok());
    fs.Reopen(Survival::kAll);
    ExpectLaw(fs, 2, {statuses[0].ok() ? 20 : 10, 20}, "from operation " + std::to_string(n));
    if (HasFatalFailure()) return;
  }
}

TEST(CheckpointFaultTest, TheNextSaveClearsWhatAFailedOneCouldNot) {
  FaultFileSystem fs;
  ExpectAllOk(OnRanks(1, [&](Communicator& world) -> absl::Status {
    ASSIGN_OR_RETURN(const auto store, CheckpointStore::Open(fs, world, kFolder, KeepAll()));
    FakeState state(0, 1);
    fs.FailOperations(fs.operations() + 3, 1'000'000, EIO);
    EXPECT_FALSE(store->Save(RequestOf(state.dict(), 10)).ok());
    EXPECT_EQ(Names(fs).size(), 1u);
    fs.FailOperations(0, 0, EIO);
    return store->Save(RequestOf(state.dict(), 20));
  }));
  ExpectTidy(fs, "after the second save");
  EXPECT_EQ(Names(fs), (std::vector<std::string>{std::string(kLatestName), "step-20"}));
}

TEST(CheckpointFaultTest, TooLittleSpaceIsSeenBeforeAnythingIsWritten) {
  FaultFileSystem fs(/*capacity_bytes=*/100'000);
  ExpectAllOk(SaveSteps(fs, 2, {10}));
  const auto filler = fs.OpenForWrite("run/filler", WriteMode::kTruncate);
  ASSERT_TRUE((*filler)->Write(std::string(60'000, 'x')).ok());
  const auto statuses = SaveSteps(fs, 2, {20});
  for (const absl::Status& status : statuses) {
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_NE(status.message().find("free some space"), absl::string_view::npos) << status;
  }
  EXPECT_EQ(Names(fs), (std::vector<std::string>{std::string(kLatestName), "step-10"}));
}

}  // namespace
}  // namespace conclave
