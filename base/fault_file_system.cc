#include "base/fault_file_system.h"

#include <cerrno>
#include <cstring>
#include <limits>
#include <mutex>

namespace conclave {

struct FaultFileSystem::State {
  struct Fault {
    int64_t first = -1, count = 0;
    int error_number = 0;
    bool Hits(int64_t n) const { return n >= first && n - first < count; }
  };

  explicit State(int64_t capacity_bytes) : disk(capacity_bytes) {}

  // Counts an operation and says whether it may go on. Caller holds `mutex`.
  absl::Status Begin(std::string_view call, const std::string& path) {
    const int64_t n = operations++;
    if (n == crash_at) crashed = true;
    if (crashed) return Stopped(call, path);
    return operation_fault.Hits(n) ? FileError(call, path, operation_fault.error_number) : absl::OkStatus();
  }
  absl::Status BeginRead(std::string_view call, const std::string& path) {
    const int64_t n = reads++;
    if (crashed) return Stopped(call, path);
    return read_fault.Hits(n) ? FileError(call, path, read_fault.error_number) : absl::OkStatus();
  }
  static absl::Status Stopped(std::string_view call, const std::string& path) {
    return absl::AbortedError(absl::StrFormat("cannot %s '%s': the machine has stopped (injected)", call, path));
  }

  std::mutex mutex;
  MemoryDisk disk;
  int64_t operations = 0, reads = 0;
  int64_t generation = 0;  // of open files: those of an earlier one are dead
  int64_t crash_at = -1;
  bool crashed = false;
  Fault operation_fault, read_fault;
};

namespace {

using State = FaultFileSystem::State;

absl::Status FromErrno(std::string_view call, const std::string& path, int error_number) {
  return error_number == 0 ? absl::OkStatus() : FileError(call, path, error_number);
}

// A changing operation on a path: `act(disk)` returns an errno value.
template <typename Act>
absl::Status Change(State& state, std::string_view call, const std::string& path, Act act) {
  const std::lock_guard lock(state.mutex);
  RETURN_IF_ERROR(state.Begin(call, path));
  return FromErrno(call, path, act(state.disk));
}

template <typename Act>
absl::Status Look(State& state, std::string_view call, const std::string& path, Act act) {
  const std::lock_guard lock(state.mutex);
  RETURN_IF_ERROR(state.BeginRead(call, path));
  return FromErrno(call, path, act(state.disk));
}

class FaultWritableFile final : public WritableFile {
 public:
  FaultWritableFile(std::shared_ptr<State> state, std::string path, int64_t inode)
      : state_(std::move(state)), path_(std::move(path)), inode_(inode), generation_(state_->generation) {}
  using WritableFile::Write;

  absl::Status Write(std::span<const std::byte> data) override {
    const std::string_view text(reinterpret_cast<const char*>(data.data()), data.size());
    const std::lock_guard lock(state_->mutex);
    const bool was_crashed = state_->crashed;
    const absl::Status begun = state_->Begin("write", path_);
    if (!alive()) return FileError("write", path_, EBADF);
    if (!begun.ok()) {
      if (!was_crashed) state_->disk.Append(inode_, text.substr(0, text.size() / 2));
      return begun;
    }
    return FromErrno("write", path_, state_->disk.Append(inode_, text));
  }

  absl::Status Sync() override {
    return Change(*state_, "fsync", path_, [&](MemoryDisk& disk) {
      if (!alive()) return EBADF;
      disk.SyncFile(inode_);
      return 0;
    });
  }

  absl::Status Close() override {
    return Change(*state_, "close", path_, [&](MemoryDisk&) { return alive() ? 0 : EBADF; });
  }

 private:
  bool alive() const { return generation_ == state_->generation; }

  const std::shared_ptr<State> state_;
  const std::string path_;
  const int64_t inode_, generation_;
};

class FaultReadableFile final : public ReadableFile {
 public:
  FaultReadableFile(std::shared_ptr<State> state, std::string path, int64_t inode)
      : state_(std::move(state)), path_(std::move(path)), inode_(inode), generation_(state_->generation) {}

  absl::Status Read(int64_t offset, std::span<std::byte> out) const override {
    bool too_short = false;
    int64_t size = 0;
    RETURN_IF_ERROR(Look(*state_, "read", path_, [&](MemoryDisk& disk) {
      if (generation_ != state_->generation) return EBADF;
      const std::string& content = disk.Content(inode_);
      size = static_cast<int64_t>(content.size());
      if (offset < 0) return EINVAL;
      too_short = offset > size || static_cast<int64_t>(out.size()) > size - offset;
      if (!too_short && !out.empty()) std::memcpy(out.data(), content.data() + offset, out.size());
      return 0;
    }));
    if (!too_short) return absl::OkStatus();
    return absl::OutOfRangeError(
        absl::StrFormat("cannot read '%s': the file ends at byte %d, expected %d bytes from byte %d", path_, size, out.size(), offset));
  }

  absl::StatusOr<int64_t> Size() const override {
    int64_t size = 0;
    RETURN_IF_ERROR(Look(*state_, "stat", path_, [&](MemoryDisk& disk) {
      if (generation_ != state_->generation) return EBADF;
      size = static_cast<int64_t>(disk.Content(inode_).size());
      return 0;
    }));
    return size;
  }

