// Taking over from another placement whatever is better there.
#ifndef CONCLAVE_PARALLEL_CHAIN_CROSSOVER_H_
#define CONCLAVE_PARALLEL_CHAIN_CROSSOVER_H_

#include <cstdint>

#include "parallel/chain_state.h"

namespace conclave {

// Where two tables differ falls into parts that do not touch: ranks of a layer that exchange experts belong together, and so do those of a
// rank in adjacent layers. What the parts cost adds up, exactly, so each is taken over from `other` or not on its own: of n parts the best
// of 2^n tables, at the price of one count. Parts that cost the same are taken over too. Both tables must be balanced, nodes() must be 1.
// Returns how much the cost of `best` fell, >= 0. Cost: layers * experts^2 / ranks reads. Source of the idea: Whitley, Hains, Howe,
// "Tunneling between optima: partition crossover for the traveling salesman problem", GECCO 2009.
int64_t TakeBetterParts(const ChainState& state, const PlacementTable& other, PlacementTable* best);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_CHAIN_CROSSOVER_H_
