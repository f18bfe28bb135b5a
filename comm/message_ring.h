// A stream of bytes from one process or thread to another through memory that both see, without locks: one side writes, one reads.
#ifndef CONCLAVE_COMM_MESSAGE_RING_H_
#define CONCLAVE_COMM_MESSAGE_RING_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace conclave {

inline constexpr int64_t kRingLine = 64;  // a line of the cache

// Bytes since the ring was made; neither count ever goes back. Each has one writer, on a line of its own.
struct RingCounts {
  // By the writer: a release after its bytes, which the reader acquires before it looks at them.
  alignas(kRingLine) std::atomic<int64_t> written = 0;
  // By the reader: a release after its copies, which the writer acquires before it writes in their place.
  alignas(kRingLine) std::atomic<int64_t> read = 0;
};
static_assert(std::atomic<int64_t>::is_always_lock_free, "counts are shared between processes");

// Byte number i of the stream lies at i % capacity. What is put or taken may be cut in two by the end of the memory.
class RingWriter {
 public:
  RingWriter(RingCounts* counts, std::byte* data, int64_t capacity) : counts_(counts), data_(data), capacity_(capacity) {}

  // Bytes that may be put now. Looks at the reader's count where less than `wanted` is known to be free.
  int64_t Room(int64_t wanted) {
    if (capacity_ - (written_ - read_) < wanted) read_ = counts_->read.load(std::memory_order_acquire);
    return capacity_ - (written_ - read_);
  }
  void Put(const void* from, int64_t bytes) {  // bytes <= Room
    const int64_t at = written_ % capacity_, first = std::min(bytes, capacity_ - at);
    std::memcpy(data_ + at, from, static_cast<size_t>(first));
    std::memcpy(data_, static_cast<const std::byte*>(from) + first, static_cast<size_t>(bytes - first));
    written_ += bytes;
  }
  // Goes on to the next line.
  void Align() { written_ = (written_ + kRingLine - 1) / kRingLine * kRingLine; }
  void Publish() { counts_->written.store(written_, std::memory_order_release); }

 private:
  RingCounts* counts_;
  std::byte* data_;
  int64_t capacity_;
  int64_t written_ = 0, read_ = 0;  // read_: as last seen
};

class RingReader {
 public:
  RingReader(RingCounts* counts, const std::byte* data, int64_t capacity) : counts_(counts), data_(data), capacity_(capacity) {}

  // Bytes that may be taken now. Looks at the writer's count where less than `wanted` is known to be there.
  int64_t Ready(int64_t wanted) {
    if (written_ - read_ < wanted) written_ = counts_->written.load(std::memory_order_acquire);
    return written_ - read_;
  }
  void Peek(void* to, int64_t bytes) const {  // bytes <= Ready
    const int64_t at = read_ % capacity_, first = std::min(bytes, capacity_ - at);
    std::memcpy(to, data_ + at, static_cast<size_t>(first));
    std::memcpy(static_cast<std::byte*>(to) + first, data_, static_cast<size_t>(bytes - first));
  }
  void Take(void* to, int64_t bytes) {
    Peek(to, bytes);
    read_ += bytes;
  }
  void Align() { read_ = (read_ + kRingLine - 1) / kRingLine * kRingLine; }
  // Gives what was taken back to the writer.
  void Release() { counts_->read.store(read_, std::memory_order_release); }

 private:
  RingCounts* counts_;
  const std::byte* data_;
  int64_t capacity_;
  int64_t read_ = 0, written_ = 0;  // written_: as last seen
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_MESSAGE_RING_H_
