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

absl::StatusOr<Tensor> RoutingLog::Read(Arena& arena, size_t at, const Reader& reader) const {
  const Entry& entry = entries_[at];
  if (entry.layer != reader.layer || entry.tokens != reader.tokens) {
    return FailedPrecondition("routing record, entry %d: recorded MoE layer %d with %d tokens, this run routes layer %d with %d tokens",
                              static_cast<int64_t>(at), entry.layer, entry.tokens, reader.layer, reader.tokens);
  }
  const Tensor ids = arena.New({entry.tokens, entry.slots}, DType::kI32);
  std::memcpy(ids.raw(), ids_.data() + entry.begin, ids.bytes());
  for (const int32_t e : ids.span<int32_t>()) {
    if (e < -1 || e >= reader.experts) {
      return FailedPrecondition("routing record, entry %d: expert %d, but MoE layer %d has experts 0..%d", static_cast<int64_t>(at), e,
                                reader.layer, reader.experts - 1);
    }
  }
  return ids;
}

absl::StatusOr<Tensor> RoutingLog::Next(Arena& arena, const Reader& reader) {
  if (next_ == entries_.size()) {
    return FailedPrecondition("routing record: MoE layer %d with %d tokens comes after the end of the %d recorded entries", reader.layer,
                              reader.tokens, entries());
  }
  ASSIGN_OR_RETURN(const Tensor ids, Read(arena, next_, reader));
  ++next_;
  return ids;
}

absl::StatusOr<Tensor> RoutingLog::Again(Arena& arena, const Reader& reader) const {
  for (size_t at = next_; at > 0; --at) {
    if (entries_[at - 1].layer == reader.layer) return Read(arena, at - 1, reader);
  }
  return FailedPrecondition("routing record: no entry of MoE layer %d was read before it is recorded again", reader.layer);
}

absl::StatusOr<RoutingLog::Passes> RoutingLog::ToPasses(int layers, int slots) const {
  Passes passes;
  if (entries() % layers != 0) return FailedPrecondition("routing record: %d entries are no passes of %d MoE layers", entries(), layers);
  for (size_t first = 0; first < entries_.size(); first += layers) {
    const int64_t tokens = entries_[first].tokens;
    const size_t begin = passes.ids.size();
    passes.tokens.push_back(tokens);
    passes.ids.resize(begin + tokens * layers * slots);
    for (int layer = 0; layer < layers; ++layer) {
      const Entry& entry = entries_[first + layer];
      if (entry.layer != layer || entry.tokens != tokens || entry.slots != slots) {
        return FailedPrecondition(
            "routing record, entry %d: expected MoE layer %d with %d tokens of %d experts each, got layer %d with %d of %d",
            static_cast<int64_t>(first) + layer, layer, tokens, slots, entry.layer, entry.tokens, entry.slots);
      }
      for (int64_t t = 0; t < tokens; ++t) {
        for (int s = 0; s < slots; ++s) {
          const int32_t id = ids_[entry.begin + t * slots + s];
          if (id < 0) return FailedPrecondition("routing record: token %d of MoE layer %d has fewer than %d experts", t, layer, slots);
          passes.ids[begin + (t * layers + layer) * slots + s] = id;
        }
      }
    }
  }
  return passes;
}

RoutingLog RoutingLog::OfPasses(const Passes& passes, int layers, int slots) {
  RoutingLog log;
  int64_t first = 0;  // token
  for (const int64_t tokens : passes.tokens) {
    for (int layer = 0; layer < layers; ++layer) {
      log.entries_.push_back({.layer = layer, .tokens = tokens, .slots = slots, .begin = log.ids_.size()});
      for (int64_t t = first; t < first + tokens; ++t) {
        const auto from = passes.ids.begin() + (t * layers + layer) * slots;
        log.ids_.insert(log.ids_.end(), from, from + slots);
      }
    }
    first += tokens;
  }
  log.Rewind();
  return log;
}

absl::Status RoutingLog::ExpectEnd() const {
  if (next_ == entries_.size()) return absl::OkStatus();
  return FailedPrecondition("routing record: %d of %d entries were replayed", static_cast<int64_t>(next_), entries());
}

}  // namespace conclave
