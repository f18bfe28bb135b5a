// Dealing what two ranks hold anew, over all layers at once.
#ifndef CONCLAVE_PARALLEL_CHAIN_DEALS_H_
#define CONCLAVE_PARALLEL_CHAIN_DEALS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "parallel/chain_state.h"

namespace conclave {

struct RankPair {
  int p, q;
};

// For ranks of two experts a layer. All that ranks p and q hold is dealt out anew: four experts a layer, three ways to put them into two
// pairs, and either pair may be p's. The best deal of all layers together comes from dynamic programming over the three ways; which pair
// is whose follows, because only what two layers have on one rank counts. At a temperature the ways get Gumbel's noise, and whether the
// pairs change over between two layers is drawn from Boltzmann's distribution: two whole columns in one step, where a column move changes
// at most one expert of a rank and layer. What a pair of ranks keeps depends on its own experts alone, so disjoint pairs are dealt out
// side by side, one a vector lane. Cost: a layer of up to 16 pairs takes about 0.35 microseconds. Sources: Hamze, de Freitas, "From
// fields to trees", UAI 2004; the noise is that of ColumnMoves.
class ColumnDeals {
 public:
  static constexpr int kSlots = 2, kWays = 3, kLanes = 16;

  // Whether the search of `state` has ranks of two experts and no nodes.
  static bool Serves(const ChainState& state);
  // Starts from the table of `state`, which must be served and is left as it is; its counts are read in every deal.
  explicit ColumnDeals(const ChainState* state);

  // pairs: 1..kLanes, no rank in two of them. words: one random word a layer. Temperature 0 takes the best deal.
  void Deal(std::span<const RankPair> pairs, float temperature, std::span<const uint32_t> words);

  // Counted anew: 4 ranks layers reads.
  int64_t cost() const;
  PlacementTable table() const;

 private:
  // The deal of one layer, a pair of ranks in every lane.
  struct Layer {
    int32_t experts[2 * kSlots][kLanes];
    int32_t join[kWays][kWays][kLanes];  // with the layer before
    int32_t value[kWays][kLanes];
  };
  void Gather(std::span<const RankPair> pairs, int layer);
  void Settle(std::span<const RankPair> pairs, int layer, const int* way, const bool* over);

  const ChainState* state_;
  int64_t ceiling_ = 0;      // the cost if nothing were kept
  std::vector<int> held_;    // [layers, ranks, kSlots]: experts
  std::vector<Layer> deal_;  // [layers]
};

// Dynamic programming from one layer to the next, a pair of ranks in every lane.
struct DealStep {
  const int32_t* counts;  // transitions, [experts, experts]
  int experts;
  const int32_t *from, *to;  // [4, kLanes]: experts of p, of p, of q and of q, of either layer
  float scale;               // units a token that stays
  const int32_t* before;     // [kWays, kLanes]: value of the ways of the layer before
  const int16_t* noise;      // [kWays, kLanes]
};

// Way k puts the first expert together with expert k + 1. join[k, k', lane] becomes what ways k and k' gain over half of all transitions
// (lose where one of the layers changes over), in units, at most 2^27; value[k', lane] the most that layers up to this one gain and end
// with k', less that of way 0.
void AdvanceDeals(const DealStep& in, int32_t* join, int32_t* value);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_CHAIN_DEALS_H_
