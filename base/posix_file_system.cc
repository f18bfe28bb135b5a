// RealFileSystem: the POSIX implementation of FileSystem.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/file_system.h"

namespace conclave {
namespace {

// Calls again while a signal interrupts. Not for close: Linux has released the descriptor even then.
template <typename Call>
auto Retry(Call call) {
  auto result = call();
  while (result == -1 && errno == EINTR) result = call();
  return result;
}

class PosixWritableFile final : public WritableFile {
 public:
  PosixWritableFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  ~PosixWritableFile() override {
    if (fd_ >= 0) close(fd_);
  }
  using WritableFile::Write;

  absl::Status Write(std::span<const std::byte> data) override {
    while (!data.empty()) {
      const ssize_t n = Retry([&] { return write(fd_, data.data(), data.size()); });
      if (n < 0) return FileError("write", path_, errno);
      data = data.subspan(static_cast<size_t>(n));
    }
    return absl::OkStatus();
  }

  absl::Status Sync() override {
    if (Retry([&] { return fsync(fd_); }) != 0) return FileError("fsync", path_, errno);
    return absl::OkStatus();
  }

  absl::Status Close() override {
    const int fd = std::exchange(fd_, -1);
    if (close(fd) != 0 && errno != EINTR) return FileError("close", path_, errno);
    return absl::OkStatus();
  }

 private:
  const std::string path_;
  int fd_;
};

class PosixReadableFile final : public ReadableFile {
 public:
  PosixReadableFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  ~PosixReadableFile() override { close(fd_); }

  absl::Status Read(int64_t offset, std::span<std::byte> out) const override {
    const int64_t begin = offset, wanted = static_cast<int64_t>(out.size());
    while (!out.empty()) {
      const ssize_t n = Retry([&] { return pread(fd_, out.data(), out.size(), offset); });
      if (n < 0) return FileError("read", path_, errno);
      if (n == 0) {
        return absl::OutOfRangeError(
            absl::StrFormat("cannot read '%s': the file ends at byte %d, expected %d bytes from byte %d", path_, offset, wanted, begin));
      }
      offset += n;
      out = out.subspan(static_cast<size_t>(n));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<int64_t> Size() const override {
    struct stat info;
    if (fstat(fd_, &info) != 0) return FileError("stat", path_, errno);
    return static_cast<int64_t>(info.st_size);
  }

 private:
  const std::string path_;
  const int fd_;
};

class PosixFileSystem final : public FileSystem {
 public:
  absl::StatusOr<std::unique_ptr<WritableFile>> OpenForWrite(const std::string& path, WriteMode mode) const override {
    const int flags = mode == WriteMode::kTruncate ? O_TRUNC : mode == WriteMode::kAppend ? O_APPEND : O_EXCL;
    const int fd = Retry([&] { return open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0666); });
    if (fd < 0) return FileError("open for writing", path, errno);
    return std::make_unique<PosixWritableFile>(path, fd);
  }

  absl::StatusOr<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path) const override {
    const int fd = Retry([&] { return open(path.c_str(), O_RDONLY | O_CLOEXEC); });
    if (fd < 0) return FileError("open for reading", path, errno);
    auto file = std::make_unique<PosixReadableFile>(path, fd);
    struct stat info;
    if (fstat(fd, &info) == 0 && S_ISDIR(info.st_mode)) return FileError("open for reading", path, EISDIR);
    return file;
  }

  absl::Status Rename(const std::string& from, const std::string& to) const override {
    // The system would replace a device or a pipe as readily as a file, and every later use of its name would meet the file.
    struct stat there;
    if (stat(to.c_str(), &there) == 0 && !S_ISREG(there.st_mode) && !S_ISDIR(there.st_mode)) {
      return FailedPrecondition("cannot rename '%s' to '%s': a device, a pipe or a socket has that name; name a file", from, to);
    }
    if (rename(from.c_str(), to.c_str()) != 0) return FileError("rename", absl::StrFormat("%s' to '%s", from, to), errno);
    return absl::OkStatus();
  }

  absl::Status SyncDir(const std::string& path) const override {
    const int fd = Retry([&] { return open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
    if (fd < 0) return FileError("open directory", path, errno);
    const bool failed = Retry([&] { return fsync(fd); }) != 0;
    const int reason = errno;
    close(fd);
    return failed ? FileError("fsync directory", path, reason) : absl::OkStatus();
  }

  absl::Status RemoveFile(const std::string& path) const override {
    return unlink(path.c_str()) == 0 ? absl::OkStatus() : FileError("remove", path, errno);
  }

  absl::Status RemoveDir(const std::string& path) const override {
    return rmdir(path.c_str()) == 0 ? absl::OkStatus() : FileError("remove directory", path, errno);
  }

  absl::Status CreateDir(const std::string& path) const override {
    return mkdir(path.c_str(), 0777) == 0 ? absl::OkStatus() : FileError("create directory", path, errno);
  }

  absl::Status Truncate(const std::string& path, int64_t size) const override {
    if (Retry([&] { return truncate(path.c_str(), size); }) != 0) return FileError("truncate", path, errno);
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<std::string>> ListDir(const std::string& path) const override {
    DIR* dir = opendir(path.c_str());
    if (dir == nullptr) return FileError("list directory", path, errno);
    std::vector<std::string> names;
    errno = 0;
    while (const dirent* entry = readdir(dir)) {
      const std::string_view name = entry->d_name;
      if (name != "." && name != "..") names.emplace_back(name);
    }
    const int reason = errno;
    closedir(dir);
    if (reason != 0) return FileError("list directory", path, reason);
    std::sort(names.begin(), names.end());
    return names;
  }

  absl::StatusOr<FileKind> Kind(const std::string& path) const override {
    struct stat info;
    if (stat(path.c_str(), &info) == 0) return S_ISDIR(info.st_mode) ? FileKind::kDirectory : FileKind::kFile;
    if (errno == ENOENT || errno == ENOTDIR) return FileKind::kMissing;
    return FileError("stat", path, errno);
  }

  absl::StatusOr<int64_t> FileSize(const std::string& path) const override {
    struct stat info;
    if (stat(path.c_str(), &info) != 0) return FileError("stat", path, errno);
    if (S_ISDIR(info.st_mode)) return FileError("measure file", path, EISDIR);
    return static_cast<int64_t>(info.st_size);
  }

  absl::StatusOr<int64_t> FreeBytes(const std::string& path) const override {
    struct statvfs info;
    if (Retry([&] { return statvfs(path.c_str(), &info); }) != 0) return FileError("query free space of", path, errno);
    return static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
  }
};

}  // namespace

const FileSystem& RealFileSystem() {
  static const PosixFileSystem* const file_system = new PosixFileSystem;  // never destroyed: usable until the last line of the process
  return *file_system;
}

}  // namespace conclave
