// RoutingRecorder: the routing trace of a run while it trains.
#ifndef CONCLAVE_PARALLEL_ROUTING_RECORDER_H_
#define CONCLAVE_PARALLEL_ROUTING_RECORDER_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "parallel/routing_counts.h"
#include "tensor/tensor.h"

namespace conclave {

// What all ranks together saw in a window of steps.
struct RoutingWindow {
  RoutingCounts counts;       // exact, of every token; transitions of slot 0
  std::vector<int32_t> ids;   // [tokens, layers, top_k] of the sample, in logical order (step, leaf, row)
  std::vector<int32_t> leaf;  // [tokens]: the leaf each comes from
  std::vector<int64_t> turn;  // [tokens]: the turn (ExpertPlacement::PlaceOf) in which it ran
  int top_k = 1;
  int64_t tokens() const { return static_cast<int64_t>(leaf.size()); }
};

struct RoutingRecorderOptions {
  int layers = 0, experts = 0;  // every layer has as many
  int64_t sample = 4096;        // tokens kept for the trace
  uint64_t seed = 1;
};

// Watches the first evaluation of a step: counts every token exactly, and keeps a uniform sample without replacement of the window's
// tokens, those with the smallest random priorities. A priority is a function of seed, step, leaf and row, so the sample is the same on any
// number of ranks. It reads what the router chose and changes nothing. Calls within a leaf may repeat a layer (recomputation): the last one
// counts, once. Cost: about 2 ns a token and slot and 20 ns a token. Source: Efraimidis, Spirakis, Information Processing Letters 2006.
class RoutingRecorder {
 public:
  explicit RoutingRecorder(const RoutingRecorderOptions& options);

  // The next evaluation is that of `step`; until EndEvaluation its leaves are recorded.
  void Arm(int64_t step) { step_ = step, armed_ = true; }
  void BeginLeaf(int64_t leaf, int64_t turn);  // turn: as ExpertDispatch::BeginLeaf gets it
  // ids: i32 [n, top_k], negative where a slot is empty; width: elements of the rows that travel. Does nothing outside a leaf.
  void Routed(int layer, const Tensor& ids, int64_t width);
  void EndLeaf();
  void EndEvaluation() { armed_ = false; }

  RoutingCounts& counts() { return counts_; }  // what this rank counted since the last Gather
  int64_t width() const { return width_; }     // of the last rows seen; 0: none yet

  // Everything since the last Gather, of all ranks; clears it. Every rank gets the same. Collective. Cost: an all-reduce of
  // (L - 1) E^2 + L E integers and an all-gather of the samples.
  absl::StatusOr<RoutingWindow> Gather(Communicator& control);

 private:
  struct Kept {
    uint64_t priority;
    int64_t step, token, turn;  // token: leaf * 2^32 + row
    auto operator<=>(const Kept&) const = default;
  };
  int64_t row() const { return int64_t{options_.layers} * top_k_; }
  void Offer(const Kept& token, const int32_t* ids);
  RoutingWindow Merge(const Tensor& heads, const Tensor& ids);

  RoutingRecorderOptions options_;
  int top_k_ = 0;  // 0: not seen yet
  bool armed_ = false;
  int64_t step_ = 0, leaf_ = -1, turn_ = -1, rows_ = 0, width_ = 0;
  std::vector<int32_t> now_;     // [rows, layers, top_k] of the running leaf
  std::vector<uint32_t> words_;  // [2 * rows]
  RoutingCounts counts_;
  std::vector<std::pair<Kept, int64_t>> heap_;  // largest priority first, with its place in ids_
  std::vector<int32_t> ids_;                    // [sample, layers, top_k]
};

// Half the sum over expert pairs of |p - q|, the mean over adjacent layers, p and q being the shares of the tokens in two windows: 0 where
// nothing changed, 1 where no transition is left. 0 where either is empty.
double RoutingDrift(const RoutingCounts& before, const RoutingCounts& after);
// The same of the experts' shares of the load, the mean over layers: all slots count, and fewer tokens say more. 1 where a layer of either
// is empty.
double LoadDrift(const RoutingCounts& before, const RoutingCounts& after);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_ROUTING_RECORDER_H_
