#include "trainer/stop_signal.h"

#include <csignal>

#include <gtest/gtest.h>

#include "base/fault_file_system.h"
#include "comm/loopback.h"

namespace conclave {
namespace {

constexpr double kAlreadyOver = 1e-9;

// What every one of `ranks` ranks agrees on, when rank 0 alone has the time limit.
std::vector<StopReason> AgreedReasons(int ranks, double limit_of_rank_0, const FileSystem& files = RealFileSystem(),
                                      const std::string& stop_file = "") {
  std::vector<StopReason> reasons(ranks, StopReason::kNone);
  const absl::Status status = RunRanks(ranks, [&](Communicator& world) -> absl::Status {
    const StopRequests stop(&files, stop_file, world.rank() == 0 ? limit_of_rank_0 : 0);
    ASSIGN_OR_RETURN(reasons[world.rank()], stop.Agree(world));
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
  return reasons;
}

// Signals leave a mark on the process, so each case runs in a child, which exits with the agreed reason.
[[noreturn]] void ExitWithReason(std::initializer_list<int> signals, const std::string& stop_text, double limit = 0) {
  const FaultFileSystem files;
  if (!stop_text.empty() && !files.WriteAtomically("stop", stop_text).ok()) std::_Exit(99);
  InstallStopHandlers();
  for (const int signal : signals) std::raise(signal);
  std::_Exit(10 + static_cast<int>(AgreedReasons(2, limit, files, "stop")[1]));
}

class StopSignalDeathTest : public testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
  static auto Exits(StopReason reason) { return testing::ExitedWithCode(10 + static_cast<int>(reason)); }
};

TEST(StopRequests, NothingAskedIsNoReason) {
  for (const StopReason reason : AgreedReasons(3, 0)) EXPECT_EQ(reason, StopReason::kNone);
  for (const StopReason reason : AgreedReasons(2, 3600)) EXPECT_EQ(reason, StopReason::kNone);
}

TEST(StopRequests, OneRanksLimitStopsAll) {
  for (const StopReason reason : AgreedReasons(3, kAlreadyOver)) EXPECT_EQ(reason, StopReason::kTimeLimit);
}

TEST(StopRequests, AStopFileAloneStopsNothing) {
  const FaultFileSystem files;
  ASSERT_TRUE(files.WriteAtomically("stop", "user\n").ok());
  for (const StopReason reason : AgreedReasons(2, 0, files, "stop")) EXPECT_EQ(reason, StopReason::kNone);
}

TEST_F(StopSignalDeathTest, SignalsHaveTheirReasons) {
  EXPECT_EXIT(ExitWithReason({SIGUSR1}, ""), Exits(StopReason::kPreempted), "");
  EXPECT_EXIT(ExitWithReason({SIGTERM}, ""), Exits(StopReason::kPreempted), "");
  EXPECT_EXIT(ExitWithReason({SIGINT}, ""), Exits(StopReason::kUser), "");
}

TEST_F(StopSignalDeathTest, TheStopFileTellsWhatUsr1Means) {
  EXPECT_EXIT(ExitWithReason({SIGUSR1}, "user\n"), Exits(StopReason::kUser), "");
  EXPECT_EXIT(ExitWithReason({SIGUSR1}, "preempt\n"), Exits(StopReason::kPreempted), "");
}

TEST_F(StopSignalDeathTest, TheStrongestReasonWins) {
  EXPECT_EXIT(ExitWithReason({SIGINT, SIGTERM}, ""), Exits(StopReason::kUser), "");
  EXPECT_EXIT(ExitWithReason({SIGTERM, SIGINT}, "preempt"), Exits(StopReason::kUser), "");
  EXPECT_EXIT(ExitWithReason({SIGTERM}, "", kAlreadyOver), Exits(StopReason::kPreempted), "");
}

}  // namespace
}  // namespace conclave
