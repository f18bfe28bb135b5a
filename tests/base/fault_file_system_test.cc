#include "base/fault_file_system.h"

#include <cerrno>
#include <set>
#include <vector>

#include "gtest/gtest.h"

namespace conclave {
namespace {

using Names = std::vector<std::string>;

// Writes without any sync.
std::unique_ptr<WritableFile> Put(const FileSystem& fs, const std::string& path, std::string_view text) {
  auto file = fs.OpenForWrite(path, WriteMode::kTruncate);
  EXPECT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->Write(text), absl::OkStatus());
  return *std::move(file);
}

TEST(FaultFileSystemTest, PowerLossKeepsExactlyWhatWasSynced) {
  FaultFileSystem fs;
  ASSERT_TRUE(Put(fs, "content_and_name", "x")->Sync().ok());
  Put(fs, "name_only", "x");
  ASSERT_TRUE(fs.SyncDir("/").ok());
  ASSERT_TRUE(Put(fs, "content_only", "x")->Sync().ok());
  auto longer = fs.OpenForWrite("content_and_name", WriteMode::kAppend);
  ASSERT_TRUE((*longer)->Write("unsynced").ok());
  ASSERT_EQ(*fs.ReadAll("content_and_name"), "xunsynced");

  fs.Reopen(Survival::kSynced);
  EXPECT_EQ(*fs.ListDir("/"), (Names{"content_and_name", "name_only"}));
  EXPECT_EQ(*fs.ReadAll("content_and_name"), "x");
  EXPECT_EQ(*fs.ReadAll("name_only"), "");
  EXPECT_FALSE((*longer)->Write("dead").ok());
}

TEST(FaultFileSystemTest, RenameAndRemovalAreUndoneUntilTheDirectoryIsSynced) {
  const auto prepare = [](const FileSystem& fs) {
    ASSERT_TRUE(Put(fs, "a", "1")->Sync().ok());
    ASSERT_TRUE(Put(fs, "b", "2")->Sync().ok());
    ASSERT_TRUE(fs.SyncDir("/").ok());
    ASSERT_TRUE(fs.Rename("a", "c").ok());
    ASSERT_TRUE(fs.RemoveFile("b").ok());
  };
  FaultFileSystem lost, kept;
  prepare(lost);
  lost.Reopen(Survival::kSynced);
  EXPECT_EQ(*lost.ListDir("/"), (Names{"a", "b"}));
  EXPECT_EQ(*lost.ReadAll("b"), "2");
  prepare(kept);
  ASSERT_TRUE(kept.SyncDir("/").ok());
  kept.Reopen(Survival::kSynced);
  EXPECT_EQ(*kept.ListDir("/"), (Names{"c"}));
  EXPECT_EQ(*kept.ReadAll("c"), "1");
}

TEST(FaultFileSystemTest, RenameBetweenDirectoriesIsOneOperation) {
  FaultFileSystem fs;
  ASSERT_TRUE(fs.CreateDirs("/x").ok());
  ASSERT_TRUE(fs.CreateDirs("/y").ok());
  ASSERT_TRUE(Put(fs, "/x/f", "1")->Sync().ok());
  ASSERT_TRUE(fs.Rename("/x/f", "/y/f").ok());
  ASSERT_TRUE(fs.SyncDir("/y").ok());
  fs.Reopen(Survival::kSynced);
  EXPECT_EQ(*fs.ListDir("/x"), Names{});
  EXPECT_EQ(*fs.ReadAll("/y/f"), "1");
}

// The sync of the target also settles what happened in the source before: no seed may bring the old name back.
TEST(FaultFileSystemTest, SyncOfOneDirectoryOfARenameSettlesTheOther) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    FaultFileSystem fs;
    ASSERT_TRUE(fs.CreateDirs("/x").ok());
    ASSERT_TRUE(fs.CreateDirs("/y").ok());
    Put(fs, "/x/f", "1");
    ASSERT_TRUE(fs.Rename("/x/f", "/y/f").ok());
    ASSERT_TRUE(fs.SyncDir("/y").ok());
    fs.Reopen(Survival::kChance, seed);
    EXPECT_EQ(*fs.ListDir("/x"), Names{}) << seed;
    EXPECT_EQ(*fs.ListDir("/y"), (Names{"f"})) << seed;
  }
}

TEST(FaultFileSystemTest, AChainOfRenamesLeavesOneName) {
  std::set<Names> seen;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    FaultFileSystem fs;
    Put(fs, "a", "1");
    ASSERT_TRUE(fs.SyncDir("/").ok());
    ASSERT_TRUE(fs.Rename("a", "b").ok());
    ASSERT_TRUE(fs.Rename("b", "c").ok());
    fs.Reopen(Survival::kChance, seed);
    const Names names = *fs.ListDir("/");
    EXPECT_EQ(names.size(), 1u) << seed;
    seen.insert(names);
  }
  EXPECT_EQ(seen, (std::set<Names>{{"a"}, {"b"}, {"c"}}));
}

TEST(FaultFileSystemTest, CreatedDirectoriesAreDurable) {
  FaultFileSystem fs;
  ASSERT_TRUE(fs.CreateDirs("runs/one/checkpoints").ok());
  ASSERT_TRUE(fs.CreateDir("runs/two").ok());
  fs.Reopen(Survival::kSynced);
  EXPECT_EQ(*fs.Kind("runs/one/checkpoints"), FileKind::kDirectory);
  EXPECT_EQ(*fs.Kind("runs/two"), FileKind::kMissing);
}

