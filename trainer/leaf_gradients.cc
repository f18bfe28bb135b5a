#include "trainer/leaf_gradients.h"

#include <algorithm>

#include "base/simd.h"

namespace conclave {
namespace {

template <typename T>
CONCLAVE_INLINE void AddLoop(const T* a, const T* b, T* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = a[i] + b[i];
}
CONCLAVE_SIMD void Add(const float* a, const float* b, float* out, int64_t n) { AddLoop(a, b, out, n); }
CONCLAVE_SIMD void Add(const double* a, const double* b, double* out, int64_t n) { AddLoop(a, b, out, n); }

// sum = earlier + sum.
void AddEarlier(const Tensor& earlier, const Tensor& sum) {
  DispatchFloat(sum.dtype(), [&](auto t) {
    using T = decltype(t);
    Add(earlier.data<T>(), sum.data<T>(), sum.data<T>(), sum.elements());
  });
}

}  // namespace

LeafGradients::LeafGradients(const Layout* layout, DType dtype, int column, int64_t leaves, const Layout* copies)
    : layout_(layout),
      dtype_(dtype),
      column_(column),
      leaves_(leaves),
      copies_(copies != nullptr && !copies->local_blocks().empty()),
      offset_(layout->parameters().size(), -1),
      written_(layout->parameters().size() * std::max(column, 1)) {
  for (const Layout* part : {layout, copies}) {
    for (const BlockId id : part == nullptr ? std::span<const BlockId>() : part->local_blocks()) {
      int64_t& end = is_expert(id) ? expert_elements_ : shared_elements_;
      offset_[id.value] = end;
      end += (layout->parameters()[id].shape.elements() + 15) / 16 * 16;
    }
  }
}

void LeafGradients::Reserve(int levels, int lanes) {
  if (lanes > reserved_lanes_) {
    levels_.clear();
    reserved_lanes_ = lanes;
  }
  const auto provide = [](Buffer& buffer, int64_t bytes) {
    if (buffer.bytes() < bytes) buffer = Buffer(bytes);
  };
  if (static_cast<int>(levels_.size()) < levels) levels_.resize(levels);
  for (int l = 0; l < levels; ++l) {
    if (!shared_placed_) provide(levels_[l].shared, shared_elements_ * SizeOf(dtype_));
    if (!expert_placed_) provide(levels_[l].expert, expert_elements_ * reserved_lanes_ * SizeOf(dtype_));
  }
}

void LeafGradients::Begin(bool each_worker, const Exchange* exchange) {
  places_ = each_worker ? nullptr : exchange;
  shared_placed_ = places_ != nullptr;
  expert_placed_ = shared_placed_ && !copies_;  // what copies find has no place in the exchange
  for (const BlockId id : layout_->local_blocks()) {
    if (places_ != nullptr && !places_->Place(id).defined()) (is_expert(id) ? expert_placed_ : shared_placed_) = false;
  }
  int levels = 1;
  for (int64_t n = 1; each_worker && n < leaves_; n *= 2) ++levels;
  lanes_ = each_worker ? column_ : 1;
  Reserve(levels, lanes_);
  ClearRunning();
}

void LeafGradients::ClearRunning() { std::ranges::fill(written_, uint8_t{0}); }

Tensor LeafGradients::Running(BlockId block, int lane) {
  const Tensor running = At(0, block, lane);
  uint8_t& written = written_[block.value * column_ + lane];
  if (written == 0) running.Zero();
  written = 1;
  return running;
}

Tensor LeafGradients::At(int level, BlockId block, int lane) const {
  const int64_t offset = offset_[block.value];
  CHECK_GE(offset, 0) << layout_->parameters()[block].name;
  if (level == 0 && placed(block)) return places_->Place(block);
  const Shape& shape = layout_->parameters()[block].shape;
  if (!is_expert(block)) return levels_[level].shared.View(offset * SizeOf(dtype_), shape, dtype_);
  return levels_[level].expert.View((lane * expert_elements_ + offset) * SizeOf(dtype_), shape, dtype_);
}

GradientSlot LeafGradients::Slot(BlockId block) {
  return {.first = At(0, block, 0),
          .lanes = lanes(block),
          .stride_bytes = is_expert(block) ? expert_elements_ * SizeOf(dtype_) : 0,
          .written = &written_[block.value * column_]};
}

Tensor LeafGradients::Merge(BlockId block, int lane, int64_t leaf) {
  const Tensor sum = Running(block, lane);
  int level = 1;
  for (int64_t bits = leaf; bits & 1; bits >>= 1) AddEarlier(At(level++, block, lane), sum);
  if (leaf + 1 < leaves_) {
    At(level, block, lane).CopyFrom(sum);
    return {};
  }
  // The last leaf: what the counter still holds, smallest first.
  for (int64_t bits = leaf >> (level - 1) >> 1; bits > 0; bits >>= 1) {
    ++level;
    if (bits & 1) AddEarlier(At(level, block, lane), sum);
  }
  return sum;
}

int64_t LeafGradients::bytes() const {
  int64_t total = 0;
  for (const Level& level : levels_) total += level.shared.bytes() + level.expert.bytes();
  return total;
}

}  // namespace conclave
