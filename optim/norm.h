// LogicalNorm: norms of the whole model's vector, the same bits on every rank and for every layout.
#ifndef CONCLAVE_OPTIM_NORM_H_
#define CONCLAVE_OPTIM_NORM_H_

#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "comm/communicator.h"
#include "tensor/layout.h"

namespace conclave {

// Euclidean norms of a vector and of its parts. Parts: EXPERT blocks; blocks named "...router..."; all others.
struct VectorNorms {
  double total = 0;
  double dense = 0;
  double router = 0;
  double expert = 0;
  std::string why;  // where total is not finite and somebody looked: see WhyNotFinite
};

// One f64 sum of squares per block (in chunks of 4,096 elements, see tensor/reduce.h), counted once, by the block's canonical owner; the
// table is all-reduced (every entry has one non-zero contribution, so nothing is rounded) and added in logical-id order. Pointers outlive
// the object.
class LogicalNorm {
 public:
  // counts: which blocks enter; empty: all.
  LogicalNorm(const Layout* layout, Communicator* world, const std::function<bool(BlockId)>& counts = {});

  // x: over the same layout (or a part of it that holds every counted block). Collective. Cost: one all-reduce of 8 bytes a block.
  // Non-finite elements give non-finite norms, which is no error.
  absl::StatusOr<VectorNorms> Of(const FlatVector& x);
  // A block of the x that Of will be asked about next, final already. Of does not read it again.
  void Note(BlockId block, const Tensor& value);

  const Layout* layout() const { return layout_; }
  Communicator* world() const { return world_; }

 private:
  enum class Part : uint8_t { kNone, kDense, kRouter, kExpert };
  bool counts_here(BlockId id) const { return layout_->is_canonical(id) && parts_[id.value] != Part::kNone; }

  const Layout* layout_;
  Communicator* world_;
  std::vector<Part> parts_;  // by block
  std::vector<char> noted_;  // by block: its square is there
  OwnedTensor squares_;      // [blocks] f64
};

}  // namespace conclave

#endif  // CONCLAVE_OPTIM_NORM_H_
