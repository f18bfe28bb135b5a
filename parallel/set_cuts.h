// SetCuts: one layer's placement under search for the co-activation objective.
#ifndef CONCLAVE_PARALLEL_SET_CUTS_H_
#define CONCLAVE_PARALLEL_SET_CUTS_H_

#include <cstdint>
#include <vector>

#include "parallel/placement_problem.h"
#include "parallel/routed_sets.h"

namespace conclave {

// Every set of experts that tokens use together pays for each node and each rank it touches, a price that depends on its home: l_inter for
// another node, l_intra for another rank of the own one, summed over the homes where they are not known. How many of a set's experts are
// on every rank and node is kept, so a swap costs a look at the sets of its two experts.
class SetCuts {
 public:
  // sets must outlive it; rank_of: [E], balanced. Memory: sets * (k + ranks + nodes) bytes and their index.
  SetCuts(const RoutedSets& sets, int layer, const Topology& topology, std::vector<int> rank_of);

  int experts() const { return static_cast<int>(rank_of_.size()); }
  const Topology& topology() const { return topology_; }
  // l_inter * between + l_intra * inside of CountTouched.
  int64_t cost() const { return cost_; }
  const std::vector<int>& rank_of() const { return rank_of_; }
  int64_t SwapCost(int x, int y) const;
  void Swap(int x, int y);
  void SetTable(std::vector<int> rank_of);

 private:
  bool Contains(int set, int expert) const { return words_[static_cast<size_t>(set) * row_ + expert / 64] >> (expert % 64) & 1; }
  int64_t NodePrice(int set, int node) const;
  int64_t RankPrice(int set, int rank) const;
  int64_t MoveCost(int x, int y) const;  // of x to y's rank, in the sets without y
  void Move(int x, int from, int to);

  Topology topology_;
  std::vector<int> rank_of_;
  int64_t cost_ = 0, any_node_ = 0, any_rank_ = 0;  // prices where homes are not known
  size_t row_ = 1;
  std::vector<int> home_;                    // [sets]
  std::vector<int64_t> times_;               // [sets]
  std::vector<uint64_t> words_;              // [sets, row]: members as bits
  std::vector<uint16_t> of_rank_, of_node_;  // [sets, ranks], [sets, nodes]: members there
  std::vector<std::vector<int>> sets_of_;    // [E]
};

// Swaps the best pair for each expert in turn until no swap lowers the cost. Idempotent.
void DescendCuts(SetCuts& cuts);

struct CutAnneal {
  enum Pairs { kAll, kAcrossNodes, kInsideNodes };
  uint64_t seed = 1;
  uint32_t start = 0;    // another run
  int64_t swaps = 1000;  // proposals
  Pairs pairs = kAll;
};
// Annealing by swaps, the temperature falling geometrically; then the cheapest table met is the state. A pure function of state and
// options.
void AnnealCuts(SetCuts& cuts, int layer, const CutAnneal& options);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_SET_CUTS_H_
