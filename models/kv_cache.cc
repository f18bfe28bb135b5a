#include "models/kv_cache.h"

#include <cstring>

namespace conclave {

KvCache::KvCache(const Options& options)
    : options_(options),
      memory_({options.shape.layers, options.slots, options.capacity, options.shape.row}, options.dtype),
      length_(options.slots, 0) {}

void KvCache::Begin(std::span<const int> slots) {
  begun_.assign(slots.begin(), slots.end());
  first_.clear();
  views_.clear();
  for (const int slot : slots) first_.push_back(length_[slot]);
  const Tensor all = memory_->Reshape({options_.shape.layers * options_.slots, options_.capacity, options_.shape.row});
  for (int layer = 0; layer < options_.shape.layers; ++layer) {
    for (const int slot : slots) {
      views_.push_back(all.Slice(int64_t{layer} * options_.slots + slot, 1).Reshape({options_.capacity, options_.shape.row}));
    }
  }
}

void KvCache::Commit(int64_t added) {
  for (const int slot : begun_) length_[slot] += added;
}

std::byte* KvCache::FirstRow(const Part& part) const {
  const int64_t row = (int64_t{part.layer} * options_.slots + part.slot) * options_.capacity + part.begin;
  return static_cast<std::byte*>(memory_->raw()) + row * row_bytes();
}

void KvCache::Pack(const Part& part, std::byte* to) const { std::memcpy(to, FirstRow(part), part.count * row_bytes()); }

void KvCache::Unpack(const Part& part, const std::byte* from) {
  CHECK_LE(part.begin + part.count, options_.capacity);
  std::memcpy(FirstRow(part), from, part.count * row_bytes());
}

int64_t KvCache::BytesOf(const Options& options) {
  return options.shape.layers * options.shape.row * options.slots * options.capacity * SizeOf(options.dtype);
}

std::span<const Tensor> KvCache::rows(int layer) const { return std::span(views_).subspan(layer * begun_.size(), begun_.size()); }

}  // namespace conclave
