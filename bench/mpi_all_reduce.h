// MPI_Allreduce as MPI chooses to do it: what our all-reduce is compared with.
#ifndef CONCLAVE_BENCH_MPI_ALL_REDUCE_H_
#define CONCLAVE_BENCH_MPI_ALL_REDUCE_H_

#include "base/status.h"
#include "tensor/tensor.h"

namespace conclave {

bool RunsUnderMpi();  // the ranks of this job are MPI processes

// Sums `data` (f32) over all processes, in place. Collective. Errors: Unavailable when MPI fails.
absl::Status MpiAllReduce(const Tensor& data);

}  // namespace conclave

#endif  // CONCLAVE_BENCH_MPI_ALL_REDUCE_H_
