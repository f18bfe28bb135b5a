// All-reduces of long vectors by processes of one node that read each other's memory: no message, no answer, one copy by the kernel.
#ifndef CONCLAVE_COMM_DIRECT_SUMS_H_
#define CONCLAVE_COMM_DIRECT_SUMS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/status.h"
#include "comm/sum_pieces.h"

namespace conclave {

// Every member reads the others' contributions to its part of a piece, adds them up and says so; the others then read the sum. What members
// tell each other stands in memory that all share, as numbers with one writer each that only grow: stored with release after what they tell
// of, read with acquire before it is looked at. One sum at a time, the same ones in the same order on all members, one thread at a time.
class DirectSums {
 public:
  // The shared memory for `members` members; made once, before any is constructed.
  static int64_t Bytes(int members);
  static void Prepare(std::byte* memory, int members);
  // Tells the others where this member's memory is. When all have: whether the system lets it read theirs.
  DirectSums(std::byte* memory, int member, int members);
  bool CanRead() const;

  // Of a vector. A member that adds up its part of much at a time seldom waits for the others.
  static constexpr int64_t kPiece = int64_t{4} << 20;

  // tag: members with another one are out of step and wait for each other. The vector must stay until Advance returns true.
  void Begin(const SumPieces& sum, int tag);
  // Does what can be done now. True: the sum is complete, and nobody reads this member's vector any more. Errors: Unavailable where
  // another's memory cannot be read (it has ended), Internal where its vector has another length.
  absl::StatusOr<bool> Advance();
  // Whether the last Advance did anything.
  bool moved() const { return moved_; }
  // Forgets the sum: nothing is read or written any more, nor in sums to come; the others wait.
  void Drop() { dropped_ = true; }

 private:
  static constexpr int64_t kLine = 64;
  // Contributions to so much of a piece are read before they are added, to an equal part for each member.
  static constexpr int64_t kChunk = int64_t{512} << 10;
  // What a member tells.
  struct Seat {
    alignas(kLine) std::atomic<int64_t> opened = 0;  // number of the sum that the next three are of
    uint64_t address = 0;
    int64_t bytes = 0, tag = 0;
    alignas(kLine) std::atomic<int64_t> summed = 0;  // parts of all sums so far, its own
    alignas(kLine) std::atomic<int64_t> done = 0;    // number of the last sum that it has read all of
    alignas(kLine) int64_t process = 0;
    uint64_t mark_address = 0, mark = 0;  // to try reading
  };

  Seat& seat(int member) const { return seats_[member]; }
  SumPieces Chunks() const { return {.vector = sum_.vector, .op = sum_.op, .members = members_, .bytes = kChunk}; }
  absl::StatusOr<bool> AllOpened() const;
  absl::Status AddParts();
  absl::Status TakeSums();
  absl::Status Read(int from, uint64_t address, std::span<std::byte> to) const;
  uint64_t AddressAt(int from, std::span<const std::byte> part) const;

  Seat* const seats_;
  const int member_, members_;
  uint64_t mark_;
  SumPieces sum_;
  int64_t number_ = 0, tag_ = 0;  // of the sum
  int64_t before_ = 0;            // pieces of earlier sums
  int64_t summed_ = 0;            // own parts of this one
  std::vector<int64_t> taken_;    // by member: parts whose sums are here
  Buffer contributions_;
  bool open_ = false, moved_ = false, dropped_ = false;
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_DIRECT_SUMS_H_
