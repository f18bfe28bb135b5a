// METIS as a competitor of the placement solvers; where it is not installed, its twin no_metis.cc says so.
#ifndef CONCLAVE_BENCH_METIS_PARTITION_H_
#define CONCLAVE_BENCH_METIS_PARTITION_H_

#include <cstdint>

#include "base/status.h"
#include "parallel/placement_problem.h"

namespace conclave {

bool HasMetis();

// METIS_PartGraphKway on all experts of all layers, edges weighted by transitions, one balance constraint a layer; where a layer comes back
// out of balance, the experts that lose least are moved. Nodes are ignored. seed: another seed of METIS and another order of the vertices,
// without which the outcome is always the same. Errors: Unimplemented without METIS, Internal if METIS fails.
// Source: Karypis, Kumar, "Multilevel Algorithms for Multi-Constraint Graph Partitioning", SC 1998.
absl::StatusOr<PlacementTable> MetisPartition(const PlacementProblem& problem, int seed);

}  // namespace conclave

#endif  // CONCLAVE_BENCH_METIS_PARTITION_H_
