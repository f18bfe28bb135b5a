#include "bench/mpi_all_reduce.h"

#include <mpi.h>

#include "base/check.h"

namespace conclave {

bool RunsUnderMpi() {
  int initialised = 0;
  MPI_Initialized(&initialised);
  return initialised != 0;
}

absl::Status MpiAllReduce(const Tensor& data) {
  CHECK(data.dtype() == DType::kF32) << NameOf(data.dtype());
  const int code = MPI_Allreduce(MPI_IN_PLACE, data.raw(), static_cast<int>(data.elements()), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
  if (code == MPI_SUCCESS) return absl::OkStatus();
  return Unavailable("MPI_Allreduce of %d elements failed with code %d", data.elements(), code);
}

}  // namespace conclave
