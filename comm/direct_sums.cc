#include "comm/direct_sums.h"

#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <new>
#include <random>

#include "base/check.h"

namespace conclave {

int64_t DirectSums::Bytes(int members) { return members * static_cast<int64_t>(sizeof(Seat)); }

void DirectSums::Prepare(std::byte* memory, int members) {
  for (int m = 0; m < members; ++m) new (memory + m * sizeof(Seat)) Seat;
}

DirectSums::DirectSums(std::byte* memory, int member, int members)
    : seats_(std::launder(reinterpret_cast<Seat*>(memory))), member_(member), members_(members), taken_(static_cast<size_t>(members)) {
  std::random_device random;
  mark_ = (uint64_t{random()} << 32) | random();
  seat(member).process = getpid();
  seat(member).mark_address = reinterpret_cast<uintptr_t>(&mark_);
  seat(member).mark = mark_;
}

bool DirectSums::CanRead() const {
  for (int r = 0; r < members_; ++r) {
    uint64_t mark = 0;
    const std::span<std::byte> to(reinterpret_cast<std::byte*>(&mark), sizeof(mark));
    if (r != member_ && (!Read(r, seat(r).mark_address, to).ok() || mark != seat(r).mark)) return false;
  }
  return true;
}

absl::Status DirectSums::Read(int from, uint64_t address, std::span<std::byte> to) const {
  while (!to.empty()) {
    const iovec here{to.data(), to.size()}, there{reinterpret_cast<void*>(static_cast<uintptr_t>(address)), to.size()};
    const ssize_t bytes = process_vm_readv(static_cast<pid_t>(seat(from).process), &here, 1, &there, 1, 0);
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes <= 0) {
      return Unavailable("memory of member %d (process %d) cannot be read: %s", from, seat(from).process,
                         bytes < 0 ? std::strerror(errno) : "nothing is there");
    }
    to = to.subspan(static_cast<size_t>(bytes));
    address += static_cast<uint64_t>(bytes);
  }
  return absl::OkStatus();
}

void DirectSums::Begin(const SumPieces& sum, int tag) {
  CHECK(!open_ || dropped_);
  before_ += sum_.vector.defined() ? sum_.count() : 0;
  sum_ = sum;
  tag_ = tag;
  ++number_;
  summed_ = 0;
  std::fill(taken_.begin(), taken_.end(), 0);
  if (contributions_.bytes() == 0) contributions_ = Buffer(Chunks().stride() * members_);
  open_ = true;
  if (dropped_) return;
  Seat& mine = seat(member_);
  mine.address = reinterpret_cast<uintptr_t>(sum.vector.raw());
  mine.bytes = sum.vector.bytes();
  mine.tag = tag;
  mine.opened.store(number_, std::memory_order_release);
}

absl::StatusOr<bool> DirectSums::AllOpened() const {
  for (int r = 0; r < members_; ++r) {
    const Seat& other = seat(r);
    // Nobody opens the next sum before all are done with this one.
    if (other.opened.load(std::memory_order_acquire) < number_ || other.tag != tag_) return false;
    if (other.bytes != sum_.vector.bytes()) {
      return absl::InternalError(
          absl::StrFormat("sum of members %d and %d: expected %d bytes, got %d", member_, r, sum_.vector.bytes(), other.bytes));
    }
  }
  return true;
}

uint64_t DirectSums::AddressAt(int from, std::span<const std::byte> part) const {
  return seat(from).address + static_cast<uint64_t>(part.data() - sum_.vector.AsBytes().data());
}

// In chunks, so that contributions are added while they are in the cache, and the memory they take stays there.
absl::Status DirectSums::AddParts() {
  const std::span<std::byte> part = sum_.Part(summed_, member_);
  const SumPieces chunks = Chunks();
  const size_t chunk = static_cast<size_t>(chunks.bytes / members_ / kLine * kLine);
  for (size_t at = 0; at < part.size(); at += chunk) {
    const std::span<std::byte> mine = part.subspan(at, std::min(chunk, part.size() - at));
    for (int hop = 1; hop < members_; ++hop) {
      const int from = (member_ + hop) % members_;
      RETURN_IF_ERROR(Read(from, AddressAt(from, mine), {contributions_.data() + from * chunks.stride(), mine.size()}));
    }
    chunks.Add(member_, contributions_.data(), mine);
  }
  seat(member_).summed.store(before_ + ++summed_, std::memory_order_release);
  return absl::OkStatus();
}

// A sum overwrites this member's contribution to it, which its owner has read by then.
absl::Status DirectSums::TakeSums() {
  for (int hop = 1; hop < members_; ++hop) {
    const int from = (member_ + hop) % members_;
    int64_t& taken = taken_[static_cast<size_t>(from)];
    const int64_t ready = std::min(seat(from).summed.load(std::memory_order_acquire) - before_, sum_.count());
    for (; taken < ready; ++taken) {
      const std::span<std::byte> part = sum_.Part(taken, from);
      RETURN_IF_ERROR(Read(from, AddressAt(from, part), part));
      moved_ = true;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> DirectSums::Advance() {
  moved_ = false;
  if (dropped_) return false;
  Seat& mine = seat(member_);
  if (mine.done.load(std::memory_order_relaxed) < number_) {
    ASSIGN_OR_RETURN(const bool opened, AllOpened());
    if (!opened) return false;
    while (summed_ < sum_.count()) {
      RETURN_IF_ERROR(AddParts());
      moved_ = true;
      RETURN_IF_ERROR(TakeSums());  // while they are in the cache
    }
    RETURN_IF_ERROR(TakeSums());
    for (int r = 0; r < members_; ++r) {
      if (r != member_ && taken_[static_cast<size_t>(r)] < sum_.count()) return false;
    }
    mine.done.store(number_, std::memory_order_release);
  }
  for (int r = 0; r < members_; ++r) {
    if (seat(r).done.load(std::memory_order_acquire) < number_) return false;
  }
  open_ = false;
  moved_ = true;
  return true;
}

}  // namespace conclave
