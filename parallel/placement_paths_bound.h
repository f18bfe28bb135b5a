// An upper bound of the tokens that stay where ranks hold two experts of every layer: prices of experts, and the dearest path of pairs.
#ifndef CONCLAVE_PARALLEL_PLACEMENT_PATHS_BOUND_H_
#define CONCLAVE_PARALLEL_PLACEMENT_PATHS_BOUND_H_

#include <cstdint>
#include <span>

#include "parallel/routing_counts.h"

namespace conclave {

// Prices are whole numbers of units, so many a token.
inline constexpr int64_t kPriceUnits = 1024;

// A rank is a path: a pair of experts in every layer. E / 2 paths take every expert once, so whatever the prices (may be negative) of the
// experts, the tokens kept are at most
//   sum of all prices + E / 2 * max over paths of (tokens kept by the path - prices of its experts),
// the maximum by dynamic programming over pairs, in whole numbers: exact. prices: [layers, E], in units, below 2^40 in size.
// Cost: layers * E^4 / 8 sums.
int64_t KeptAtPrices(const RoutingCounts& counts, std::span<const int64_t> prices);

// The least of these over prices that level what paths take: paths are drawn with weight e^(value / T), and experts that are taken more
// often than once become dearer, while T falls. Prices are floating point and rounded, so machines may differ in the last tokens; the
// bound holds on each. With the best prices it is the bound of the linear program in which ranks are mixtures of paths.
// For layers * E^4 beyond that of 24 layers of 64 experts fewer steps are taken, and beyond three times that none: then it is
// counts.total().
// Cost: 198 times forward and backward over pairs, layers * E^4 / 2 multiplications each, and layers * E^3 / 2 numbers of memory; 4 s and
// 24 MB for 24 layers of 64 experts.
int64_t PathsKeepAtMost(const RoutingCounts& counts);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_PLACEMENT_PATHS_BOUND_H_
