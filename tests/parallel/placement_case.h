// Placement problems with known answers, and the slow obvious way to the optimum.
#ifndef CONCLAVE_TESTS_PARALLEL_PLACEMENT_CASE_H_
#define CONCLAVE_TESTS_PARALLEL_PLACEMENT_CASE_H_

#include <cstdint>
#include <vector>

#include "parallel/placement_problem.h"

namespace conclave {

// Uniform random tokens.
RoutingTrace UniformTrace(int layers, int experts, int64_t tokens, uint64_t seed);

// Tokens that stay on one rank throughout under `planted`, and wander uniformly inside it.
RoutingTrace PlantedTrace(const PlacementTable& planted, int ranks, int64_t tokens, uint64_t seed);

// The least cost over all balanced placements, by trying all of them.
int64_t ExhaustiveCost(const PlacementProblem& problem);

bool IsBalanced(const PlacementTable& table, int ranks);

// counts with expert e of every layer called to[e].
RoutingCounts Renumbered(const RoutingCounts& counts, const std::vector<int>& to);

}  // namespace conclave

#endif  // CONCLAVE_TESTS_PARALLEL_PLACEMENT_CASE_H_
