// Assignment problems in exact integers: who goes where at the largest gain.
#ifndef CONCLAVE_PARALLEL_ASSIGNMENT_H_
#define CONCLAVE_PARALLEL_ASSIGNMENT_H_

#include <cstdint>
#include <span>
#include <vector>

#include "parallel/placement_problem.h"

namespace conclave {

// A permutation `to` that maximises sum_i gain[i, to[i]]; gain: [n, n], |gain| < 2^60 / n. Among equals one that keeps most i in place.
// Hungarian method, O(n^3). Source: Kuhn, Naval Research Logistics Quarterly 1955, in the shortest-path form.
std::vector<int> BestPermutation(std::span<const int64_t> gain, int n);

// The same over the renamings that keep the topology: ranks change places inside a node, whole nodes change places. gain: [ranks, ranks].
std::vector<int> BestRenaming(std::span<const int64_t> gain, const Topology& topology);

// Moves items between ranks at equal counts until sum_i gain[to[i], i] is largest: the transportation problem, solved exactly by cancelling
// cycles of moves that gain. gain: [ranks, items] in the layout of rank pulls. Starts from `to`, which stays as it is where it is already
// best; returns whether anything moved. Each cycle costs O(ranks * items + ranks^3). Source: Klein, Management Science 1967.
bool BestBalanced(std::span<const int64_t> gain, int ranks, std::vector<int>& to);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_ASSIGNMENT_H_
