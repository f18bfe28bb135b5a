// Lower bounds of the chain objective: no balanced placement costs less.
#ifndef CONCLAVE_PARALLEL_PLACEMENT_BOUND_H_
#define CONCLAVE_PARALLEL_PLACEMENT_BOUND_H_

#include <cstdint>

#include "parallel/placement_problem.h"

namespace conclave {

// At most so many transitions can stay within one of `parts` equal parts of every layer. Relaxations, for each run of layers the better
// of the first two, the second only where the last two are not tried:
// - matching: an expert keeps the tokens of at most E / parts experts of the next layer, and these of no more of its own; its linear
//   program, bounded from its dual by coordinate descent. Strong where few experts take most tokens.
// - spectral: parts are orthogonal vectors; with the mean taken out, what stays is at most (E / parts) * L times the sum of the parts - 1
//   largest eigenvalues of the chain (Donath, Hoffman, IBM Journal 1973). Strong where tokens spread. Runs of layers of at most 1,600
//   experts in all; cost O(1600^3) each.
// - Gram matrices, for the whole chain (placement_gram_bound.h): nearer than both, where layers are not too large.
// - paths instead, where parts hold two experts of a layer (placement_paths_bound.h): close to tight.
int64_t KeptAtMost(const RoutingCounts& counts, int parts);

// The least cost any balanced placement can have: ranks and nodes bounded apart.
int64_t LowerBound(const PlacementProblem& problem);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_PLACEMENT_BOUND_H_
