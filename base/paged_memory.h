// PagedMemory: memory whose contents are in a file, so that a process need not hold all of it at once.
#ifndef CONCLAVE_BASE_PAGED_MEMORY_H_
#define CONCLAVE_BASE_PAGED_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"

namespace conclave {

// Addresses and contents stay what they were: reading what is not in memory fetches it, so no result can depend on what was fetched when.
// The file has no name and is gone with the process, however that ends. Calls about disjoint ranges may come from several threads; a range
// may reach beyond what was moved, which is left alone, as are the pages at its ends that it shares with others.
class PagedMemory {
 public:
  using Range = std::span<std::byte>;

  // Moves the whole pages of `ranges`, and what lies between ranges less than a page apart, into a new file in `folder`, all of whose
  // blocks are taken at once: later the disk cannot run full. The memory must outlive the object and is not to be moved twice. Errors:
  // ResourceExhausted with the file, the bytes needed and the bytes free (or the limit of a file's size), in which case memory is what it
  // was; those of the folder.
  static absl::StatusOr<std::unique_ptr<PagedMemory>> Create(const std::string& folder, std::vector<Range> ranges);
  ~PagedMemory();
  PagedMemory(const PagedMemory&) = delete;
  PagedMemory& operator=(const PagedMemory&) = delete;

  int64_t bytes() const { return bytes_; }  // of the file
  // Starts reading; does not wait.
  void Prefetch(Range range) const;
  // What was written to the range goes to the disk; waits for it. A failing disk shows when the memory is read again.
  void WriteBack(Range range) const;
  // The range leaves the process's memory, and the system's too where it was written back.
  void Release(Range range) const;

 private:
  struct Segment {
    std::byte* memory = nullptr;
    int64_t bytes = 0, offset = 0;  // offset: in the file
  };
  PagedMemory(int file, int64_t page) : file_(file), page_(page) {}
  absl::Status Move(const Segment& segment, const std::string& path);
  // visit(memory, offset, bytes) for the whole pages of the range in every segment.
  template <typename Visit>
  void ForPages(Range range, const Visit& visit) const;

  int file_;
  int64_t page_;
  int64_t bytes_ = 0;
  std::vector<Segment> segments_;  // ascending
};

// Bytes of this process in memory now.
int64_t ResidentBytes();

}  // namespace conclave

#endif  // CONCLAVE_BASE_PAGED_MEMORY_H_
