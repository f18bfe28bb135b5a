#include "base/log.h"

#include <algorithm>
#include <thread>
#include <vector>

#include "base/file_system.h"
#include "base/strings.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

int interludes = 0;

class LogTest : public testing::Test {
 protected:
  void SetUp() override {
    file_ = JoinPath(testing::TempDir(), absl::StrFormat("log_test_%s.log", testing::UnitTest::GetInstance()->current_test_info()->name()));
    ASSERT_TRUE(RealFileSystem().RemoveTree(file_).ok());
  }
  void TearDown() override {
    SetLogInterlude(nullptr);
    ASSERT_TRUE(InitLog({}).ok());
    ASSERT_TRUE(RealFileSystem().RemoveTree(file_).ok());
  }
  std::vector<std::string> FileLines() const {
    std::vector<std::string> lines = SplitString(*RealFileSystem().ReadAll(file_), '\n');
    EXPECT_EQ(lines.back(), "");
    lines.pop_back();
    return lines;
  }
  std::string file_;
};

TEST_F(LogTest, LineHasTimeLevelRankAndText) {
  ASSERT_TRUE(InitLog({.rank = 3, .file = file_}).ok());
  LOG_INFO << "step " << 12 << '\n';
  const auto lines = FileLines();
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0].size(), std::string("2026-01-01T00:00:00.000Z I rank 3: step 12").size());
  EXPECT_EQ(lines[0].substr(23), "Z I rank 3: step 12");
}

TEST_F(LogTest, FileTakesAllLevelsStderrFromItsLevelOn) {
  ASSERT_TRUE(InitLog({.stderr_level = LogLevel::kInfo, .file = file_}).ok());
  testing::internal::CaptureStderr();
  LOG_DEBUG << "debug";
  LOG_INFO << "info";
  LOG_WARNING << "warning";
  LOG_ERROR << "error";
  const std::string err = testing::internal::GetCapturedStderr();
  EXPECT_EQ(FileLines().size(), 4u);
  EXPECT_EQ(std::count(err.begin(), err.end(), '\n'), 3);
  EXPECT_EQ(err.find("debug"), std::string::npos);
}

TEST_F(LogTest, OtherRanksPrintWarningsAndErrorsOnly) {
  ASSERT_TRUE(InitLog({.rank = 1, .stderr_level = LogLevel::kDebug}).ok());
  testing::internal::CaptureStderr();
  LOG_INFO << "info";
  LOG_WARNING << "careful";
  const std::string err = testing::internal::GetCapturedStderr();
  EXPECT_EQ(err.find("info"), std::string::npos);
  EXPECT_NE(err.find(" W rank 1: careful\n"), std::string::npos) << err;
}

TEST_F(LogTest, InterludeRunsBeforeEachPrintedLineOnly) {
  ASSERT_TRUE(InitLog({.stderr_level = LogLevel::kWarning, .file = file_}).ok());
  interludes = 0;
  SetLogInterlude([] { ++interludes; });
  testing::internal::CaptureStderr();
  LOG_INFO << "to the file";
  EXPECT_EQ(interludes, 0);
  LOG_ERROR << "to both";
  EXPECT_EQ(interludes, 1);
  testing::internal::GetCapturedStderr();
}

TEST_F(LogTest, LinesOfManyThreadsStayWhole) {
  ASSERT_TRUE(InitLog({.stderr_level = LogLevel::kError, .file = file_}).ok());
  std::vector<std::jthread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      for (int i = 0; i < 100; ++i) LOG_INFO << "thread " << t << ' ' << std::string(200, static_cast<char>('a' + t));
    });
  }
  threads.clear();
  const auto lines = FileLines();
  ASSERT_EQ(lines.size(), 400u);
  for (const std::string& line : lines) {
    const size_t at = line.find("thread ");
    ASSERT_NE(at, std::string::npos);
    EXPECT_EQ(line.substr(at + 9), std::string(200, static_cast<char>('a' + line[at + 7] - '0')));
  }
}

TEST_F(LogTest, UnwritableFileIsAnErrorWithItsPath) {
  const absl::Status status = InitLog({.file = JoinPath(file_, "in/no/folder.log")});
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(status.message().find("folder.log"), std::string::npos);
}

}  // namespace
}  // namespace conclave
