// Watchdog: a thread beside each rank that ends the job when the rank gets no further, and says whose fault it is. It needs no MPI.
#ifndef CONCLAVE_COMM_WATCHDOG_H_
#define CONCLAVE_COMM_WATCHDOG_H_

#include <array>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "base/clock.h"
#include "base/status.h"
#include "comm/heartbeat.h"

namespace conclave {

// The process ends with this code when its watchdog expires.
inline constexpr int kWatchdogExitCode = 70;

struct WatchdogOptions {
  std::string directory;  // of the heartbeats; shared by all ranks, made if it is absent
  int rank = 0;
  int ranks = 1;
  // By Phase: how long a rank may stay in one wait, or between two waits, without any change. 0: for ever.
  std::array<double, kPhases> budget_seconds = {120, 120, 120, 120};
  double heartbeat_seconds = 0.5;
  double silent_seconds = 5;  // a rank whose heartbeat is older is called stopped or dead
  // What an expiry does after the report is built. Null: print it to stderr (one rank of the job does), then _exit(kWatchdogExitCode).
  std::function<void(const std::string& report)> on_expiry;
};

// The budget of steps is never below 5 times the median of the last steps. Of several ranks that expire, the one that can create
// <directory>/hang.txt writes the report there. Thread-safe; Enter and Leave cost well under a microsecond.
class Watchdog {
 public:
  // Errors: the heartbeat file cannot be written.
  static absl::StatusOr<std::unique_ptr<Watchdog>> Start(WatchdogOptions options);
  ~Watchdog();

  // A new phase, or the next step of the same.
  void SetPhase(Phase phase, int64_t step);
  // The rank begins, or has ended, waiting for an operation.
  void Enter(std::string_view label, std::string_view communicator, int64_t sequence);
  void Leave();

 private:
  static constexpr int kRememberedSteps = 32;
  explicit Watchdog(WatchdogOptions options, int fd);
  void Loop();
  double BudgetSeconds();  // the mutex is held
  Heartbeat Snapshot();    // the mutex is held
  void Expire(const Heartbeat& mine, double budget_seconds);

  const WatchdogOptions options_;
  const int fd_;
  std::mutex mutex_;
  std::condition_variable stop_changed_;
  bool stop_ = false;
  Heartbeat state_;
  int64_t changed_ns_ = 0;  // monotonic time of the last change
  int64_t step_began_ns_ = 0;
  std::array<double, kRememberedSteps> step_seconds_{};
  int64_t steps_seen_ = 0;
  std::thread thread_;
};

// Enter and Leave by scope; a null watchdog is none.
class WatchedWait {
 public:
  WatchedWait(Watchdog* watchdog, std::string_view label, std::string_view communicator, int64_t sequence) : watchdog_(watchdog) {
    if (watchdog_ != nullptr) watchdog_->Enter(label, communicator, sequence);
  }
  ~WatchedWait() {
    if (watchdog_ != nullptr) watchdog_->Leave();
  }
  WatchedWait(const WatchedWait&) = delete;
  WatchedWait& operator=(const WatchedWait&) = delete;

 private:
  Watchdog* watchdog_;
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_WATCHDOG_H_
