#include "tensor/arena.h"

#include <algorithm>

namespace conclave {
namespace {

constexpr int64_t kFirstChunk = int64_t{1} << 20;

}  // namespace

Arena::Arena(int64_t reserve_bytes) {
  if (reserve_bytes > 0) Reserve(reserve_bytes);
}

void Arena::Reserve(int64_t bytes) {
  chunks_.clear();
  chunks_.push_back(Buffer::Uncleared(bytes));
  Reset();
  peak_ = 0;
}

int64_t Arena::reserved_bytes() const {
  int64_t total = 0;
  for (const Buffer& chunk : chunks_) total += chunk.bytes();
  return total;
}

void* Arena::Allocate(int64_t bytes) {
  const int64_t rounded = std::max<int64_t>(64, (bytes + 63) / 64 * 64);
  while (chunk_ < chunks_.size() && offset_ + rounded > chunks_[chunk_].bytes()) {
    ++chunk_;
    offset_ = 0;
  }
  if (chunk_ == chunks_.size()) chunks_.push_back(Buffer::Uncleared(std::max({rounded, kFirstChunk, used_ / 2})));
  void* result = chunks_[chunk_].data() + offset_;
  offset_ += rounded;
  used_ += rounded;
  peak_ = std::max(peak_, used_);
  return result;
}

Tensor Arena::NewZeroed(const Shape& shape, DType dtype) {
  const Tensor t = New(shape, dtype);
  t.Zero();
  return t;
}

void Arena::Reset() {
  if (chunks_.size() > 1) {
    const int64_t total = reserved_bytes();
    chunks_.clear();
    chunks_.push_back(Buffer::Uncleared(total));
  }
  chunk_ = 0;
  offset_ = used_ = 0;
}

void Arena::Rewind(const Mark& mark) {
  chunk_ = mark.chunk;
  offset_ = mark.offset;
  used_ = mark.used;
}

}  // namespace conclave
