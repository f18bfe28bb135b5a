#include "models/kv_cache.h"

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

std::span<const Tensor> KvCache::rows(int layer) const { return std::span(views_).subspan(layer * begun_.size(), begun_.size()); }

}  // namespace conclave
