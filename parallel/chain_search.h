// Descent of the chain objective: steps that never raise the cost, to a point where none of them lowers it.
#ifndef CONCLAVE_PARALLEL_CHAIN_SEARCH_H_
#define CONCLAVE_PARALLEL_CHAIN_SEARCH_H_

#include <cstdint>

#include "parallel/chain_state.h"

namespace conclave {

// Swaps two experts of one layer, the best partner for each expert in turn, until no swap lowers the cost.
void PairSwaps(ChainState& state);
// Goes forward and backward through the layers and places each anew by an exact assignment given its neighbours, until no layer changes.
// Its end is also an end for PairSwaps: a swap is a cycle of two moves.
void Sweep(ChainState& state);
// Cuts the chain behind each layer in turn and renames the ranks of all later layers in the best way that keeps the topology. True if the
// cost fell.
bool Realign(ChainState& state);
// All of these until none helps. Idempotent.
void Descend(ChainState& state);

// A balanced table drawn uniformly, layer by layer; a pure function of its arguments.
PlacementTable RandomTable(int layers, int experts, int ranks, uint64_t seed, uint32_t start = 0);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_CHAIN_SEARCH_H_
