// The chain objective as a mixed-integer linear program, for solvers outside: an oracle for small instances.
#ifndef CONCLAVE_PARALLEL_PLACEMENT_PROGRAM_H_
#define CONCLAVE_PARALLEL_PLACEMENT_PROGRAM_H_

#include <string>

#include "parallel/placement_problem.h"

namespace conclave {

// In the LP format that CBC, GLPK, HiGHS, SCIP and others read. Binaries x_j_i_p: expert i of layer j is on rank p. For transitions with
// tokens, y_j_i_k >= x_j_i_p - x_{j+1}_k_p for every p says that ranks differ, z_j_i_k the same of nodes, at prices l_intra and
// l_inter - l_intra, so that the optimum is that of Crossings::Cost. Expert 0 of layer 0 is on rank 0: ranks have no names.
std::string RenderLinearProgram(const PlacementProblem& problem);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_PLACEMENT_PROGRAM_H_
