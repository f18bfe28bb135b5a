// SharedContext: keys, values and tokens of all sequences on every rank of a group, so that a token may go on anywhere.
#ifndef CONCLAVE_TRAINER_SHARED_CONTEXT_H_
#define CONCLAVE_TRAINER_SHARED_CONTEXT_H_

#include <span>
#include <vector>

#include "comm/communicator.h"
#include "models/kv_cache.h"

namespace conclave {

// Every call is collective on the group, with equal arguments where not said otherwise.
class SharedContext {
 public:
  // The cache has the same slots on every rank. Both must outlive it.
  SharedContext(Communicator* group, KvCache* cache) : group_(group), cache_(cache) {}

  // Slots that one member knows so far, `tokens` of them each: all members receive their keys and values of all layers.
  struct Prompt {
    int slot = 0, holder = 0;
    int64_t tokens = 0;
  };
  absl::Status SharePrompts(std::span<const Prompt> prompts);

  // Each of `slots` has one new token. visited: u8 [layers, slots of the cache], 1 where this rank computed its keys and values; every
  // (layer, slot of `slots`) was visited by exactly one rank. Cost: an all-gather of one bit each, then the keys and values.
  absl::Status ShareStep(std::span<const int> slots, std::span<const uint8_t> visited);

  // tokens: by slot; -1 but on one rank, which is returned in `at`. All know them after.
  absl::Status ShareTokens(std::span<int32_t> tokens, std::span<int> at);

 private:
  // parts[r]: what member r has and the others need.
  absl::Status Exchange(std::span<const std::vector<KvCache::Part>> parts);

  Communicator* group_;
  KvCache* cache_;
};

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_SHARED_CONTEXT_H_
