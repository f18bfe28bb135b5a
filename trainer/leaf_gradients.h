// LeafGradients: where the gradients of leaves are formed, and how the leaves of a worker are summed.
#ifndef CONCLAVE_TRAINER_LEAF_GRADIENTS_H_
#define CONCLAVE_TRAINER_LEAF_GRADIENTS_H_

#include <vector>

#include "comm/exchange.h"
#include "models/recorder.h"
#include "tensor/layout.h"

namespace conclave {

// Level 0 takes the gradient of the running leaf; level l >= 1 holds the sum of 2^(l - 1) earlier leaves of the same worker (a binary
// counter). An expert block has one lane for each rank of its data column while workers are kept apart, one lane otherwise; other blocks
// always have one. Where an exchange has places for all blocks of an area (expert blocks are one, the rest is the other), folded gradients
// are formed there and the area takes no memory here. A level's memory is not cleared: what a leaf writes first overwrites, and a block
// that it leaves out reads as zeros. Not thread-safe.
class LeafGradients : public GradientSlots {
 public:
  // column: ranks of a data column. leaves: of a worker. copies: blocks that are differentiated here too; null: none.
  LeafGradients(const Layout* layout, DType dtype, int column, int64_t leaves, const Layout* copies = nullptr);

  // Chooses the mode of the next evaluation and empties level 0. Allocates at the first evaluation of a mode only. exchange: whose places
  // are used unless each_worker, until the next Begin; null: none.
  void Begin(bool each_worker, const Exchange* exchange = nullptr);
  void ClearRunning();
  GradientSlot Slot(BlockId block) override;
  int lanes(BlockId block) const { return is_expert(block) ? lanes_ : 1; }
  Tensor Running(BlockId block, int lane);

  // Takes the running gradient of leaf `leaf` (0-based) of a worker into the counter. Returns the worker's sum if it was the last leaf
  // (valid until the next leaf), else an undefined tensor.
  Tensor Merge(BlockId block, int lane, int64_t leaf);

  int64_t bytes() const;

 private:
  struct Level {
    Buffer shared, expert;
  };
  bool is_expert(BlockId block) const { return layout_->parameters()[block].kind == BlockKind::kExpert; }
  Tensor At(int level, BlockId block, int lane) const;
  void Reserve(int levels, int lanes);
  bool placed(BlockId block) const { return is_expert(block) ? expert_placed_ : shared_placed_; }

  const Layout* layout_;
  DType dtype_;
  int column_;
  int64_t leaves_;
  bool copies_;    // some blocks are copies of another rank's
  int lanes_ = 1;  // of the running mode
  const Exchange* places_ = nullptr;
  bool shared_placed_ = false, expert_placed_ = false;  // of the running mode
  int reserved_lanes_ = 0;
  int64_t shared_elements_ = 0, expert_elements_ = 0;
  std::vector<int64_t> offset_;   // by block, in its area
  std::vector<uint8_t> written_;  // by block and lane of level 0: 0 while empty
  std::vector<Level> levels_;
};

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_LEAF_GRADIENTS_H_
