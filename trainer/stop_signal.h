// Stop requests: signals and the stop file, agreed on by all ranks at a step boundary.
#ifndef CONCLAVE_TRAINER_STOP_SIGNAL_H_
#define CONCLAVE_TRAINER_STOP_SIGNAL_H_

#include <cstdint>
#include <string>

#include "base/file_system.h"
#include "comm/communicator.h"

namespace conclave {

// Ordered by precedence: all ranks act on the largest any of them saw.
enum class StopReason : int64_t { kNone = 0, kTimeLimit = 1, kPreempted = 2, kUser = 3 };

// Exit codes that a supervisor understands.
inline constexpr int kExitFinished = 0, kExitFailed = 1, kExitUsage = 2, kExitRequeue = 75, kExitUser = 93;

// USR1 and TERM ask for a stop with a checkpoint (75), INT for a user's stop (93). Handlers only set a flag; they are process-wide, so
// install them once.
void InstallStopHandlers();

// What this process was asked for. A launcher that turns everything into USR1 tells the kinds apart by a stop file holding "user" or
// "preempt".
class StopRequests {
 public:
  // stop_file may be empty. time_limit_seconds: 0 for none, counted from construction.
  StopRequests(const FileSystem* files, std::string stop_file, double time_limit_seconds);

  // The agreed reason, the same on every rank. Collective; one int per call.
  absl::StatusOr<StopReason> Agree(Communicator& control) const;

 private:
  StopReason Local() const;
  const FileSystem* files_;
  std::string stop_file_;
  double deadline_seconds_;
};

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_STOP_SIGNAL_H_
