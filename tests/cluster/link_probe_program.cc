// Names the host of every rank and times one large message from rank 0 to rank 1. Prints "hosts A B ..." and "mbit_per_second X".
#include <cstdio>
#include <cstdlib>
#include <vector>

#include <mpi.h>

namespace {

// Seconds that rank 0 waits for `bytes` to arrive at rank 1 and for a one-byte answer.
double TimeMessage(int rank, int bytes) {
  std::vector<char> payload(static_cast<size_t>(bytes));
  char answer = 0;
  MPI_Barrier(MPI_COMM_WORLD);
  const double start = MPI_Wtime();
  if (rank == 0) {
    MPI_Send(payload.data(), bytes, MPI_CHAR, 1, 0, MPI_COMM_WORLD);
    MPI_Recv(&answer, 1, MPI_CHAR, 1, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  } else if (rank == 1) {
    MPI_Recv(payload.data(), bytes, MPI_CHAR, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    MPI_Send(&answer, 1, MPI_CHAR, 0, 0, MPI_COMM_WORLD);
  }
  return MPI_Wtime() - start;
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int rank = 0;
  int size = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  const int bytes = argc > 1 ? std::atoi(argv[1]) : 1 << 22;

  char name[MPI_MAX_PROCESSOR_NAME] = {};
  int length = 0;
  MPI_Get_processor_name(name, &length);
  std::vector<char> names(static_cast<size_t>(size) * sizeof(name));
  MPI_Gather(name, sizeof(name), MPI_CHAR, names.data(), sizeof(name), MPI_CHAR, 0, MPI_COMM_WORLD);

  TimeMessage(rank, 1 << 10);  // opens the connection
  const double seconds = size > 1 ? TimeMessage(rank, bytes) : 0.0;
  if (rank == 0) {
    std::printf("hosts");
    for (int r = 0; r < size; ++r) std::printf(" %s", &names[static_cast<size_t>(r) * sizeof(name)]);
    std::printf("\nmbit_per_second %.1f\n", seconds > 0 ? bytes * 8e-6 / seconds : 0.0);
  }
  MPI_Finalize();
  return 0;
}
