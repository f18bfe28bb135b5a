#include "trainer/expert_memory.h"

#include <algorithm>
#include <map>

namespace conclave {

absl::Status ExpertMemory::Move(const Layout& layout, const StateDict& state) {
  const ParameterSet& parameters = layout.parameters();
  std::map<std::pair<int, int>, std::vector<BlockId>> experts;  // by layer and expert
  for (const BlockId id : layout.local_blocks()) {
    const BlockSpec& spec = parameters[id];
    if (spec.of_mixture()) experts[{spec.moe_layer, spec.expert}].push_back(id);
  }
  ranges_.resize(parameters.size());
  weights_.resize(parameters.size());
  std::vector<PagedMemory::Range> all;
  for (const StateEntry& entry : state.entries()) {
    const size_t slash = entry.name.find('/');
    const BlockId id = parameters.Find(std::string_view(entry.name).substr(slash == std::string::npos ? 0 : slash + 1));
    if (id.value < 0 || !parameters[id].of_mixture()) continue;
    const PagedMemory::Range range = entry.data.AsBytes();
    if (entry.name.starts_with("model/")) weights_[id.value] = range;
    ranges_[id.value].push_back(range);
    all.push_back(range);
  }
  ASSIGN_OR_RETURN(paged_, PagedMemory::Create(folder_, std::move(all)));
  entry_.assign(parameters.size(), -1);
  for (const auto& [key, blocks] : experts) {
    const int entry = static_cast<int>(experts_.size());
    Held& held = experts_.emplace_back();
    for (const BlockId id : blocks) {
      entry_[id.value] = entry;
      held.blocks.push_back(id);
      held.ranges.insert(held.ranges.end(), ranges_[id.value].begin(), ranges_[id.value].end());
    }
    used_.resize(std::max<size_t>(used_.size(), key.first + 1));
  }
  for (std::vector<int>& used : used_) used.reserve(experts_.size());
  passing_.reserve(experts_.size());
  const int entries = static_cast<int>(experts_.size());
  cache_ =
      std::make_unique<ExpertCache>(ExpertCache::Options{.entries = entries,
                                                         .room = static_cast<int>(std::min<int64_t>(entries, config_.resident_experts())),
                                                         .threshold = config_.threshold(),
                                                         .decay = config_.decay(),
                                                         .decay_every = config_.decay_every(),
                                                         .write_back_every = config_.write_back_every()});
  Trim();
  return absl::OkStatus();
}

int64_t ExpertMemory::cached_bytes() const {
  if (paged_ == nullptr || experts_.empty()) return 0;
  return paged_->bytes() / static_cast<int64_t>(experts_.size()) * cache_->options().room;
}

void ExpertMemory::Leave(int entry) {
  for (const PagedMemory::Range& range : experts_[entry].ranges) paged_->Release(range);
}

void ExpertMemory::Follow(ExpertCache::Events events) {
  for (const CacheEvent& event : events) {
    const Held& expert = experts_[event.entry];
    switch (event.kind) {
      case CacheEvent::Kind::kHit:
        ++counts_.hits;
        break;
      case CacheEvent::Kind::kFetch:
        ++counts_.fetched;
        for (const PagedMemory::Range& range : expert.ranges) paged_->Prefetch(range);
        break;
      case CacheEvent::Kind::kBypass:
        ++counts_.uncached;
        if (std::ranges::find(passing_, event.entry) == passing_.end()) passing_.push_back(event.entry);
        break;
      case CacheEvent::Kind::kWriteBack:
        ++counts_.written;
        for (const PagedMemory::Range& range : expert.ranges) paged_->WriteBack(range);
        break;
      case CacheEvent::Kind::kEvict:
        Leave(event.entry);
        break;
    }
  }
}

void ExpertMemory::Use(int layer, std::span<const BlockId> experts) {
  if (paged_ == nullptr) return;
  if (layer != layer_ || used_.size() == 1) {  // a layer that is the only one has begun anew
    for (const int entry : passing_) {
      if (!cache_->cached(entry)) Leave(entry);
    }
    passing_.clear();
    layer_ = layer;
  }
  std::vector<int>& used = used_[layer];
  used.clear();
  for (const BlockId id : experts) {
    used.push_back(EntryOf(id));
    Follow(cache_->Access(used.back()));
  }
  // The disk reads while this layer computes.
  for (const int next : used_[(layer + 1) % static_cast<int>(used_.size())]) {
    if (cache_->cached(next)) continue;
    for (const BlockId id : experts_[next].blocks) paged_->Prefetch(weights_[id.value]);
  }
}

void ExpertMemory::Done(BlockId block) {
  const int entry = EntryOf(block);
  if (entry < 0 || cache_->cached(entry)) return;
  for (const PagedMemory::Range& range : ranges_[block.value]) paged_->Release(range);
}

void ExpertMemory::Updated(BlockId block) {
  const int entry = EntryOf(block);
  if (entry < 0) return;
  if (cache_->cached(entry)) return cache_->MarkDirty(entry);
  for (const PagedMemory::Range& range : ranges_[block.value]) {
    paged_->WriteBack(range);
    paged_->Release(range);
  }
}

void ExpertMemory::EndStep() {
  if (paged_ != nullptr) Follow(cache_->EndStep());
}

void ExpertMemory::Trim() {
  for (int entry = 0; paged_ != nullptr && entry < static_cast<int>(experts_.size()); ++entry) {
    if (!cache_->cached(entry)) Leave(entry);
  }
}

}  // namespace conclave
