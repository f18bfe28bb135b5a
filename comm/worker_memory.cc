#include "comm/worker_memory.h"

#include <cstring>

#include "base/check.h"

namespace conclave {
namespace {

constexpr int64_t kAlignment = 64;

}  // namespace

WorkerMemory::WorkerMemory(const ExchangeContext& context, const std::vector<bool>& take)
    : layout_(context.layout), dtype_(context.dtype), offsets_(take.size()) {
  const WorkerMap& w = context.workers;
  const int me = context.world->rank();
  first_ = context.data != nullptr ? w.ColumnFirst(me / w.expert_axis) : w.First(me);
  int64_t bytes = 0;
  for (const BlockId id : layout_->local_blocks()) {
    if (!take[id.value]) continue;
    const int64_t block_bytes = layout_->parameters()[id].shape.elements() * SizeOf(dtype_);
    std::vector<int64_t>& offsets = offsets_[id.value];
    ForSources(context, id, [&](int first, int last) {
      for (int worker = first; worker < last; ++worker) {
        offsets.resize(worker - first_ + 1, -1);
        offsets[worker - first_] = bytes;
        bytes += (block_bytes + kAlignment - 1) / kAlignment * kAlignment;
      }
    });
  }
  current_ = Buffer(std::max(bytes, kAlignment));
  pending_ = Buffer(std::max(bytes, kAlignment));
}

void WorkerMemory::Commit() { std::memcpy(current_.data(), pending_.data(), static_cast<size_t>(current_.bytes())); }

void WorkerMemory::Register(StateDict& state, const std::string& part) const {
  for (const BlockId id : layout_->local_blocks()) {
    const BlockSpec& spec = layout_->parameters()[id];
    const std::vector<int64_t>& offsets = offsets_[id.value];
    for (size_t i = 0; i < offsets.size(); ++i) {
      if (offsets[i] < 0) continue;
      const WorkerId worker{first_ + static_cast<int>(i)};
      state.Add(StateEntry{.name = absl::StrFormat("%s/worker.%d/%s", part, worker.value, spec.name),
                           .data = At(worker, id).Reshape(spec.shape)});
    }
  }
}

Tensor WorkerMemory::View(const Buffer& memory, WorkerId worker, BlockId block) const {
  const std::vector<int64_t>& offsets = offsets_[block.value];
  const int place = worker.value - first_;
  CHECK(place >= 0 && place < static_cast<int>(offsets.size()) && offsets[place] >= 0)
      << "worker " << worker.value << ", block " << block.value;
  return memory.View(offsets[place], {layout_->parameters()[block].shape.elements()}, dtype_);
}

}  // namespace conclave
