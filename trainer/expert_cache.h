// ExpertCache: which experts' states stay in memory where not all do. Source: Shen et al., 2022 (SE-MoE), 2D prefetch scheduling; what the
// paper leaves open (first value, ties, what is served uncached, that written entries stay) is chosen here.
#ifndef CONCLAVE_TRAINER_EXPERT_CACHE_H_
#define CONCLAVE_TRAINER_EXPERT_CACHE_H_

#include <cstdint>
#include <span>
#include <vector>

namespace conclave {

struct CacheEvent {
  enum class Kind { kHit, kFetch, kBypass, kWriteBack, kEvict };
  Kind kind = Kind::kHit;
  int entry = 0;
  bool operator==(const CacheEvent&) const = default;
};

// Decides; moves nothing. An entry that is accessed counts a hit if it is cached. Else, while there is room, it is fetched; once there is
// none, the entry with the fewest hits (the lower one among equals) makes room if it has no more than `threshold` of them, and otherwise
// the new one is served without being cached. No allocation after construction.
class ExpertCache {
 public:
  struct Options {
    int entries = 0;
    int room = 0;                  // entries cached at most
    double threshold = 1;          // hits that protect a cached entry
    double decay = 0.5;            // what hits are multiplied with
    int64_t decay_every = 100;     // steps
    int64_t write_back_every = 0;  // steps; 0: entries are written when they leave
  };
  explicit ExpertCache(const Options& options);

  // What the call does, in order; valid until the next call.
  using Events = std::span<const CacheEvent>;
  Events Access(int entry);
  // The states of a cached entry changed.
  void MarkDirty(int entry) { entries_[entry].dirty = true; }
  // A step is over: hits decay when they are due, and what is dirty is written back when that is due; it stays cached.
  Events EndStep();

  bool cached(int entry) const { return entries_[entry].cached; }
  double hits(int entry) const { return entries_[entry].hits; }
  const Options& options() const { return options_; }

 private:
  struct Entry {
    bool cached = false, dirty = false;
    double hits = 0;
  };
  void Fetch(int entry);

  Options options_;
  std::vector<Entry> entries_;
  int held_ = 0;
  int64_t steps_ = 0;
  std::vector<CacheEvent> events_;
};

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_EXPERT_CACHE_H_
