// The same laws on the real file system and on the one in memory, so that what is proven on the second holds on the first.
#include "base/file_system.h"

#include <unistd.h>

#include <array>
#include <cstdlib>

#include "base/fault_file_system.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using Names = std::vector<std::string>;

class FileSystemTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (GetParam()) {
      std::string pattern = JoinPath(testing::TempDir(), "conclave_fs_XXXXXX");
      ASSERT_NE(mkdtemp(pattern.data()), nullptr);
      root_ = pattern;
    } else {
      root_ = "/root";
      ASSERT_TRUE(memory_.CreateDir(root_).ok());
    }
  }
  void TearDown() override {
    if (GetParam()) {
      EXPECT_EQ(RealFileSystem().RemoveTree(root_), absl::OkStatus());
    }
  }
  const FileSystem& fs() const {
    if (GetParam()) return RealFileSystem();
    return memory_;
  }
  std::string Path(std::string_view name) const { return JoinPath(root_, name); }
  void Put(const std::string& path, std::string_view text) {
    auto file = fs().OpenForWrite(path, WriteMode::kTruncate);
    ASSERT_TRUE(file.ok()) << file.status();
    ASSERT_EQ((*file)->Write(text), absl::OkStatus());
    ASSERT_EQ((*file)->Sync(), absl::OkStatus());
    ASSERT_EQ((*file)->Close(), absl::OkStatus());
  }

  FaultFileSystem memory_;
  std::string root_;
};

INSTANTIATE_TEST_SUITE_P(Both, FileSystemTest, testing::Bool(), [](const auto& info) { return info.param ? "Real" : "Memory"; });

TEST_P(FileSystemTest, WriteModes) {
  const std::string path = Path("f");
  Put(path, "hello");
  EXPECT_EQ(*fs().ReadAll(path), "hello");
  {
    auto file = fs().OpenForWrite(path, WriteMode::kAppend);
    ASSERT_TRUE(file.ok());
    EXPECT_TRUE((*file)->Write(", ").ok());
    EXPECT_TRUE((*file)->Write("world").ok());
  }
  EXPECT_EQ(*fs().ReadAll(path), "hello, world");
  EXPECT_EQ(*fs().FileSize(path), 12);
  EXPECT_EQ(fs().OpenForWrite(path, WriteMode::kCreateNew).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(*fs().ReadAll(path), "hello, world");
  Put(path, "x");
  EXPECT_EQ(*fs().ReadAll(path), "x");
  EXPECT_TRUE(fs().OpenForWrite(Path("new"), WriteMode::kCreateNew).ok());
  EXPECT_EQ(*fs().FileSize(Path("new")), 0);
}

TEST_P(FileSystemTest, ReadAnywhereAndPastTheEnd) {
  Put(Path("f"), "0123456789");
  auto file = fs().OpenForRead(Path("f"));
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(*(*file)->Size(), 10);
  std::array<std::byte, 4> out;
  ASSERT_TRUE((*file)->Read(6, out).ok());
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(out.data()), 4), "6789");
  const absl::Status past = (*file)->Read(7, out);
  EXPECT_EQ(past.code(), absl::StatusCode::kOutOfRange);
  EXPECT_NE(past.message().find("expected 4 bytes from byte 7"), std::string::npos) << past;
  EXPECT_NE(past.message().find("ends at byte 10"), std::string::npos) << past;
  EXPECT_TRUE((*file)->Read(10, {}).ok());
}

TEST_P(FileSystemTest, TruncateCutsAndExtends) {
  Put(Path("f"), "abcdef");
  ASSERT_TRUE(fs().Truncate(Path("f"), 2).ok());
  EXPECT_EQ(*fs().ReadAll(Path("f")), "ab");
  ASSERT_TRUE(fs().Truncate(Path("f"), 4).ok());
  EXPECT_EQ(*fs().ReadAll(Path("f")), std::string("ab\0\0", 4));
  EXPECT_EQ(fs().Truncate(Path("none"), 0).code(), absl::StatusCode::kNotFound);
}

