// How many ways there are to place one layer: what decides whether a planner can look at all of them.
#ifndef CONCLAVE_PARALLEL_BALANCED_PARTITIONS_H_
#define CONCLAVE_PARALLEL_BALANCED_PARTITIONS_H_

#include <cmath>

namespace conclave {

// Ways to give every rank experts / ranks of a layer's experts, E! / (E/P)!^P, ranks told apart: 70 for 8 experts on 2 ranks, 2,520 on 4.
// As a double: whole where it is small, infinity-like where there are far too many.
inline double BalancedPartitions(int experts, int ranks) {
  double log_ways = std::lgamma(experts + 1.0);
  log_ways -= ranks * std::lgamma(static_cast<double>(experts) / ranks + 1.0);
  return std::round(std::exp(log_ways));
}

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_BALANCED_PARTITIONS_H_
