// An upper bound of the tokens that stay, by semidefinite programming over pairs of adjacent layers.
#ifndef CONCLAVE_PARALLEL_PLACEMENT_GRAM_BOUND_H_
#define CONCLAVE_PARALLEL_PLACEMENT_GRAM_BOUND_H_

#include <cstdint>

#include "parallel/routing_counts.h"

namespace conclave {

// Let A_j[x, y] be 1 where experts x and y of layer j share one of the `parts`, and B_j[x, y] where x of layer j and y of layer j + 1 do.
// What stays is sum_j <C_j, B_j>. Of every balanced placement the diagonals of A are 1, rows of A and rows and columns of B sum to E /
// parts, no entry is negative, and [A_j, B_j; B_j', A_j+1] is a Gram matrix. The most that any such matrices keep is what this comes down
// to, by alternating directions (ADMM). Every so many rounds the multipliers give a bound that holds however far the rounds have come: any
// positive semidefinite multipliers of the Gram matrices do, and what is then linear in A and B splits into prices of rows and columns, and
// the largest E / parts of what each row has left. The least of these is returned. Floating point: machines may differ in the last digits;
// 1e-9 of all transitions is added for rounding.
//
// parts must divide E. With one expert a part, or more than twice the work of 24 layers of 64 experts, nothing is tried: counts.total().
// Cost: at most 80 rounds of layers - 1 eigenproblems of 2 E rows, and 15 numbers of memory for each of the (layers - 1) E^2 transitions.
// Sources: Karisch, Rendl, "Semidefinite Programming and Graph Equipartition", 1998; Wen, Goldfarb, Yin, "Alternating Direction Augmented
// Lagrangian Methods for Semidefinite Programming", Mathematical Programming Computation 2010; only Gram matrices of adjacent layers are
// asked for, as in Grone, Johnson, Sa, Wolkowicz, "Positive Definite Completions of Partial Hermitian Matrices", 1984.
int64_t GramsKeepAtMost(const RoutingCounts& counts, int parts);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_PLACEMENT_GRAM_BOUND_H_