TEST(FaultFileSystemTest, KilledProcessLosesNothingButALaterPowerLossDoes) {
  FaultFileSystem fs;
  Put(fs, "f", "text");
  fs.Reopen(Survival::kAll);
  EXPECT_EQ(*fs.ReadAll("f"), "text");
  fs.Reopen(Survival::kSynced);
  EXPECT_FALSE(fs.Exists("f"));
}

TEST(FaultFileSystemTest, FailsExactlyTheOperationsAskedFor) {
  FaultFileSystem fs;
  auto file = fs.OpenForWrite("f", WriteMode::kTruncate);  // operation 0
  fs.FailOperations(1, 2, ENOSPC);
  const absl::Status first = (*file)->Write("abcd");
  EXPECT_EQ(first.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(first.message().find("'f': No space left on device"), std::string::npos) << first;
  EXPECT_EQ((*file)->Sync().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE((*file)->Write("!").ok());
  EXPECT_EQ(*fs.ReadAll("f"), "ab!");  // half of the failed write is there
  fs.FailOperations(fs.operations(), 1, EACCES);
  EXPECT_EQ(fs.CreateDir("d").code(), absl::StatusCode::kPermissionDenied);
  EXPECT_TRUE(fs.CreateDir("d").ok());
  fs.FailReads(fs.reads(), 1, EACCES);
  EXPECT_EQ(fs.ReadAll("f").status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_TRUE(fs.ReadAll("f").ok());
}

TEST(FaultFileSystemTest, FullDisk) {
  FaultFileSystem fs(10);
  auto file = Put(fs, "f", "12345678");
  EXPECT_EQ(*fs.FreeBytes("/"), 2);
  EXPECT_EQ(file->Write("abc").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(*fs.ReadAll("f"), "12345678ab");
  ASSERT_TRUE(fs.RemoveFile("f").ok());
  EXPECT_EQ(*fs.FreeBytes("/"), 10);
}

TEST(FaultFileSystemTest, AfterACrashNothingWorksUntilReopen) {
  FaultFileSystem fs;
  fs.CrashAt(1);
  EXPECT_TRUE(fs.CreateDir("a").ok());
  EXPECT_FALSE(fs.crashed());
  EXPECT_EQ(fs.CreateDir("b").code(), absl::StatusCode::kAborted);
  EXPECT_TRUE(fs.crashed());
  EXPECT_EQ(fs.ListDir("/").status().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(fs.SyncDir("/").code(), absl::StatusCode::kAborted);
  fs.Reopen(Survival::kAll);
  EXPECT_EQ(*fs.ListDir("/"), (Names{"a"}));
  EXPECT_TRUE(fs.CreateDir("b").ok());
}

// Law: whatever call it stops at, and whatever the disk then keeps, the file is all old or all new; new once the call has returned.
TEST(FaultFileSystemTest, WriteAtomicallyIsAtomicAtEveryKillPoint) {
  int kill_points = 0;
  std::set<std::string> seen;
  for (const Survival survival : {Survival::kAll, Survival::kSynced, Survival::kChance}) {
    for (uint64_t seed = 0; seed < (survival == Survival::kChance ? 50u : 1u); ++seed) {
      for (int64_t n = 0;; ++n, ++kill_points) {
        FaultFileSystem fs;
        ASSERT_TRUE(fs.WriteAtomically("f", "the old text").ok());
        fs.Reopen(Survival::kSynced);
        fs.CrashAt(n);
        const absl::Status written = fs.WriteAtomically("f", "a new text");
        const bool crashed = fs.crashed();
        EXPECT_EQ(written.ok(), !crashed);
        fs.Reopen(survival, seed);
        const auto content = fs.ReadAll("f");
        ASSERT_TRUE(content.ok()) << content.status() << " n " << n << " seed " << seed;
        if (crashed) {
          EXPECT_TRUE(*content == "the old text" || *content == "a new text") << *content << " n " << n << " seed " << seed;
          seen.insert(*content);
        } else {
          EXPECT_EQ(*content, "a new text");
          break;
        }
      }
    }
  }
  EXPECT_EQ(kill_points, 52 * 6);  // open, write, sync, close, rename, sync of the folder
  EXPECT_EQ(seen.size(), 2u);
}

// The model must be able to convict: without the sync of the content the same search finds a torn file.
TEST(FaultFileSystemTest, FindsTheMissingSync) {
  std::set<std::string> found;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    FaultFileSystem fs;
    Put(fs, "f.tmp", "a new text");
    ASSERT_TRUE(fs.Rename("f.tmp", "f").ok());
    ASSERT_TRUE(fs.SyncDir("/").ok());
    fs.Reopen(Survival::kChance, seed);
    found.insert(*fs.ReadAll("f"));
  }
  EXPECT_TRUE(found.contains(""));
  EXPECT_TRUE(found.contains("a new text"));
  EXPECT_TRUE(found.contains("a new"));
  EXPECT_TRUE(found.contains(std::string("a ne\0\0\0\0\0\0", 10)));
}

TEST(FaultFileSystemTest, ErrorsLeaveTheOldFileInPlace) {
  for (int64_t n = 0; n < 5; ++n) {
    FaultFileSystem fs;
    ASSERT_TRUE(fs.WriteAtomically("f", "old").ok());
    fs.FailOperations(fs.operations() + n, 1, ENOSPC);
    EXPECT_EQ(fs.WriteAtomically("f", "new").code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(*fs.ReadAll("f"), "old") << n;
    EXPECT_EQ(*fs.ListDir("/"), (Names{"f"})) << n;
  }
}

}  // namespace
}  // namespace conclave
