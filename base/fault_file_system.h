// A file system in memory whose operations fail, or stop for good, exactly where a test says.
#ifndef CONCLAVE_BASE_FAULT_FILE_SYSTEM_H_
#define CONCLAVE_BASE_FAULT_FILE_SYSTEM_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/file_system.h"
#include "base/memory_disk.h"

namespace conclave {

// To visit every kill point of `work`:
//
//   for (int64_t n = 0;; ++n) {
//     FaultFileSystem fs;
//     fs.CrashAt(n);
//     work(fs).IgnoreError();
//     const bool done = !fs.crashed();
//     fs.Reopen(Survival::kSynced);
//     ... check what is left ...
//     if (done) break;
//   }
//
// Operations that change something (open for writing, write, sync, close, rename, directory sync, removal, creation, truncate) and reads
// (open for reading, read, list, kind, sizes) are counted apart, each from 0. A write that fails or crashes has written the first half of
// its bytes. Thread-safe. The disk starts empty; "/x" and "x" are the same path.
class FaultFileSystem final : public FileSystem {
 public:
  explicit FaultFileSystem(int64_t capacity_bytes = int64_t{1} << 40);
  ~FaultFileSystem() override;

  // Changing operations and reads begun since construction or the last Reopen.
  int64_t operations() const;
  int64_t reads() const;
  // Changing operations first .. first + count - 1 fail with `error_number` (ENOSPC, EACCES, EIO, ...). Likewise reads.
  void FailOperations(int64_t first, int64_t count, int error_number);
  void FailReads(int64_t first, int64_t count, int error_number);
  // Operation n does not happen, and from then on every operation and read fails with Aborted.
  void CrashAt(int64_t n);
  bool crashed() const;
  // Starts anew on what is left of the disk; faults and counts are cleared, open files are dead. May be called without a crash.
  void Reopen(Survival survival, uint64_t seed = 0);

  absl::StatusOr<std::unique_ptr<WritableFile>> OpenForWrite(const std::string& path, WriteMode mode) const override;
  absl::StatusOr<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path) const override;
  absl::Status Rename(const std::string& from, const std::string& to) const override;
  absl::Status SyncDir(const std::string& path) const override;
  absl::Status RemoveFile(const std::string& path) const override;
  absl::Status RemoveDir(const std::string& path) const override;
  absl::Status CreateDir(const std::string& path) const override;
  absl::Status Truncate(const std::string& path, int64_t size) const override;
  absl::StatusOr<std::vector<std::string>> ListDir(const std::string& path) const override;
  absl::StatusOr<FileKind> Kind(const std::string& path) const override;
  absl::StatusOr<int64_t> FileSize(const std::string& path) const override;
  absl::StatusOr<int64_t> FreeBytes(const std::string& path) const override;

  struct State;  // shared with the open files

 private:
  std::shared_ptr<State> state_;
};

}  // namespace conclave

#endif  // CONCLAVE_BASE_FAULT_FILE_SYSTEM_H_
