#include "launch/output_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "base/file_system.h"

namespace conclave {
namespace {

class OutputFile : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = JoinPath(testing::TempDir(), "conclave_output_XXXXXX");
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
  }
  void TearDown() override { EXPECT_TRUE(files_.RemoveTree(folder_).ok()); }
  std::string At(std::string_view name) const { return JoinPath(folder_, name); }
  bool Is(const std::string& path, mode_t kind) const {
    struct stat info;
    return lstat(path.c_str(), &info) == 0 && (info.st_mode & S_IFMT) == kind;
  }

  const FileSystem& files_ = RealFileSystem();
  std::string folder_;
};

TEST_F(OutputFile, ReplacesFilesWholeAlsoBehindLinks) {
  ASSERT_TRUE(WriteOutput(At("plan"), "a first and longer text").ok());
  ASSERT_TRUE(WriteOutput(At("plan"), "two").ok());
  EXPECT_EQ(*files_.ReadAll(At("plan")), "two");
  ASSERT_EQ(symlink("plan", At("link").c_str()), 0);
  ASSERT_TRUE(WriteOutput(At("link"), "three").ok());
  EXPECT_TRUE(Is(At("link"), S_IFLNK));
  EXPECT_EQ(*files_.ReadAll(At("plan")), "three");
  EXPECT_EQ(*files_.ListDir(folder_), (std::vector<std::string>{"link", "plan"}));
  EXPECT_FALSE(WriteOutput(folder_, "text").ok());
}

TEST_F(OutputFile, GoesIntoAPipeThatStays) {
  ASSERT_EQ(mkfifo(At("pipe").c_str(), 0600), 0);
  const int reader = open(At("pipe").c_str(), O_RDONLY | O_NONBLOCK);
  ASSERT_GE(reader, 0);
  ASSERT_TRUE(WriteOutput(At("pipe"), "through").ok());
  char got[16] = {};
  EXPECT_EQ(read(reader, got, sizeof(got)), 7);
  EXPECT_STREQ(got, "through");
  EXPECT_TRUE(Is(At("pipe"), S_IFIFO));
  close(reader);
  const absl::Status replaced = files_.WriteAtomically(At("pipe"), "text");
  EXPECT_EQ(replaced.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(replaced.message().find(At("pipe")), std::string::npos) << replaced;
  EXPECT_EQ(*files_.ListDir(folder_), (std::vector<std::string>{"pipe"}));
}

// Standard output is a file here, and the link to it is ours: a mistake would replace no device of this machine.
TEST_F(OutputFile, JoinsWhatWasPrinted) {
  ASSERT_EQ(symlink("/proc/self/fd/1", At("stdout").c_str()), 0);
  std::fflush(stdout);
  const int kept = dup(STDOUT_FILENO), file = open(At("printed").c_str(), O_WRONLY | O_CREAT, 0600);
  ASSERT_GE(dup2(file, STDOUT_FILENO), 0);
  std::fputs("before ", stdout);
  const absl::Status written = WriteOutput(At("stdout"), "the plan");
  std::fputs(" after", stdout);
  std::fflush(stdout);
  ASSERT_GE(dup2(kept, STDOUT_FILENO), 0);
  close(kept), close(file);
  EXPECT_TRUE(written.ok()) << written;
  EXPECT_EQ(*files_.ReadAll(At("printed")), "before the plan after");
  EXPECT_TRUE(Is(At("stdout"), S_IFLNK));
}

}  // namespace
}  // namespace conclave
