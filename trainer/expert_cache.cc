#include "trainer/expert_cache.h"

namespace conclave {

ExpertCache::ExpertCache(const Options& options) : options_(options), entries_(options.entries) { events_.reserve(options.entries + 3); }

void ExpertCache::Fetch(int entry) {
  entries_[entry] = {.cached = true, .hits = 1};
  ++held_;
  events_.push_back({CacheEvent::Kind::kFetch, entry});
}

ExpertCache::Events ExpertCache::Access(int entry) {
  events_.clear();
  if (entries_[entry].cached) {
    entries_[entry].hits += 1;
    events_.push_back({CacheEvent::Kind::kHit, entry});
    return events_;
  }
  if (held_ < options_.room) {
    Fetch(entry);
    return events_;
  }
  int victim = -1;
  for (int e = 0; e < options_.entries; ++e) {
    if (entries_[e].cached && (victim < 0 || entries_[e].hits < entries_[victim].hits)) victim = e;
  }
  if (victim < 0 || entries_[victim].hits > options_.threshold) {
    events_.push_back({CacheEvent::Kind::kBypass, entry});
    return events_;
  }
  if (entries_[victim].dirty) events_.push_back({CacheEvent::Kind::kWriteBack, victim});
  events_.push_back({CacheEvent::Kind::kEvict, victim});
  entries_[victim] = {};
  --held_;
  Fetch(entry);
  return events_;
}

ExpertCache::Events ExpertCache::EndStep() {
  events_.clear();
  ++steps_;
  if (options_.decay_every > 0 && steps_ % options_.decay_every == 0) {
    for (Entry& entry : entries_) entry.hits *= options_.decay;
  }
  if (options_.write_back_every == 0 || steps_ % options_.write_back_every != 0) return events_;
  for (int e = 0; e < options_.entries; ++e) {
    if (!entries_[e].cached || !entries_[e].dirty) continue;
    entries_[e].dirty = false;
    events_.push_back({CacheEvent::Kind::kWriteBack, e});
  }
  return events_;
}

}  // namespace conclave
