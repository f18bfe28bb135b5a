// Streams of bits in bytes, least significant bit first, and the Golomb-Rice code of small integers: v >> b in unary, then b bits.
#ifndef CONCLAVE_COMM_BIT_STREAM_H_
#define CONCLAVE_COMM_BIT_STREAM_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace conclave {

// Writes behind `data`; the caller has made room.
class BitWriter {
 public:
  explicit BitWriter(std::byte* data) : data_(data) {}
  // The low `count` bits of `bits` (higher ones zero), count <= 32.
  void Put(uint64_t bits, int count) {
    held_ |= bits << count_;
    count_ += count;
    if (count_ < 32) return;
    const auto word = static_cast<uint32_t>(held_);
    std::memcpy(data_ + bytes_, &word, sizeof(word));
    bytes_ += sizeof(word);
    held_ >>= 32;
    count_ -= 32;
  }
  void PutRice(uint64_t value, int b) {
    uint64_t unary = value >> b;
    const uint64_t rest = value & ((uint64_t{1} << b) - 1);
    if (unary + 1 + static_cast<uint64_t>(b) <= 32) {
      return Put(((uint64_t{1} << unary) - 1) | (rest << (unary + 1)), static_cast<int>(unary) + 1 + b);
    }
    for (; unary >= 32; unary -= 32) Put(0xFFFFFFFF, 32);
    Put((uint64_t{1} << unary) - 1, static_cast<int>(unary) + 1);
    Put(rest, b);
  }
  // Fills the last byte with zeros. Returns the bytes written in all.
  int64_t Finish() {
    for (; count_ > 0; count_ -= 8, held_ >>= 8) data_[bytes_++] = static_cast<std::byte>(held_);
    held_ = 0;
    count_ = 0;
    return bytes_;
  }

 private:
  std::byte* data_;
  int64_t bytes_ = 0;
  uint64_t held_ = 0;
  int count_ = 0;  // bits in held_: below 32 between calls
};

// Behind the end it reads zeros; overran() says so.
class BitReader {
 public:
  explicit BitReader(std::span<const std::byte> data) : data_(data) {}
  uint64_t Get(int count) {  // count <= 32
    Fill();
    const uint64_t bits = held_ & ((uint64_t{1} << count) - 1);
    Drop(count);
    return bits;
  }
  // most: larger values end the stream as an overrun.
  uint64_t GetRice(int b, uint64_t most) {
    uint64_t unary = 0;
    for (;;) {
      Fill();
      const int ones = std::countr_one(held_);
      const int run = ones < count_ ? ones : count_;
      unary += static_cast<uint64_t>(run);
      if (run < count_ || count_ == 0) {
        Drop(run + 1);
        break;
      }
      Drop(run);
      if (unary > (most >> b)) break;
    }
    const uint64_t value = (unary << b) | Get(b);
    if (value > most) overran_ = true;
    return value;
  }
  // The next bits, those behind the end as zeros; at least 32 of them are there. Skip takes some.
  uint64_t Peek() {
    Fill();
    return held_;
  }
  void Skip(int count) { Drop(count); }
  bool overran() const { return overran_; }
  // Bytes taken so far, a started one included.
  int64_t bytes() const { return next_ - count_ / 8; }

 private:
  void Fill() {
    if (count_ <= 32 && next_ + 4 <= static_cast<int64_t>(data_.size())) {
      uint32_t word;
      std::memcpy(&word, data_.data() + next_, sizeof(word));
      held_ |= uint64_t{word} << count_;
      count_ += 32;
      next_ += 4;
      return;
    }
    while (count_ <= 32 && next_ < static_cast<int64_t>(data_.size())) {
      held_ |= std::to_integer<uint64_t>(data_[static_cast<size_t>(next_++)]) << count_;
      count_ += 8;
    }
  }
  void Drop(int count) {
    if (count > count_) {
      overran_ = true;
      held_ = 0;
      count_ = 0;
      return;
    }
    held_ = count < 64 ? held_ >> count : 0;
    count_ -= count;
  }

  std::span<const std::byte> data_;
  int64_t next_ = 0;
  uint64_t held_ = 0;
  int count_ = 0;
  bool overran_ = false;
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_BIT_STREAM_H_
