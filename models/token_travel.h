// TokenTravel: which sequences' newest tokens are on this rank, while a model records them layer by layer.
#ifndef CONCLAVE_MODELS_TOKEN_TRAVEL_H_
#define CONCLAVE_MODELS_TOKEN_TRAVEL_H_

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "models/kv_cache.h"
#include "parallel/coherent_dispatch.h"

namespace conclave {

// The cache holds every sequence's context on every rank, so that a token may do its attention wherever it is.
class TokenTravel {
 public:
  // Both must outlive it.
  TokenTravel(CoherentDispatch* dispatch, KvCache* cache)
      : dispatch_(dispatch), cache_(cache), visited_(int64_t{cache->layers()} * cache->slots(), 0) {}

  // A pass begins with one new token each of these sequences (slots of the cache).
  void Begin(std::span<const int32_t> sequences) {
    std::fill(visited_.begin(), visited_.end(), uint8_t{0});
    Arrive(sequences);
  }
  // From here on the rows are the tokens of these.
  void Arrive(std::span<const int32_t> sequences) {
    here_.assign(sequences.begin(), sequences.end());
    cache_->Begin(here_);
  }
  // Attention layer `layer` is about to add the keys and values of all tokens here to this rank's cache.
  void Visit(int layer) {
    for (const int slot : here_) visited_[int64_t{layer} * cache_->slots() + slot] = 1;
  }

  CoherentDispatch& dispatch() const { return *dispatch_; }
  std::span<const int32_t> here() const { return here_; }        // by row
  std::span<const uint8_t> visited() const { return visited_; }  // [layers, slots]: 1: this rank has this pass's keys and values

 private:
  CoherentDispatch* dispatch_;
  KvCache* cache_;
  std::vector<int32_t> here_;
  std::vector<uint8_t> visited_;
};

}  // namespace conclave

#endif  // CONCLAVE_MODELS_TOKEN_TRAVEL_H_
