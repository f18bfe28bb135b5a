// ExpertCopies: experts that several ranks of a data column compute. Their owner alone has state; the others have copies of its weights.
#ifndef CONCLAVE_TRAINER_EXPERT_COPIES_H_
#define CONCLAVE_TRAINER_EXPERT_COPIES_H_

#include <span>
#include <vector>

#include "comm/part_table.h"
#include "parallel/expert_placement.h"
#include "parallel/mesh.h"
#include "trainer/leaf_gradients.h"

namespace conclave {

// Before an evaluation the owners send their weights at the point; after the backward pass of a micro-step the gradients of the copies go
// to the owners, which go on as if they had computed everything: exchange, norm, update, checkpoints and migration know nothing of copies.
// All rows of one (expert, leaf) are on one rank (ExpertPlacement::PlaceOf), so where leaves are kept apart a gradient is formed whole and
// no bit depends on the copies. The same number of messages whatever the routing is. Memory: the copies' weights, their gradients, and
// twice as much again for what is sent and received; nothing is allocated after an evaluation of either mode.
class ExpertCopies {
 public:
  // mesh, placement and parameters must outlive it.
  ExpertCopies(const Mesh* mesh, const ParameterSet* parameters, const ExpertPlacement* placement, DType dtype);

  const FlatVector& values() const { return values_; }
  bool here(BlockId block) const { return layout_.is_local(block); }         // a copy of this rank's
  bool elsewhere(BlockId block) const { return copied_[block.value] != 0; }  // this rank's own, and others have copies
  int64_t bytes() const { return values_.flat().bytes() + send_.bytes() + receive_.bytes(); }

  // point: its local blocks are sent. Collective on mesh.dispatch(), of all copies' weights.
  absl::Status SendWeights(const FlatVector& point);
  // The running gradients of the copies are added to those of the owners. leaves: by coordinate, the turn of the one that it runs, -1:
  // none; empty: the gradients are sums over leaves already. Collective on mesh.dispatch(): an expert's gradient for each leaf that did not
  // go to the owner; else one for each copy.
  absl::Status ReturnGradients(LeafGradients* gradients, std::span<const int64_t> leaves);

 private:
  // A block that travels between this rank and a peer.
  struct Parcel {
    int peer = 0;
    BlockId block;
    int64_t bytes = 0;
  };
  void Reserve(int lanes);
  absl::Status Exchange(const char* label);
  // visit(lane) for the lanes of a parcel's block that `host` computes.
  template <typename Visit>
  void ForLanes(const Parcel& parcel, int host, std::span<const int64_t> leaves, Visit&& visit) const;

  const Mesh* mesh_;
  const ParameterSet* parameters_;
  const ExpertPlacement* placement_;
  Layout layout_;
  FlatVector values_;
  std::vector<uint8_t> copied_;           // by block
  std::vector<Parcel> owned_, borrowed_;  // by (peer, block): own blocks at peers; peers' blocks here
  int lanes_ = 0;                         // that the buffers are made for
  Buffer send_, receive_;
  std::vector<int64_t> sizes_;  // what parts_ is a view of
  PartTable parts_;
};

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_EXPERT_COPIES_H_
