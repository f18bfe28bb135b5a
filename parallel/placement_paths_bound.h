// An upper bound of the tokens that stay where ranks hold two experts of every layer: prices of experts, and the dearest path of pairs.
#ifndef CONCLAVE_PARALLEL_PLACEMENT_PATHS_BOUND_H_
#define CONCLAVE_PARALLEL_PLACEMENT_PATHS_BOUND_H_

#include <cstdint>
#include <span>

#include "parallel/routing_counts.h"

namespace conclave {

// Prices are whole numbers of units, so many a token.
inline constexpr int64_t kPriceUnits = 1024;

// A rank is a path: a pair of experts in every layer. Paths of a placement take every expert once, so whatever the prices (may be negative)
// of the experts, the tokens kept are at most
//   sum of all prices + 1/2 sum over the experts of a layer of the most that a path through it takes (tokens it keeps - prices it pays),
// since each path is counted at both experts that it has there. This is the least of that over the layers; the maxima by dynamic
// programming over pairs, forward and backward, in whole numbers: exact. prices: [layers, E], in units, at most 2^40 in size.
// Cost: layers * E^4 / 4 sums.
int64_t KeptAtPrices(const RoutingCounts& counts, std::span<const int64_t> prices);

// The least of these over the prices that PathPrices comes to at falling temperatures, as far down as numbers hold. They are floating point
// and rounded, so machines may differ in the last tokens; the bound holds on each. With the best prices it is the bound of the linear
// program in which ranks are mixtures of paths. For layers * E^4 beyond that of 24 layers of 64 experts fewer sweeps are taken, and beyond
// three times that none: then it is counts.total(). Cost: at most some 300 sweeps, layers * E^4 multiplications each, and layers * E^3 / 2
// numbers of memory; 3 to 6 s and 24 MB for 24 layers of 64 experts.
int64_t PathsKeepAtMost(const RoutingCounts& counts);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_PLACEMENT_PATHS_BOUND_H_
