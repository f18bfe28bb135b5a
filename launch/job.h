// Job: the ranks of one command: MPI under a launcher, threads or one rank alone otherwise.
#ifndef CONCLAVE_LAUNCH_JOB_H_
#define CONCLAVE_LAUNCH_JOB_H_

#include <functional>
#include <string>

#include "base/status.h"
#include "comm/communicator.h"
#include "proto/experiment.pb.h"
#include "trainer/run_folder.h"

namespace conclave {

struct JobOptions {
  const Experiment* config = nullptr;  // transport, timeout, log settings
  const RunFolder* folder = nullptr;   // logs and heartbeats go there; null: neither
  int loopback_ranks = 1;              // ranks as threads, where no launcher started the process
};

// What a rank does. Its exit code should be the same on every rank.
using RankMain = std::function<absl::StatusOr<int>(Communicator& world)>;

// Runs `main` on every rank of the job and returns the process's exit code: main's, or that of the error. All ranks finish MPI before any
// returns a code other than 0. An error is printed by the rank that has it, by one of them where several have the same; one rank's error
// ends the job within seconds.
int RunJob(const JobOptions& options, const RankMain& main);

// True on the one process that should print what all processes know before MPI starts.
bool PrintsForAll();
// Prints "error: ..." and returns the exit code that fits: 2 for bad configs and usage, 1 otherwise.
int Fail(const absl::Status& status);

}  // namespace conclave

#endif  // CONCLAVE_LAUNCH_JOB_H_
