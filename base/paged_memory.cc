#include "base/paged_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>

#include "base/check.h"
#include "base/file_system.h"
#include "base/strings.h"

namespace conclave {
namespace {

std::byte* RoundedTo(std::byte* at, int64_t page, bool up) {
  const auto address = reinterpret_cast<uintptr_t>(at), unit = static_cast<uintptr_t>(page);
  return reinterpret_cast<std::byte*>((address + (up ? unit - 1 : 0)) / unit * unit);
}

absl::Status NoRoom(const std::string& path, int64_t needed, int64_t free, const char* where) {
  return absl::ResourceExhaustedError(
      absl::StrFormat("cannot make '%s': %d bytes (%s) are needed, %d (%s) are free %s; nothing was changed", path, needed,
                      HumanBytes(needed), free, HumanBytes(free), where));
}

// Asked beforehand: growing a file beyond its limit would be a signal, and a full disk would be noticed when it is too late.
absl::Status CheckRoom(int file, const std::string& path, int64_t bytes) {
  rlimit limit{};
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && static_cast<int64_t>(limit.rlim_cur) < bytes) {
    return NoRoom(path, bytes, static_cast<int64_t>(limit.rlim_cur), "under the limit of a file's size (ulimit -f)");
  }
  struct statvfs disk {};
  if (fstatvfs(file, &disk) != 0) return FileError("ask for free space", path, errno);
  const auto free = static_cast<int64_t>(disk.f_bavail * disk.f_frsize);
  if (free < bytes) return NoRoom(path, bytes, free, "on this disk");
  const int error = posix_fallocate(file, 0, bytes);
  if (error == ENOSPC || error == EDQUOT || error == EFBIG) return NoRoom(path, bytes, free, "on this disk, less what others just took");
  return error == 0 ? absl::OkStatus() : FileError("take space for", path, error);
}

absl::Status WriteAt(int file, const std::string& path, std::span<const std::byte> data, int64_t offset) {
  while (!data.empty()) {
    const ssize_t n = pwrite(file, data.data(), data.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return FileError("write", path, n < 0 ? errno : EIO);
    data = data.subspan(static_cast<size_t>(n));
    offset += n;
  }
  return absl::OkStatus();
}

// The whole pages of ranges, ranges that almost touch in one.
std::vector<std::span<std::byte>> WholePages(std::vector<std::span<std::byte>> ranges, int64_t page) {
  std::erase_if(ranges, [](const auto& range) { return range.empty(); });
  std::ranges::sort(ranges, {}, [](const auto& range) { return range.data(); });
  std::vector<std::span<std::byte>> joined;
  for (const auto& range : ranges) {
    std::byte* const end = range.data() + range.size();
    if (!joined.empty() && range.data() - (joined.back().data() + joined.back().size()) < page) {
      joined.back() = {joined.back().data(), std::max(end, joined.back().data() + joined.back().size())};
    } else {
      joined.push_back(range);
    }
  }
  for (auto& range : joined) {
    std::byte* const first = RoundedTo(range.data(), page, true);
    std::byte* const end = RoundedTo(range.data() + range.size(), page, false);
    range = {first, static_cast<size_t>(std::max<int64_t>(end - first, 0))};
  }
  std::erase_if(joined, [](const auto& range) { return range.empty(); });
  return joined;
}

}  // namespace

absl::StatusOr<std::unique_ptr<PagedMemory>> PagedMemory::Create(const std::string& folder, std::vector<Range> ranges) {
  RETURN_IF_ERROR(RealFileSystem().CreateDirs(folder));
  std::string path = JoinPath(folder, "paged-XXXXXX");
  const int file = mkostemp(path.data(), O_CLOEXEC);
  if (file < 0) return FileError("make", path, errno);
  unlink(path.c_str());
  std::unique_ptr<PagedMemory> paged(new PagedMemory(file, sysconf(_SC_PAGESIZE)));
  for (const Range& range : WholePages(std::move(ranges), paged->page_)) {
    paged->segments_.push_back({range.data(), static_cast<int64_t>(range.size()), paged->bytes_});
    paged->bytes_ += static_cast<int64_t>(range.size());
  }
  if (paged->bytes_ == 0) return paged;
  RETURN_IF_ERROR(CheckRoom(file, path, paged->bytes_));
  for (const Segment& segment : paged->segments_) RETURN_IF_ERROR(paged->Move(segment, path));
  return paged;
}

absl::Status PagedMemory::Move(const Segment& segment, const std::string& path) {
  const auto size = static_cast<size_t>(segment.bytes);
  RETURN_IF_ERROR(WriteAt(file_, path, {segment.memory, size}, segment.offset));
  if (mmap(segment.memory, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file_, segment.offset) == MAP_FAILED) {
    return FileError("map", path, errno);
  }
  return absl::OkStatus();
}

PagedMemory::~PagedMemory() { close(file_); }

template <typename Visit>
void PagedMemory::ForPages(Range range, const Visit& visit) const {
  std::byte* const first = RoundedTo(range.data(), page_, true);
  std::byte* const end = RoundedTo(range.data() + range.size(), page_, false);
  const auto ends_after = [&](const Segment& segment) { return segment.memory + segment.bytes > first; };
  for (auto it = std::ranges::find_if(segments_, ends_after); it != segments_.end() && it->memory < end; ++it) {
    std::byte* const from = std::max(first, it->memory);
    std::byte* const to = std::min(end, it->memory + it->bytes);
    if (from < to) visit(from, it->offset + (from - it->memory), static_cast<int64_t>(to - from));
  }
}

void PagedMemory::Prefetch(Range range) const {
  ForPages(range, [](std::byte* memory, int64_t, int64_t bytes) { madvise(memory, static_cast<size_t>(bytes), MADV_WILLNEED); });
}

void PagedMemory::WriteBack(Range range) const {
  ForPages(range, [this](std::byte* memory, int64_t offset, int64_t bytes) {
    madvise(memory, static_cast<size_t>(bytes), MADV_DONTNEED);  // hands the marks of what was written over to the file
    sync_file_range(file_, offset, bytes, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
  });
}

void PagedMemory::Release(Range range) const {
  ForPages(range, [this](std::byte* memory, int64_t offset, int64_t bytes) {
    madvise(memory, static_cast<size_t>(bytes), MADV_DONTNEED);
    posix_fadvise(file_, offset, bytes, POSIX_FADV_DONTNEED);
  });
}

int64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t size = 0, resident = 0;
  statm >> size >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

}  // namespace conclave