TEST_P(FileSystemTest, DirectoriesAndKinds) {
  ASSERT_TRUE(fs().CreateDirs(Path("a/b/c")).ok());
  ASSERT_TRUE(fs().CreateDirs(Path("a/b")).ok());
  Put(Path("a/z"), "1");
  Put(Path("a/k"), "1");
  EXPECT_EQ(*fs().ListDir(Path("a")), (Names{"b", "k", "z"}));
  EXPECT_EQ(*fs().Kind(Path("a/b")), FileKind::kDirectory);
  EXPECT_EQ(*fs().Kind(Path("a/k")), FileKind::kFile);
  EXPECT_EQ(*fs().Kind(Path("a/none")), FileKind::kMissing);
  EXPECT_EQ(*fs().Kind(Path("a/k/x")), FileKind::kMissing);
  EXPECT_TRUE(fs().Exists(Path("a/k")));
  EXPECT_FALSE(fs().Exists(Path("a/none")));
  EXPECT_EQ(fs().CreateDir(Path("a")).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(fs().CreateDir(Path("x/y")).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(fs().CreateDirs(Path("a/k/x")).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(fs().RemoveDir(Path("a")).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(fs().ListDir(Path("a/k")).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(fs().OpenForRead(Path("a")).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(fs().OpenForWrite(Path("a"), WriteMode::kTruncate).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(fs().SyncDir(Path("none")).code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(fs().RemoveTree(Path("a")).ok());
  EXPECT_EQ(*fs().ListDir(root_), Names{});
  EXPECT_TRUE(fs().RemoveTree(Path("a")).ok());
}

TEST_P(FileSystemTest, RenameReplaces) {
  Put(Path("a"), "new");
  Put(Path("b"), "old");
  ASSERT_TRUE(fs().Rename(Path("a"), Path("b")).ok());
  EXPECT_EQ(*fs().ReadAll(Path("b")), "new");
  EXPECT_EQ(*fs().ListDir(root_), (Names{"b"}));
  const absl::Status missing = fs().Rename(Path("a"), Path("c"));
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(missing.message().find(Path("a")), std::string::npos);
  EXPECT_NE(missing.message().find(Path("c")), std::string::npos);
  ASSERT_TRUE(fs().CreateDirs(Path("d/e")).ok());
  EXPECT_EQ(fs().Rename(Path("b"), Path("d")).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(fs().Rename(Path("d"), Path("d/e/f")).code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(fs().CreateDir(Path("g")).ok());
  EXPECT_EQ(fs().Rename(Path("g"), Path("d")).code(), absl::StatusCode::kFailedPrecondition);  // not empty
  ASSERT_TRUE(fs().Rename(Path("d"), Path("g")).ok());
  EXPECT_EQ(*fs().ListDir(Path("g")), (Names{"e"}));
  EXPECT_EQ(*fs().ListDir(root_), (Names{"b", "g"}));
}

TEST_P(FileSystemTest, WriteAtomicallyReplacesAndLeavesNoTemporary) {
  const std::string big(300000, 'q');
  ASSERT_TRUE(fs().WriteAtomically(Path("f"), "one").ok());
  ASSERT_TRUE(fs().WriteAtomically(Path("f"), big).ok());
  EXPECT_EQ(*fs().ReadAll(Path("f")), big);
  EXPECT_EQ(*fs().ListDir(root_), (Names{"f"}));
}

TEST_P(FileSystemTest, ErrorsNameThePathTheCallAndTheReason) {
  const absl::Status status = fs().OpenForRead(Path("none")).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(status.message(),
            absl::StrFormat("cannot open for reading '%s': No such file or directory (errno 2); check the path", Path("none")));
}

TEST_P(FileSystemTest, FreeBytes) {
  EXPECT_GT(*fs().FreeBytes(root_), 0);
  EXPECT_EQ(fs().FreeBytes(Path("none")).status().code(), absl::StatusCode::kNotFound);
}

TEST(RealFileSystemTest, RemoveTreeNeverFollowsLinks) {
  std::string root = JoinPath(testing::TempDir(), "conclave_fs_XXXXXX");
  ASSERT_NE(mkdtemp(root.data()), nullptr);
  const FileSystem& fs = RealFileSystem();
  ASSERT_TRUE(fs.CreateDirs(JoinPath(root, "kept/inner")).ok());
  ASSERT_TRUE(fs.CreateDir(JoinPath(root, "gone")).ok());
  ASSERT_EQ(symlink(JoinPath(root, "kept").c_str(), JoinPath(root, "gone/link").c_str()), 0);
  EXPECT_TRUE(fs.RemoveTree(JoinPath(root, "gone")).ok());
  EXPECT_EQ(*fs.ListDir(root), (Names{"kept"}));
  EXPECT_EQ(*fs.ListDir(JoinPath(root, "kept")), (Names{"inner"}));
  EXPECT_TRUE(fs.RemoveTree(root).ok());
}

TEST(RealFileSystemTest, FullDeviceIsReported) {
  auto file = RealFileSystem().OpenForWrite("/dev/full", WriteMode::kAppend);
  if (!file.ok()) GTEST_SKIP() << "no /dev/full here";
  const absl::Status status = (*file)->Write("x");
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(status.message().find("No space left on device"), std::string::npos) << status;
  EXPECT_NE(status.message().find("/dev/full"), std::string::npos) << status;
}

TEST(PathTest, PartsOfPaths) {
  EXPECT_EQ(JoinPath("a", "b"), "a/b");
  EXPECT_EQ(JoinPath("a/", "b"), "a/b");
  EXPECT_EQ(JoinPath("", "b"), "b");
  EXPECT_EQ(JoinPath("a", "/b"), "/b");
  EXPECT_EQ(ParentPath("a/b"), "a");
  EXPECT_EQ(ParentPath("a"), ".");
  EXPECT_EQ(ParentPath("/a"), "/");
  EXPECT_EQ(ParentPath("a//b/"), "a");
  EXPECT_EQ(ParentPath("/"), "/");
  EXPECT_EQ(BaseName("a/b/"), "b");
  EXPECT_EQ(BaseName("b"), "b");
  EXPECT_EQ(BaseName("/"), "/");
}

}  // namespace
}  // namespace conclave
