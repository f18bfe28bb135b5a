// What a launcher (mpirun, srun) tells a process before MPI starts.
#ifndef CONCLAVE_COMM_LAUNCHER_H_
#define CONCLAVE_COMM_LAUNCHER_H_

#include <optional>

namespace conclave {

struct LauncherPlace {
  int rank = 0;
  int ranks = 1;
};

// This process's place in an MPI job; nullopt where no launcher started it. From the environment that Open MPI's mpirun and Slurm's srun
// --mpi=pmix set.
std::optional<LauncherPlace> PlaceByLauncher();

}  // namespace conclave

#endif  // CONCLAVE_COMM_LAUNCHER_H_
