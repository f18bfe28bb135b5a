#include "comm/part_server.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "comm/worker_ranges.h"

namespace conclave {
namespace {

constexpr int64_t kPlaceAlignment = 64;

}  // namespace

PartMemory::PartMemory(const ExchangeContext& context, const BlockCodecs& codecs)
    : layout_(context.layout), dtype_(context.dtype), places_(codecs.size()) {
  int64_t bytes = 0;
  for (const BlockId id : layout_->local_blocks()) {
    if (codecs.lossless(id)) continue;
    const bool expert = layout_->parameters()[id].kind == BlockKind::kExpert;
    const int me = expert ? context.data->rank() : context.world->rank();
    for (const CodedPiece& piece : codecs[id]) {
      Place& place = places_[static_cast<size_t>(id.value)].emplace_back(Place{.elements = piece.range.elements});
      if (MemberOf(context.workers, expert, piece.range.server) != me) continue;
      place.offset = bytes;
      bytes += (place.elements * SizeOf(dtype_) + kPlaceAlignment - 1) / kPlaceAlignment * kPlaceAlignment;
    }
  }
  current_ = Buffer(std::max(bytes, kPlaceAlignment));
  pending_ = Buffer(std::max(bytes, kPlaceAlignment));
}

void PartMemory::Commit() {
  if (pending_.bytes() > 0) std::memcpy(current_.data(), pending_.data(), static_cast<size_t>(current_.bytes()));
}

void PartMemory::Register(StateDict& state, const std::string& name) const {
  for (size_t i = 0; i < places_.size(); ++i) {
    for (size_t part = 0; part < places_[i].size(); ++part) {
      if (places_[i][part].offset < 0) continue;
      const PartId id{.block = {static_cast<int>(i)}, .part = static_cast<int>(part)};
      const std::string& block = layout_->parameters()[id.block].name;
      state.Add(StateEntry{.name = absl::StrFormat("%s/part.%d/%s", name, id.part, block), .data = At(id)});
    }
  }
}

Tensor PartMemory::View(const Buffer& memory, const PartId& part) const {
  const Place& place = places_[static_cast<size_t>(part.block.value)][static_cast<size_t>(part.part)];
  CHECK(place.offset >= 0) << "part " << part.part << " of block " << part.block.value << " is served elsewhere";
  return memory.View(place.offset, {place.elements}, dtype_);
}

}  // namespace conclave
