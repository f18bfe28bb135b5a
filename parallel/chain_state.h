// ChainState: a placement under search, with the cost of every single change at hand.
#ifndef CONCLAVE_PARALLEL_CHAIN_STATE_H_
#define CONCLAVE_PARALLEL_CHAIN_STATE_H_

#include <cstdint>
#include <span>
#include <vector>

#include "parallel/placement_problem.h"

namespace conclave {

// The chain objective is J = ceiling - kept: a token that stays on its rank keeps `rank_gain`, one that stays in its node `node_gain`.
// Experts of one layer do not interact, so with Pull(j, p, x), what expert x of layer j keeps on rank p given both neighbouring layers,
// moving or swapping experts *within one layer* has the exact cost SwapCost, four reads. A swap updates the pulls of both neighbouring
// layers: 4 vectors of E integers (8 where ranks share nodes).
class ChainState {
 public:
  // The problem must have passed CheckPlacementProblem, the table must be balanced. Memory: 8 (L - 1) E^2 + 4 L (P + N) E bytes.
  ChainState(const PlacementProblem& problem, const PlacementTable& table);

  int layers() const { return layers_; }
  int experts() const { return experts_; }
  int ranks() const { return ranks_; }
  int nodes() const { return nodes_; }  // 1 where node and rank, or node and job, are the same
  int64_t rank_gain() const { return rank_gain_; }
  int64_t node_gain() const { return node_gain_; }
  const Topology& topology() const { return topology_; }
  int64_t cost() const { return cost_; }
  PlacementTable table() const;

  std::span<const int> ranks_of(int layer) const { return std::span(rank_).subspan(static_cast<size_t>(layer) * experts_, experts_); }
  // [ranks, experts] and [nodes, experts] of a layer; node pulls are all zero where nodes() is 1.
  const int32_t* rank_pulls(int layer) const { return rank_pull_.data() + static_cast<size_t>(layer) * ranks_ * experts_; }
  const int32_t* node_pulls(int layer) const { return node_pull_.data() + static_cast<size_t>(layer) * nodes_ * experts_; }
  int SearchNode(int rank) const { return node_of_[rank]; }
  int32_t Pull(int layer, int rank, int expert) const {
    return rank_pulls(layer)[rank * experts_ + expert] + node_pulls(layer)[node_of_[rank] * experts_ + expert];
  }
  // Change of the cost if two experts of a layer change places.
  int64_t SwapCost(int layer, int x, int y) const {
    const int p = ranks_of(layer)[x], q = ranks_of(layer)[y];
    return int64_t{Pull(layer, p, x)} - Pull(layer, q, x) + Pull(layer, q, y) - Pull(layer, p, y);
  }
  void Swap(int layer, int x, int y);
  // Places a whole layer anew; `ranks` must be balanced.
  void SetLayer(int layer, std::span<const int> ranks);
  void SetTable(const PlacementTable& table);
  // Tokens from `layer` to `layer` + 1 by pair of ranks: [ranks, ranks].
  std::vector<int64_t> Flow(int layer) const;

  // Transitions from expert x of `layer` to the experts of the next layer, and from the experts of `layer` to expert x of the next:
  // [experts].
  const int32_t* Forward(int layer, int x) const { return forward_.data() + (static_cast<size_t>(layer) * experts_ + x) * experts_; }
  const int32_t* Backward(int layer, int x) const { return backward_.data() + (static_cast<size_t>(layer) * experts_ + x) * experts_; }

 private:
  void Rebuild();
  void RebuildPulls(int layer);
  void AddPulls(int layer, const int32_t* weights, int rank, int32_t sign);
  int32_t* Pulls(std::vector<int32_t>& all, int layer, int rows) { return all.data() + static_cast<size_t>(layer) * rows * experts_; }

  Topology topology_;
  int layers_, experts_, ranks_, nodes_;
  int32_t rank_gain_, node_gain_;
  int64_t ceiling_ = 0, cost_ = 0;
  std::vector<int> node_of_, rank_;
  std::vector<int32_t> forward_, backward_;  // forward_[j]: transitions of layer j; backward_[j]: those into layer j + 1, transposed
  std::vector<int32_t> rank_pull_, node_pull_;
};

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_CHAIN_STATE_H_
