#include "trainer/stop_signal.h"

#include <csignal>

#include <atomic>
#include <limits>

#include "base/clock.h"
#include "base/strings.h"

namespace conclave {
namespace {

std::atomic<int64_t> requested{0};

static_assert(std::atomic<int64_t>::is_always_lock_free, "signal handlers may only touch lock-free atomics");

void OnSignal(int signal) {
  const int64_t reason = static_cast<int64_t>(signal == SIGINT ? StopReason::kUser : StopReason::kPreempted);
  if (requested.load() < reason) requested.store(reason);
}

}  // namespace

void InstallStopHandlers() {
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  sigemptyset(&action.sa_mask);
  for (const int signal : {SIGUSR1, SIGTERM, SIGINT}) sigaction(signal, &action, nullptr);
}

StopRequests::StopRequests(const FileSystem* files, std::string stop_file, double time_limit_seconds)
    : files_(files),
      stop_file_(std::move(stop_file)),
      deadline_seconds_(time_limit_seconds > 0 ? RealClock().Seconds() + time_limit_seconds : std::numeric_limits<double>::infinity()) {}

StopReason StopRequests::Local() const {
  StopReason reason = static_cast<StopReason>(requested.load());
  if (reason == StopReason::kPreempted && !stop_file_.empty()) {
    const absl::StatusOr<std::string> text = files_->ReadAll(stop_file_);
    if (text.ok() && StripWhitespace(*text) == "user") reason = StopReason::kUser;
  }
  if (reason == StopReason::kNone && RealClock().Seconds() >= deadline_seconds_) reason = StopReason::kTimeLimit;
  return reason;
}

absl::StatusOr<StopReason> StopRequests::Agree(Communicator& control) const {
  int64_t reason = static_cast<int64_t>(Local());
  RETURN_IF_ERROR(control.AllReduce("stop requests", Tensor(&reason, {1}, DType::kI64), ReduceOp::kMax));
  return static_cast<StopReason>(reason);
}

}  // namespace conclave
