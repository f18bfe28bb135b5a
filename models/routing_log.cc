#include "models/routing_log.h"

#include <cstring>

namespace conclave {

void RoutingLog::Rewind() {
  replays_ = true;
  next_ = 0;
}

void RoutingLog::Append(int layer, const Tensor& ids) {
  CHECK(!replays_);
  entries_.push_back({.layer = layer, .tokens = ids.dim(0), .slots = ids.dim(1), .begin = ids_.size()});
  const auto span = ids.span<int32_t>();
  ids_.insert(ids_.end(), span.begin(), span.end());
}

absl::StatusOr<Tensor> RoutingLog::Next(Arena& arena, int layer, int64_t tokens, int experts) {
  if (next_ == entries_.size()) {
    return FailedPrecondition("routing record: MoE layer %d with %d tokens comes after the end of the %d recorded entries", layer, tokens,
                              entries());
  }
  const Entry& entry = entries_[next_];
  if (entry.layer != layer || entry.tokens != tokens) {
    return FailedPrecondition("routing record, entry %d: recorded MoE layer %d with %d tokens, this run routes layer %d with %d tokens",
                              static_cast<int64_t>(next_), entry.layer, entry.tokens, layer, tokens);
  }
  const Tensor ids = arena.New({entry.tokens, entry.slots}, DType::kI32);
  std::memcpy(ids.raw(), ids_.data() + entry.begin, ids.bytes());
  for (const int32_t e : ids.span<int32_t>()) {
    if (e < -1 || e >= experts) {
      return FailedPrecondition("routing record, entry %d: expert %d, but MoE layer %d has experts 0..%d", static_cast<int64_t>(next_), e,
                                layer, experts - 1);
    }
  }
  ++next_;
  return ids;
}

absl::Status RoutingLog::ExpectEnd() const {
  if (next_ == entries_.size()) return absl::OkStatus();
  return FailedPrecondition("routing record: %d of %d entries were replayed", static_cast<int64_t>(next_), entries());
}

}  // namespace conclave
