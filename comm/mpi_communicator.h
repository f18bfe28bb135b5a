// Ranks as MPI processes.
#ifndef CONCLAVE_COMM_MPI_COMMUNICATOR_H_
#define CONCLAVE_COMM_MPI_COMMUNICATOR_H_

#include <memory>
#include <string>

#include "base/status.h"
#include "comm/communicator.h"

namespace conclave {

// MPI of this process: initialised by Start (unless the program already did), finalised by the destructor (only if Start initialised). All
// calls must come from one thread (and, with Communicator::StartProgressThread, a second one that they take turns with). Messages of any
// size travel: those above 1 GiB in pieces. Within a node, short ones and those of an all-reduce go through shared memory, not by MPI.
class MpiSession {
 public:
  // Collective over all processes of the job. Errors: Unavailable where MPI does not start or grants less than MPI_THREAD_SERIALIZED.
  static absl::StatusOr<std::unique_ptr<MpiSession>> Start(int* argc, char*** argv);
  ~MpiSession();

  Communicator& world() { return *world_; }  // named "world"
  // For the world and every group split from it after the call. Either may be null; both must outlive the session.
  void Attach(Ledger* ledger, Watchdog* watchdog);
  // Ends all processes of the job at once.
  [[noreturn]] void Abort(int exit_code);

 private:
  MpiSession() = default;
  std::unique_ptr<Communicator> world_;
  bool initialised_here_ = false;
};

// "3.1, Open MPI v4.1.4". Callable before Start.
std::string MpiLibraryVersion();

}  // namespace conclave

#endif  // CONCLAVE_COMM_MPI_COMMUNICATOR_H_