 private:
  const std::shared_ptr<State> state_;
  const std::string path_;
  const int64_t inode_, generation_;
};

}  // namespace

FaultFileSystem::FaultFileSystem(int64_t capacity_bytes) : state_(std::make_shared<State>(capacity_bytes)) {}
FaultFileSystem::~FaultFileSystem() = default;

int64_t FaultFileSystem::operations() const {
  const std::lock_guard lock(state_->mutex);
  return state_->operations;
}

int64_t FaultFileSystem::reads() const {
  const std::lock_guard lock(state_->mutex);
  return state_->reads;
}

void FaultFileSystem::FailOperations(int64_t first, int64_t count, int error_number) {
  const std::lock_guard lock(state_->mutex);
  state_->operation_fault = {first, count, error_number};
}

void FaultFileSystem::FailReads(int64_t first, int64_t count, int error_number) {
  const std::lock_guard lock(state_->mutex);
  state_->read_fault = {first, count, error_number};
}

void FaultFileSystem::CrashAt(int64_t n) {
  const std::lock_guard lock(state_->mutex);
  state_->crash_at = n;
}

bool FaultFileSystem::crashed() const {
  const std::lock_guard lock(state_->mutex);
  return state_->crashed;
}

void FaultFileSystem::Reopen(Survival survival, uint64_t seed) {
  const std::lock_guard lock(state_->mutex);
  state_->disk.Stop(survival, seed);
  ++state_->generation;
  state_->operations = state_->reads = 0;
  state_->crash_at = -1;
  state_->crashed = false;
  state_->operation_fault = state_->read_fault = {};
}

absl::StatusOr<std::unique_ptr<WritableFile>> FaultFileSystem::OpenForWrite(const std::string& path, WriteMode mode) const {
  int64_t inode = 0;
  RETURN_IF_ERROR(Change(*state_, "open for writing", path, [&](MemoryDisk& disk) { return disk.OpenForWrite(path, mode, &inode); }));
  return std::make_unique<FaultWritableFile>(state_, path, inode);
}

absl::StatusOr<std::unique_ptr<ReadableFile>> FaultFileSystem::OpenForRead(const std::string& path) const {
  int64_t inode = 0;
  RETURN_IF_ERROR(Look(*state_, "open for reading", path, [&](MemoryDisk& disk) { return disk.OpenForRead(path, &inode); }));
  return std::make_unique<FaultReadableFile>(state_, path, inode);
}

absl::Status FaultFileSystem::Rename(const std::string& from, const std::string& to) const {
  const std::string both = absl::StrFormat("%s' to '%s", from, to);
  return Change(*state_, "rename", both, [&](MemoryDisk& disk) { return disk.Rename(from, to); });
}

absl::Status FaultFileSystem::SyncDir(const std::string& path) const {
  return Change(*state_, "fsync directory", path, [&](MemoryDisk& disk) { return disk.SyncDir(path); });
}

absl::Status FaultFileSystem::RemoveFile(const std::string& path) const {
  return Change(*state_, "remove", path, [&](MemoryDisk& disk) { return disk.RemoveFile(path); });
}

absl::Status FaultFileSystem::RemoveDir(const std::string& path) const {
  return Change(*state_, "remove directory", path, [&](MemoryDisk& disk) { return disk.RemoveDir(path); });
}

absl::Status FaultFileSystem::CreateDir(const std::string& path) const {
  return Change(*state_, "create directory", path, [&](MemoryDisk& disk) { return disk.CreateDir(path); });
}

absl::Status FaultFileSystem::Truncate(const std::string& path, int64_t size) const {
  return Change(*state_, "truncate", path, [&](MemoryDisk& disk) { return disk.Truncate(path, size); });
}

absl::StatusOr<std::vector<std::string>> FaultFileSystem::ListDir(const std::string& path) const {
  std::vector<std::string> names;
  RETURN_IF_ERROR(Look(*state_, "list directory", path, [&](MemoryDisk& disk) { return disk.ListDir(path, &names); }));
  return names;
}

absl::StatusOr<FileKind> FaultFileSystem::Kind(const std::string& path) const {
  FileKind kind = FileKind::kMissing;
  RETURN_IF_ERROR(Look(*state_, "stat", path, [&](MemoryDisk& disk) {
    kind = disk.Kind(path);
    return 0;
  }));
  return kind;
}

absl::StatusOr<int64_t> FaultFileSystem::FileSize(const std::string& path) const {
  int64_t size = 0;
  RETURN_IF_ERROR(Look(*state_, "measure file", path, [&](MemoryDisk& disk) {
    int64_t inode = 0;
    const int error = disk.OpenForRead(path, &inode);
    if (error == 0) size = static_cast<int64_t>(disk.Content(inode).size());
    return error;
  }));
  return size;
}

absl::StatusOr<int64_t> FaultFileSystem::FreeBytes(const std::string& path) const {
  int64_t free_bytes = 0;
  RETURN_IF_ERROR(Look(*state_, "query free space of", path, [&](MemoryDisk& disk) {
    if (disk.Kind(path) == FileKind::kMissing) return ENOENT;
    free_bytes = disk.FreeBytes();
    return 0;
  }));
  return free_bytes;
}

}  // namespace conclave
