// Dealing what two ranks hold anew, over all layers at once.
#ifndef CONCLAVE_PARALLEL_CHAIN_DEALS_H_
#define CONCLAVE_PARALLEL_CHAIN_DEALS_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "parallel/chain_state.h"

namespace conclave {

struct RankPair {
  int p, q;
};

// For ranks of two or four experts a layer, where nodes do not count. All that ranks p and q hold is dealt out anew, in every layer into
// two hands of equal size, either of which may be p's. What two layers keep on p and q is half of all their transitions and s W s', s and
// s' being the hands, +1 and -1. So the best deal of all layers together comes from dynamic programming over the ways to part the experts;
// which hand is whose follows, because only what two layers have on one rank counts. At a temperature the ways get Gumbel's noise, and
// whether the hands change over between two layers is drawn from Boltzmann's distribution: two whole columns in one step, where a column
// move changes at most one expert of a rank and layer. Of the two names that the hands can have as a whole, they get those under which
// fewer experts move. All in whole numbers, the same on every machine. Sources: Hamze, de Freitas, "From fields to trees", UAI 2004; the
// noise is that of ColumnMoves.
class ColumnDeals {
 public:
  // Whether ranks of `slots` experts can be served; `nodes` as in ChainState.
  static bool Serves(int slots, int nodes) { return (slots == 2 || slots == 4) && nodes == 1; }
  static bool Serves(const ChainState& state);
  virtual ~ColumnDeals() = default;

  // Disjoint pairs that one call takes, dealt out side by side.
  virtual int most_pairs() const = 0;
  // pairs: 1..most_pairs(), no rank in two of them. words: one random word a layer. Temperature 0 takes the best deal.
  virtual void Deal(std::span<const RankPair> pairs, float temperature, std::span<const uint32_t> words) = 0;

  // Counted anew: ranks * slots^2 * layers reads.
  int64_t cost() const;
  PlacementTable table() const;
  void SetTable(const PlacementTable& table);

 protected:
  // Starts from the table of `state`, which is left as it is; its counts are read in every deal.
  explicit ColumnDeals(const ChainState* state);

  int* HeldBy(int layer, int rank) { return held_.data() + static_cast<size_t>(layer) * state_->experts() + rank * slots_; }

  const ChainState* state_;
  int slots_;

 private:
  std::vector<int> held_;  // [layers, ranks, slots]: experts
  int64_t ceiling_;        // the cost if nothing were kept
};

// For a state that is served.
std::unique_ptr<ColumnDeals> MakeColumnDeals(const ChainState* state);
// Of two experts a rank: up to 16 pairs at once, one a vector lane; a layer of them takes about 0.25 microseconds.
std::unique_ptr<ColumnDeals> MakeDealsOfTwo(const ChainState* state);
// Of four: 32 of the 35 ways to part eight experts, by turns, in the lanes; a layer of a pair takes about 0.2 microseconds.
std::unique_ptr<ColumnDeals> MakeDealsOfFour(const ChainState* state);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_CHAIN_DEALS_H_
