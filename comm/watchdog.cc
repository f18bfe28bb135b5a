#include "comm/watchdog.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>

namespace conclave {
namespace {

constexpr double kStepsOfPatience = 5;

template <size_t N>
void CopyText(std::string_view text, char (&to)[N]) {
  const size_t n = std::min(text.size(), N - 1);
  std::memcpy(to, text.data(), n);
  to[n] = 0;
}

// True: this rank is the first to report.
bool ClaimReport(const std::string& path, const std::string& report) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) return errno != EEXIST;
  const ssize_t written = write(fd, report.data(), report.size());
  close(fd);
  return written >= 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Watchdog>> Watchdog::Start(WatchdogOptions options) {
  std::error_code error;
  std::filesystem::create_directories(options.directory, error);
  const std::string path = HeartbeatFile(options.directory, options.rank);
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return FailedPrecondition("cannot write the heartbeat file %s: %s", path, std::strerror(errno));
  if (options.rank == 0) unlink((options.directory + "/hang.txt").c_str());
  return std::unique_ptr<Watchdog>(new Watchdog(std::move(options), fd));
}

Watchdog::Watchdog(WatchdogOptions options, int fd) : options_(std::move(options)), fd_(fd) {
  state_.rank = options_.rank;
  state_.pid = getpid();
  char host[sizeof(state_.host)] = {};
  gethostname(host, sizeof(host) - 1);
  CopyText(host, state_.host);
  changed_ns_ = step_began_ns_ = RealClock().MonotonicNanos();
  thread_ = std::thread([this] { Loop(); });
}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  stop_changed_.notify_all();
  thread_.join();
  close(fd_);
}

void Watchdog::SetPhase(Phase phase, int64_t step) {
  const std::lock_guard lock(mutex_);
  const int64_t now = RealClock().MonotonicNanos();
  if (state_.phase == Phase::kStep && (phase != Phase::kStep || step != state_.step)) {
    step_seconds_[steps_seen_++ % kRememberedSteps] = static_cast<double>(now - step_began_ns_) * 1e-9;
  }
  if (phase == Phase::kStep) step_began_ns_ = now;
  state_.phase = phase;
  state_.step = step;
  changed_ns_ = now;
}

void Watchdog::Enter(std::string_view label, std::string_view communicator, int64_t sequence) {
  const std::lock_guard lock(mutex_);
  state_.waiting = 1;
  state_.sequence = sequence;
  CopyText(label, state_.label);
  CopyText(communicator, state_.communicator);
  changed_ns_ = RealClock().MonotonicNanos();
}

void Watchdog::Leave() {
  const std::lock_guard lock(mutex_);
  state_.waiting = 0;
  changed_ns_ = RealClock().MonotonicNanos();
}

double Watchdog::BudgetSeconds() {
  const double configured = options_.budget_seconds[static_cast<int>(state_.phase)];
  if (configured <= 0 || state_.phase != Phase::kStep || steps_seen_ == 0) return configured;
  std::array<double, kRememberedSteps> sorted = step_seconds_;
  const int64_t n = std::min<int64_t>(steps_seen_, kRememberedSteps);
  std::nth_element(sorted.begin(), sorted.begin() + n / 2, sorted.begin() + n);
  return std::max(configured, kStepsOfPatience * sorted[n / 2]);
}

Heartbeat Watchdog::Snapshot() {
  Heartbeat h = state_;
  h.monotonic_ns = RealClock().MonotonicNanos();
  h.wall_ns = RealClock().WallNanos();
  h.quiet_ns = h.monotonic_ns - changed_ns_;
  return h;
}

void Watchdog::Loop() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    const Heartbeat mine = Snapshot();
    const double budget = BudgetSeconds();
    lock.unlock();
    const bool written = pwrite(fd_, &mine, sizeof(mine), 0) == static_cast<ssize_t>(sizeof(mine));
    if (budget > 0 && static_cast<double>(mine.quiet_ns) * 1e-9 > budget) {
      if (!written) std::fprintf(stderr, "rank %d: its heartbeat could not be written\n", options_.rank);
      Expire(mine, budget);
      return;
    }
    lock.lock();
    stop_changed_.wait_for(lock, std::chrono::duration<double>(options_.heartbeat_seconds), [&] { return stop_; });
  }
}

void Watchdog::Expire(const Heartbeat& mine, double budget_seconds) {
  const auto nanos = [](double seconds) { return static_cast<int64_t>(seconds * 1e9); };
  std::vector<std::optional<Heartbeat>> all = ReadHeartbeats(options_.directory, options_.ranks);
  all[options_.rank] = mine;
  const HangView view = {
      .me = options_.rank, .wall_ns = mine.wall_ns, .silent_ns = nanos(options_.silent_seconds), .busy_ns = nanos(budget_seconds / 2)};
  const std::vector<Suspect> culprits = FindCulprits(all, view);
  std::string report = absl::StrFormat("the job hangs: rank %d got no further for %.1f s (budget %.1f s)\n", options_.rank,
                                       static_cast<double>(mine.quiet_ns) * 1e-9, budget_seconds);
  for (const Suspect& s : culprits) report += absl::StrFormat("culprit: rank %d %s\n", s.rank, s.why);
  if (culprits.empty()) report += "culprit: none found; all ranks wait for the same operation, so a message or a link is lost\n";
  for (int r = 0; r < options_.ranks; ++r) report += "  " + Describe(r, all[r], mine.wall_ns) + "\n";
  report += absl::StrFormat("every rank now exits with code %d; the last committed checkpoint is untouched\n", kWatchdogExitCode);
  if (options_.on_expiry) {
    options_.on_expiry(report);
    return;
  }
  if (ClaimReport(options_.directory + "/hang.txt", report)) {
    std::fputs(report.c_str(), stderr);
    std::fflush(stderr);
  } else {
    std::this_thread::sleep_for(std::chrono::seconds(1));  // the rank that reports must not be torn down by our exit
  }
  _exit(kWatchdogExitCode);
}

}  // namespace conclave
