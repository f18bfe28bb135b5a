// RoutingTrace: which experts tokens chose, layer by layer. What the planner learns from.
#ifndef CONCLAVE_PARALLEL_ROUTING_TRACE_H_
#define CONCLAVE_PARALLEL_ROUTING_TRACE_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"

namespace conclave {

inline constexpr int kTraceVersion = 1;
// TraceHeader::batches of a trace whose tokens were drawn from many batches.
inline constexpr char kSampledBatches[] = "sample";

// Where a trace comes from. Only experts, layers and top_k carry meaning for the planner.
struct TraceHeader {
  int experts = 0;         // E, of every layer
  int layers = 0;          // L, MoE layers
  int top_k = 1;           // k, experts a token chooses
  std::string corpus;      // the text the tokens come from
  int64_t step = 0;        // training step of the weights
  uint64_t seed = 0;       // of the run
  std::string checkpoint;  // digest of the weights; empty: unknown
  std::string batches;     // digest of the tokens' ids, or kSampledBatches; empty: unknown

  bool operator==(const TraceHeader&) const = default;
};

// ids: [tokens, layers, top_k], tokens in logical order, slots by descending score. Ids are logical and count from 0 in every layer.
class RoutingTrace {
 public:
  static constexpr int kMostExperts = 1 << 16;

  // Errors: InvalidArgument for an empty trace, a length that is no multiple of layers * top_k, an id outside 0..experts-1 or a token
  // that chooses one expert twice; the message names token and layer.
  static absl::StatusOr<RoutingTrace> Make(TraceHeader header, std::vector<int32_t> ids);

  const TraceHeader& header() const { return header_; }
  int64_t tokens() const { return static_cast<int64_t>(ids_.size()) / row_; }
  int experts() const { return header_.experts; }
  int layers() const { return header_.layers; }
  int top_k() const { return header_.top_k; }
  int expert(int64_t token, int layer, int slot = 0) const { return ids_[token * row_ + layer * header_.top_k + slot]; }
  std::span<const int32_t> ids() const { return ids_; }

  // Every `stride`-th token from `first` on: halves of a trace that share no token. first < stride <= tokens.
  RoutingTrace Every(int64_t stride, int64_t first) const;
  // The first slot alone, as a trace with top_k = 1: what the chain objective sees.
  RoutingTrace FirstSlot() const;

 private:
  RoutingTrace(TraceHeader header, std::vector<int32_t> ids);
  TraceHeader header_;
  std::vector<int32_t> ids_;
  int64_t row_ = 1;
};

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_ROUTING_TRACE_H_
