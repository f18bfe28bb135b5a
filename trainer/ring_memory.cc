#include "trainer/ring_memory.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "base/status.h"

namespace conclave {
namespace {

constexpr int64_t kBlockAlignment = 64;
constexpr std::string_view kLayerPrefix = "blocks.";

// The layer that a block's name says, or -1.
int LayerNamed(std::string_view name) {
  int layer = -1;
  if (name.starts_with(kLayerPrefix)) std::from_chars(name.data() + kLayerPrefix.size(), name.data() + name.size(), layer);
  return layer;
}

}  // namespace

absl::StatusOr<std::unique_ptr<RingMemory>> RingMemory::Create(const FlatVector& point, int64_t resident, const std::string& folder) {
  std::unique_ptr<RingMemory> ring(new RingMemory(point));
  RETURN_IF_ERROR(ring->Sort(resident));
  std::vector<PagedMemory::Range> ranges;
  for (const Layer& layer : ring->layers_) {
    for (const BlockId id : layer.blocks) ranges.push_back(point.block(id).AsBytes());
  }
  ASSIGN_OR_RETURN(ring->paged_, PagedMemory::Create(folder, ranges));
  for (const PagedMemory::Range& range : ranges) {
    ring->paged_->WriteBack(range);
    ring->paged_->Release(range);
  }
  for (int slot = 0; slot < resident; ++slot) {
    ring->slots_.push_back(Buffer::Uncleared(ring->slot_bytes_));
    ring->holds_.push_back(slot);
    ring->Load(slot);
    ring->layers_[slot].ready = true;
  }
  ring->asked_.reserve(ring->layers_.size());
  ring->thread_ = std::thread([r = ring.get()] { r->Serve(); });
  return ring;
}

absl::Status RingMemory::Sort(int64_t resident) {
  const ParameterSet& parameters = point_->layout().parameters();
  for (const BlockId id : point_->layout().local_blocks()) {
    const int layer = LayerNamed(parameters[id].name);
    if (layer < 0) continue;
    if (layer >= layers()) layers_.resize(layer + 1);
    Layer& of = layers_[layer];
    layer_of_[id.value] = layer;
    offset_[id.value] = of.bytes;
    of.blocks.push_back(id);
    of.bytes += (point_->block(id).bytes() + kBlockAlignment - 1) / kBlockAlignment * kBlockAlignment;
    layer_bytes_ += point_->block(id).bytes();
    slot_bytes_ = std::max(slot_bytes_, of.bytes);
  }
  if (resident >= 1 && resident <= layers()) return absl::OkStatus();
  return InvalidArgument("ring memory: %d layers in memory, but the model has %d; choose from 1 to %d", resident, layers(), layers());
}

RingMemory::~RingMemory() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void RingMemory::Load(int layer) {
  std::byte* const slot = slots_[layer % resident()].data();
  for (const BlockId id : layers_[layer].blocks) {
    const std::span<std::byte> value = point_->block(id).AsBytes();
    std::memcpy(slot + offset_[id.value], value.data(), value.size());
    paged_->Release(value);
  }
}

void RingMemory::Ask(int layer) {
  const int slot = layer % resident();
  if (holds_[slot] == layer) return;
  layers_[holds_[slot]].ready = false;
  holds_[slot] = layer;
  asked_.push_back(layer);
  ++transfers_;
  changed_.notify_all();
}

void RingMemory::Pass() {
  if (running_ < 0) return;
  const int next = running_ + resident() < layers() ? running_ + resident() : running_ % resident();
  running_ = -1;
  const std::lock_guard lock(mutex_);
  Ask(next);
}

Tensor RingMemory::At(BlockId id) {
  const int layer = layer_of_[id.value];
  if (layer != running_) Pass();
  const Tensor value = point_->block(id);
  if (layer < 0) return value;
  if (running_ < 0) {
    std::unique_lock lock(mutex_);
    Ask(layer);  // it was foreseen, unless passes were cut short
    changed_.wait(lock, [&] { return layers_[layer].ready; });
    running_ = layer;
  }
  return Tensor(slots_[layer % resident()].data() + offset_[id.value], value.shape(), value.dtype());
}

void RingMemory::Serve() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return ends_ || !asked_.empty(); });
    if (ends_) return;
    const int layer = asked_.front();
    lock.unlock();
    Load(layer);
    lock.lock();
    asked_.erase(asked_.begin());
    const auto same_slot = [&](int other) { return other % resident() == layer % resident(); };
    layers_[layer].ready = std::ranges::none_of(asked_, same_slot);
    changed_.notify_all();
  }
}

}  // namespace conclave
