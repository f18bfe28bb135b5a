#include "parallel/routing_trace.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace conclave {
namespace {

absl::Status CheckToken(const TraceHeader& header, std::span<const int32_t> row, int64_t token) {
  for (int layer = 0; layer < header.layers; ++layer) {
    const auto chosen = row.subspan(static_cast<size_t>(layer) * header.top_k, header.top_k);
    for (int slot = 0; slot < header.top_k; ++slot) {
      if (chosen[slot] < 0 || chosen[slot] >= header.experts) {
        return InvalidArgument("trace: token %d, layer %d, slot %d: expert %d is outside 0..%d", token, layer, slot, chosen[slot],
                               header.experts - 1);
      }
      if (std::find(chosen.begin(), chosen.begin() + slot, chosen[slot]) != chosen.begin() + slot) {
        return InvalidArgument("trace: token %d, layer %d: expert %d is chosen twice; a token's %d experts must differ", token, layer,
                               chosen[slot], header.top_k);
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

RoutingTrace::RoutingTrace(TraceHeader header, std::vector<int32_t> ids)
    : header_(std::move(header)), ids_(std::move(ids)), row_(int64_t{header_.layers} * header_.top_k) {}

absl::StatusOr<RoutingTrace> RoutingTrace::Make(TraceHeader header, std::vector<int32_t> ids) {
  if (header.experts < 1 || header.experts > kMostExperts)
    return InvalidArgument("trace: experts: expected 1..%d, got %d", kMostExperts, header.experts);
  if (header.layers < 1) return InvalidArgument("trace: layers: expected at least 1, got %d", header.layers);
  if (header.top_k < 1 || header.top_k > header.experts)
    return InvalidArgument("trace: top_k: expected 1..%d (the experts), got %d", header.experts, header.top_k);
  if (ids.empty()) return InvalidArgument("trace: it holds no token");
  const int64_t row = int64_t{header.layers} * header.top_k, size = static_cast<int64_t>(ids.size());
  if (size % row != 0) {
    return InvalidArgument("trace: %d ids are no whole number of tokens of %d layers with %d experts each; is it cut off?", size,
                           header.layers, header.top_k);
  }
  for (int64_t t = 0; t < size / row; ++t) RETURN_IF_ERROR(CheckToken(header, std::span(ids).subspan(t * row, row), t));
  return RoutingTrace(std::move(header), std::move(ids));
}

RoutingTrace RoutingTrace::Every(int64_t stride, int64_t first) const {
  CHECK(first >= 0 && first < stride && stride <= tokens());
  std::vector<int32_t> ids;
  ids.reserve(ids_.size() / stride + row_);
  for (int64_t t = first; t < tokens(); t += stride) ids.insert(ids.end(), ids_.begin() + t * row_, ids_.begin() + (t + 1) * row_);
  return RoutingTrace(header_, std::move(ids));
}

RoutingTrace RoutingTrace::FirstSlot() const {
  TraceHeader header = header_;
  header.top_k = 1;
  std::vector<int32_t> ids;
  ids.reserve(tokens() * header_.layers);
  for (size_t i = 0; i < ids_.size(); i += header_.top_k) ids.push_back(ids_[i]);
  return RoutingTrace(std::move(header), std::move(ids));
}

}  // namespace conclave
