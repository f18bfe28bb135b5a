// Files behind one small interface, so that a test can fail or lose any single operation. Only what checkpoints, logs and shards need.
#ifndef CONCLAVE_BASE_FILE_SYSTEM_H_
#define CONCLAVE_BASE_FILE_SYSTEM_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace conclave {

enum class WriteMode {
  kTruncate,   // create, or empty what is there
  kAppend,     // create, or continue after the last byte
  kCreateNew,  // create; AlreadyExists if the path exists
};

enum class FileKind { kMissing, kFile, kDirectory };

// A file open for writing at its end. Not thread-safe. The destructor closes without syncing; call Close to learn about late errors.
class WritableFile {
 public:
  virtual ~WritableFile() = default;
  // Appends all of `data`. After an error the file may hold a part of it.
  virtual absl::Status Write(std::span<const std::byte> data) = 0;
  // Makes the content durable (fsync). A failed sync must not be repeated as if it could still succeed: the kernel may have dropped the
  // pages. The file's name is durable only after SyncDir of its folder.
  virtual absl::Status Sync() = 0;
  // Closes the file; nothing may be called afterwards. Does not sync.
  virtual absl::Status Close() = 0;

  absl::Status Write(std::string_view text) { return Write(std::as_bytes(std::span(text.data(), text.size()))); }
};

// A file open for reading anywhere in it. Thread-safe.
class ReadableFile {
 public:
  virtual ~ReadableFile() = default;
  // Fills all of `out` from byte `offset`. Errors: OutOfRange where the file ends before offset + out.size().
  virtual absl::Status Read(int64_t offset, std::span<std::byte> out) const = 0;
  // Size in bytes now.
  virtual absl::StatusOr<int64_t> Size() const = 0;
};

// Thread-safe. Methods are const since the object is only a handle to state outside the process. Paths are std::string because system calls
// need a terminating zero. Every error message names the path, the call and the system's reason. Error codes follow
// absl::ErrnoToStatusCode: NotFound, AlreadyExists, PermissionDenied, ResourceExhausted (disk full), FailedPrecondition (directory not
// empty, not a directory, is a directory), ...
class FileSystem {
 public:
  virtual ~FileSystem() = default;

  virtual absl::StatusOr<std::unique_ptr<WritableFile>> OpenForWrite(const std::string& path, WriteMode mode) const = 0;
  virtual absl::StatusOr<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path) const = 0;
  // Atomically gives `from` the name `to`, replacing a file (or an empty directory) of that name. Durable after SyncDir of the parents.
  virtual absl::Status Rename(const std::string& from, const std::string& to) const = 0;
  // Makes the names in directory `path` durable.
  virtual absl::Status SyncDir(const std::string& path) const = 0;
  virtual absl::Status RemoveFile(const std::string& path) const = 0;
  // Removes an empty directory.
  virtual absl::Status RemoveDir(const std::string& path) const = 0;
  // Creates one directory; AlreadyExists if the path exists.
  virtual absl::Status CreateDir(const std::string& path) const = 0;
  // Cuts the file to `size` bytes (or extends it by zeros).
  virtual absl::Status Truncate(const std::string& path, int64_t size) const = 0;
  // Names in the directory, sorted, without "." and "..".
  virtual absl::StatusOr<std::vector<std::string>> ListDir(const std::string& path) const = 0;
  // What the path names, symbolic links followed. Missing is not an error.
  virtual absl::StatusOr<FileKind> Kind(const std::string& path) const = 0;
  virtual absl::StatusOr<int64_t> FileSize(const std::string& path) const = 0;
  // Bytes this process may still write to the file system that holds `path`.
  virtual absl::StatusOr<int64_t> FreeBytes(const std::string& path) const = 0;

  // The rest is built from the operations above.
  bool Exists(const std::string& path) const;
  // Creates the directory and its missing parents, each made durable in its parent. An existing directory is fine.
  absl::Status CreateDirs(const std::string& path) const;
  // Removes a file, a symbolic link (never what it points to) or a directory with all it holds. A missing path is fine.
  absl::Status RemoveTree(const std::string& path) const;
  absl::StatusOr<std::string> ReadAll(const std::string& path) const;
  // Replaces the file by `content` so that at any time, even after a power loss, the path holds all of the old or all of the new content:
  // writes path + ".tmp", syncs it, renames it, syncs the folder. One writer a path. On an error the old content stays (only where the very
  // last step, the folder's sync, failed is the new content already visible, without being durable).
  absl::Status WriteAtomically(const std::string& path, std::string_view content) const;
};

// The operating system's files. Stateless.
const FileSystem& RealFileSystem();

// The status for a failed system call: "cannot write '/a/b': No space left on device (write, errno 28); free some space ...".
absl::Status FileError(std::string_view call, const std::string& path, int error_number);

// "a" + "b" -> "a/b"; an absolute `name` or an empty `folder` gives `name`.
std::string JoinPath(std::string_view folder, std::string_view name);
// The folder that holds the path: "a/b" -> "a", "a" -> ".", "/a" -> "/". Slashes at the end are ignored.
std::string ParentPath(std::string_view path);
// The last part of the path: "a/b/" -> "b".
std::string BaseName(std::string_view path);

}  // namespace conclave

#endif  // CONCLAVE_BASE_FILE_SYSTEM_H_
