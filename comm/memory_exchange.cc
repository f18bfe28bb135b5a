#include "comm/memory_exchange.h"

#include <algorithm>

#include "base/check.h"

namespace conclave {

MemoryExchange::MemoryExchange(const ExchangeContext& context, BlockCodecs codecs)
    : context_(context), mean_(context, std::move(codecs)), lossy_(context.layout->parameters().size()), lanes_(lossy_.size()) {
  int64_t largest = 1;
  for (const BlockId id : context.layout->local_blocks()) {
    lossy_[id.value] = !mean_.lossless(id);
    largest = std::max(largest, context.layout->parameters()[id].shape.elements());
    ForSources(context, id, [&](int first, int last) { lanes_[id.value].push_back({.first = first, .last = last, .next = first}); });
  }
  zeros_ = Buffer(largest * SizeOf(context.dtype));
  delta_ = Buffer(largest * SizeOf(context.dtype));
  decoded_ = Buffer(largest * SizeOf(context.dtype));
}

void MemoryExchange::Begin(uint32_t step, uint32_t draw) {
  mean_.Begin(step, draw);
  for (std::vector<Lane>& lanes : lanes_) {
    for (Lane& lane : lanes) lane.next = lane.first;
  }
}

absl::Status MemoryExchange::Put(WorkerId worker, BlockId block, const Tensor& span, bool folded) {
  CHECK(!folded) << "a codec needs each worker's own vector";
  for (Lane& lane : lanes_[block.value]) {
    if (worker.value < lane.first || worker.value >= lane.last) continue;
    if (worker.value < lane.next) {
      return Internal("exchange: worker %d puts block %d twice, or after a later worker of its rank", worker.value, block.value);
    }
    RETURN_IF_ERROR(SendZeros(lane, block, worker.value));
    lane.next = worker.value + 1;
    return SendAny(worker, block, span.Flat());
  }
  return Internal("exchange: worker %d puts block %d, but its vectors do not come to this rank", worker.value, block.value);
}

absl::StatusOr<Aggregate> MemoryExchange::Finish() {
  // Descending, as buckets take them.
  const std::span<const BlockId> local = context_.layout->local_blocks();
  for (auto it = local.rbegin(); it != local.rend(); ++it) {
    for (Lane& lane : lanes_[it->value]) RETURN_IF_ERROR(SendZeros(lane, *it, lane.last));
  }
  return Aggregated();
}

void MemoryExchange::AddCoded(const FlatVector& x, const FlatVector& y) const {
  for (const BlockId id : context_.layout->local_blocks()) {
    if (coded(id)) AddInto(x.dtype(), x.block(id).raw(), y.block(id).raw(), x.block(id).elements());
  }
}

void MemoryExchange::RegisterLossy(StateDict& state, const std::string& part, const FlatVector& vector) const {
  const Layout& layout = *context_.layout;
  for (const BlockId id : layout.local_blocks()) {
    if (!lossy_[id.value]) continue;
    state.Add(
        StateEntry{.name = part + "/" + layout.parameters()[id].name, .data = vector.block(id), .canonical = layout.is_canonical(id)});
  }
}

Tensor MemoryExchange::Scratch(const Buffer& buffer, BlockId block) const {
  return buffer.View(0, {context_.layout->parameters()[block].shape.elements()}, context_.dtype);
}

absl::Status MemoryExchange::SendAny(WorkerId worker, BlockId block, const Tensor& v) {
  return coded(block) ? Send(worker, block, v) : SendExact(worker, block, v);
}

absl::Status MemoryExchange::SendZeros(Lane& lane, BlockId block, int end) {
  for (; lane.next < end; ++lane.next) RETURN_IF_ERROR(SendAny({lane.next}, block, Scratch(zeros_, block)));
  return absl::OkStatus();
}

}  // namespace conclave
