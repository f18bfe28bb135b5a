#include "comm/watchdog.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <sstream>

#include <gtest/gtest.h>

#include "comm/loopback.h"
#include "tests/comm/test_vectors.h"

namespace conclave {
namespace {

class WatchdogTest : public testing::Test {
 protected:
  WatchdogTest()
      : directory_(testing::TempDir() + "/watchdog_" + testing::UnitTest::GetInstance()->current_test_info()->name() + "." +
                   std::to_string(getpid())) {
    std::filesystem::remove_all(directory_);
  }
  ~WatchdogTest() override { std::filesystem::remove_all(directory_); }

  WatchdogOptions Options(double budget) const {
    return {.directory = directory_, .budget_seconds = {budget, budget, budget, budget}, .heartbeat_seconds = 0.01, .silent_seconds = 0.2};
  }

  const std::string directory_;
};

// Heartbeats as four ranks in step 7 would have written them, all waiting for operation 40 of the world.
std::vector<std::optional<Heartbeat>> FourRanks() {
  std::vector<std::optional<Heartbeat>> all(4);
  for (int r = 0; r < 4; ++r) {
    Heartbeat h;
    h.rank = r, h.phase = Phase::kStep, h.step = 7, h.waiting = 1, h.sequence = 40, h.wall_ns = 1'000'000'000'000;
    std::snprintf(h.label, sizeof(h.label), "exchange.pieces");
    std::snprintf(h.communicator, sizeof(h.communicator), "world");
    all[r] = h;
  }
  return all;
}

std::vector<int> Culprits(const std::vector<std::optional<Heartbeat>>& all, int me = 0) {
  std::vector<int> ranks;
  const HangView view{.me = me, .wall_ns = 1'000'000'000'000, .silent_ns = 5'000'000'000, .busy_ns = 10'000'000'000};
  for (const Suspect& s : FindCulprits(all, view)) ranks.push_back(s.rank);
  return ranks;
}

TEST(FindCulprits, NamesTheRightRank) {
  auto all = FourRanks();
  EXPECT_TRUE(Culprits(all).empty()) << "all wait for the same";
  all[2]->wall_ns -= 6'000'000'000;
  EXPECT_EQ(Culprits(all), std::vector{2}) << "silent";
  all = FourRanks();
  all[1].reset();
  EXPECT_EQ(Culprits(all), std::vector{1}) << "never started";
  all = FourRanks();
  all[3]->waiting = 0, all[3]->quiet_ns = 11'000'000'000;
  EXPECT_EQ(Culprits(all), std::vector{3}) << "busy";
  all[3]->quiet_ns = 1'000'000'000;
  EXPECT_TRUE(Culprits(all).empty()) << "only just busy";
  all = FourRanks();
  all[0]->sequence = 39;
  EXPECT_EQ(Culprits(all), std::vector{0}) << "behind, itself";
  EXPECT_EQ(Culprits(all, 3), std::vector{0}) << "behind";
  all = FourRanks();
  std::snprintf(all[1]->label, sizeof(all[1]->label), "loss");
  EXPECT_EQ(Culprits(all), std::vector{1}) << "another operation under the same number";
  all = FourRanks();
  std::snprintf(all[2]->communicator, sizeof(all[2]->communicator), "data");
  all[2]->sequence = 3;
  EXPECT_TRUE(Culprits(all).empty()) << "a rank on another communicator is a victim, not a culprit";
}

// Rank 1 never comes to the barrier of step 3: every other rank's watchdog says so.
TEST_F(WatchdogTest, NamesTheRankThatDoesNotCome) {
  std::mutex mutex;
  std::vector<std::string> reports;
  std::atomic<bool> expired = false;
  LoopbackOptions options;
  options.watchdog = Options(0.3);
  options.watchdog->on_expiry = [&](const std::string& report) {
    const std::lock_guard lock(mutex);
    reports.push_back(report);
    expired = true;
  };
  const absl::Status status = RunRanks(
      3,
      [&](Communicator& world) -> absl::Status {
        world.watchdog()->SetPhase(Phase::kStep, 3);
        RETURN_IF_ERROR(world.Barrier("start"));
        if (world.rank() == 1) {
          while (!expired) usleep(1000);
          usleep(50'000);
          return DataLoss("stuck in rank %d", 1);
        }
        return world.Barrier("gradient norm");
      },
      options);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  ASSERT_FALSE(reports.empty());
  for (const std::string& report : reports) {
    EXPECT_NE(report.find("culprit: rank 1 is alive but went nowhere"), std::string::npos) << report;
    EXPECT_NE(report.find("if it was at work, raise comm.timeout_seconds"), std::string::npos) << report;
    EXPECT_EQ(report.find("culprit: rank 0"), std::string::npos) << report;
    EXPECT_NE(report.find("rank 2: phase step, step 3, waits for 'gradient norm' on world (operation 1)"), std::string::npos) << report;
  }
}

TEST_F(WatchdogTest, ProgressKeepsItQuiet) {
  std::atomic<int> expiries = 0;
  WatchdogOptions options = Options(0.25);
  options.on_expiry = [&](const std::string&) { ++expiries; };
  auto watchdog = Watchdog::Start(options);
  ASSERT_EQ(watchdog.status(), absl::OkStatus());
  for (int step = 0; step < 20; ++step) {
    (*watchdog)->SetPhase(Phase::kStep, step);
    const WatchedWait wait(watchdog->get(), "x", "world", step);
    usleep(20'000);
  }
  EXPECT_EQ(expiries, 0) << "0.4 s of steps, none above the budget";
  const auto all = ReadHeartbeats(directory_, 2);
  ASSERT_TRUE(all[0].has_value());
  EXPECT_FALSE(all[1].has_value());
  EXPECT_EQ(all[0]->pid, getpid());
  EXPECT_GT(all[0]->step, 10);
  usleep(500'000);
  EXPECT_EQ(expiries, 1) << "then nothing happened";
}

TEST_F(WatchdogTest, SlowStepsRaiseTheBudget) {
  std::atomic<int> expiries = 0;
  WatchdogOptions options = Options(0.05);
  options.budget_seconds = {0, 0.05, 0, 0};
  options.on_expiry = [&](const std::string&) { ++expiries; };
  auto watchdog = Watchdog::Start(options);
  ASSERT_EQ(watchdog.status(), absl::OkStatus());
  for (int step = 0; step < 6; ++step) {
    (*watchdog)->SetPhase(Phase::kStep, step);
    for (int i = 0; i < 10; ++i) {  // each wait far below the budget, the step of 0.1 s above it
      const WatchedWait wait(watchdog->get(), "x", "world", i);
      usleep(10'000);
    }
  }
  usleep(200'000);
  EXPECT_EQ(expiries, 0) << "5 x 0.1 s are allowed by now";
}

TEST_F(WatchdogTest, AnUnwritableDirectoryIsAnError) {
  std::ofstream(directory_) << "a file, not a directory";
  EXPECT_EQ(Watchdog::Start(Options(1)).status().code(), absl::StatusCode::kFailedPrecondition);
}

// The real thing: a process whose rank hangs prints the report, keeps a copy, and ends with the documented code.
TEST_F(WatchdogTest, TheProcessEndsWithItsCode) {
  const pid_t child = fork();
  if (child == 0) {
    if (std::freopen((directory_ + ".stderr").c_str(), "w", stderr) == nullptr) _exit(1);
    auto watchdog = Watchdog::Start(Options(0.1));
    if (!watchdog.ok()) _exit(1);
    (*watchdog)->SetPhase(Phase::kCheckpoint, 12);
    const WatchedWait wait(watchdog->get(), "commit", "world", 5);
    sleep(20);
    _exit(2);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), kWatchdogExitCode);
  std::stringstream printed, kept;
  printed << std::ifstream(directory_ + ".stderr").rdbuf();
  kept << std::ifstream(directory_ + "/hang.txt").rdbuf();
  EXPECT_EQ(printed.str(), kept.str());
  EXPECT_NE(kept.str().find("rank 0: phase checkpoint, step 12, waits for 'commit' on world (operation 5)"), std::string::npos)
      << kept.str();
  std::filesystem::remove(directory_ + ".stderr");
}

}  // namespace
}  // namespace conclave
