// CoherentDispatch: tokens go to the rank of their first expert and stay there. Source: Yao et al., 2024 (ExFlow).
#ifndef CONCLAVE_PARALLEL_COHERENT_DISPATCH_H_
#define CONCLAVE_PARALLEL_COHERENT_DISPATCH_H_

#include <span>
#include <vector>

#include "parallel/expert_dispatch.h"

namespace conclave {

// What travels of tokens, with what they chose. n tokens.
struct TravellingRows {
  Tensor x;             // [n, h] the stream that layers add to
  Tensor ids, weights;  // i32 [n, k] logical experts, none empty; [n, k]
};

// What one move brought here. m copies in expert order, t tokens that live here from now on: those whose slot 0 is here.
struct TravellingArrival {
  DispatchPlan plan;                  // its groups are those of the m copies
  Tensor copies;                      // [m, h]
  Tensor tokens, weights;             // [t, h], [t, k]
  std::span<int32_t> experts;         // [m * k] of the copy's token, in slot order
  std::span<int32_t> sequence, slot;  // [m] of the copy
  std::span<int64_t> own;             // [t] places of the tokens among the copies
};

// Forward only. One all-to-all of rows a layer where tokens have one expert; with more, a second brings the outputs of the other experts to
// the token, one row a slot, so that sums have the order and the bits of ExpertDispatch's EXACT combine.
class CoherentDispatch {
 public:
  // All must outlive it. The setup's codecs are not applied. Tokens with several experts travel once a rank.
  CoherentDispatch(const Mesh* mesh, const ExpertPlacement* placement, const DispatchSetup* setup, int top_k);

  // sequence: by row. Collective on axis "expert". Cost: the route's plan and its rows, of h + k elements and 4 (k + 1) bytes.
  absl::Status Move(Arena& arena, const TravellingRows& rows, std::span<const int32_t> sequence, int layer, TravellingArrival* arrival);
  // out: [m, h] outputs of the copies; returns y [t, h], the weighted sum over each token's slots. Collective where k > 1: rows that are
  // not on their token's rank.
  absl::StatusOr<Tensor> Settle(Arena& arena, const TravellingArrival& arrival, const Tensor& out, int layer) const;

  // Of this rank since the start: tokens a layer was entered with, and those that left for another rank.
  int64_t moves() const { return moves_; }
  int64_t hops() const { return hops_; }

 private:
  const Mesh* mesh_;
  const ExpertPlacement* placement_;
  TokenRoute route_;
  int64_t moves_ = 0, hops_ = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_COHERENT_DISPATCH_H_
