#include "launch/job.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <mutex>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/digest.h"
#include "base/log.h"
#include "comm/launcher.h"
#include "comm/ledger.h"
#include "comm/loopback.h"
#include "comm/mpi_communicator.h"
#include "comm/watchdog.h"
#include "tensor/products.h"
#include "trainer/stop_signal.h"

namespace conclave {
namespace {

LogLevel LevelOf(ObserveConfig::Level level) {
  switch (level) {
    case ObserveConfig::DEBUG:
      return LogLevel::kDebug;
    case ObserveConfig::WARNING:
      return LogLevel::kWarning;
    case ObserveConfig::ERROR:
      return LogLevel::kError;
    default:
      return LogLevel::kInfo;
  }
}

absl::Status StartLog(const JobOptions& options, int rank) {
  LogOptions log{.rank = rank};
  if (options.config != nullptr) {
    log.stderr_level = rank == 0 ? LevelOf(options.config->observe().log_level()) : LogLevel::kWarning;
    if (options.folder != nullptr && options.config->observe().rank_logs()) {
      RETURN_IF_ERROR(RealFileSystem().CreateDirs(ParentPath(options.folder->Log(rank))));
      log.file = options.folder->Log(rank);
    }
  }
  return InitLog(log);
}

std::optional<WatchdogOptions> MakeWatchdogOptions(const JobOptions& options, int rank, int ranks) {
  if (options.config == nullptr || options.folder == nullptr) return std::nullopt;
  WatchdogOptions watchdog{.directory = options.folder->Heartbeats(), .rank = rank, .ranks = ranks};
  const double timeout = options.config->comm().timeout_seconds();
  watchdog.budget_seconds.fill(timeout);
  // A rank that is stopped must be known as silent by the time the others run out of patience; heartbeats come twice a second.
  watchdog.silent_seconds = std::min(watchdog.silent_seconds, std::max(4 * watchdog.heartbeat_seconds, timeout / 2));
  return watchdog;
}

int ExitCodeOf(const absl::Status& status) { return status.code() == absl::StatusCode::kInvalidArgument ? kExitUsage : kExitFailed; }

// Aborted: another rank has the error and says it.
bool Speaks(const absl::Status& status) { return !status.ok() && status.code() != absl::StatusCode::kAborted; }

// How a rank ended: its exit code, and a digest of the error it would print, 0 for none.
struct Ending {
  int64_t code = 0, error = 0;
};

// Gathers the endings of all ranks, [size] in rank order. A rank that failed alone must not wait for ranks which are stuck waiting for it:
// false after a while.
absl::StatusOr<bool> GatherEndings(Communicator& world, bool wait_for_all, const Ending& mine, std::span<Ending> all) {
  constexpr double kPatienceSeconds = 10;
  constexpr useconds_t kPauseMicroseconds = 200;
  const Collective op{.kind = CollectiveKind::kAllGather,
                      .label = "end of the job",
                      .send = Tensor(const_cast<Ending*>(&mine), {1, 2}, DType::kI64),
                      .recv = Tensor(all.data(), {world.size(), 2}, DType::kI64)};
  ASSIGN_OR_RETURN(Request request, world.Start(op));
  if (wait_for_all) {
    RETURN_IF_ERROR(world.Wait(request));
    return true;
  }
  for (const double deadline = RealClock().Seconds() + kPatienceSeconds; RealClock().Seconds() < deadline; usleep(kPauseMicroseconds)) {
    ASSIGN_OR_RETURN(const bool done, world.Test(request));
    if (done) return true;
  }
  return false;
}

// The ranks leave together, with the exit code of the lowest that has an error. Ranks with the same error print it once.
int EndTogether(MpiSession& session, const absl::StatusOr<int>& result) {
  Communicator& world = session.world();
  const absl::Status& status = result.status();
  const auto digest = [](const absl::Status& s) { return static_cast<int64_t>(DigestOf(std::string(s.message())) | 1); };
  const Ending mine = {.code = result.ok() ? *result : ExitCodeOf(status), .error = Speaks(status) ? digest(status) : 0};
  std::vector<Ending> all(world.size());
  // Where the transport failed the others may be gone.
  const absl::StatusOr<bool> gathered =
      absl::IsUnavailable(status) ? absl::StatusOr<bool>(false) : GatherEndings(world, result.ok(), mine, all);
  if (!gathered.ok() || !*gathered) {
    if (mine.error != 0) Fail(status);
    session.Abort(mine.code == kExitFinished ? kExitFailed : static_cast<int>(mine.code));
  }
  const auto same = [&](const Ending& e) { return e.error == mine.error; };
  if (mine.error != 0 && std::ranges::find_if(all, same) - all.begin() == world.rank()) Fail(status);
  const auto first = std::ranges::find_if(all, [](const Ending& e) { return e.error != 0; });
  return static_cast<int>(first == all.end() ? mine.code : first->code);
}

absl::StatusOr<int> RunMpiRank(const JobOptions& options, const RankMain& main, MpiSession& session, std::unique_ptr<Watchdog>* watchdog) {
  const int rank = session.world().rank();
  RETURN_IF_ERROR(StartLog(options, rank));
  UseOneComputeThread();
  if (const auto watch = MakeWatchdogOptions(options, rank, session.world().size())) {
    ASSIGN_OR_RETURN(*watchdog, Watchdog::Start(*watch));
  }
  Ledger ledger;
  session.Attach(&ledger, watchdog->get());
  absl::StatusOr<int> result = main(session.world());
  session.Attach(nullptr, watchdog->get());
  return result;
}

int RunUnderMpi(const JobOptions& options, const RankMain& main) {
  const absl::StatusOr<std::unique_ptr<MpiSession>> session = MpiSession::Start(nullptr, nullptr);
  if (!session.ok()) return Fail(session.status());
  std::unique_ptr<Watchdog> watchdog;
  const absl::StatusOr<int> result = RunMpiRank(options, main, **session, &watchdog);
  if (watchdog != nullptr) watchdog->SetPhase(Phase::kInit, 0);
  const int code = EndTogether(**session, result);
  (*session)->Attach(nullptr, nullptr);
  return code;
}

int RunAsThreads(const JobOptions& options, const RankMain& main) {
  if (const absl::Status started = StartLog(options, 0); !started.ok()) return Fail(started);
  LoopbackOptions loopback;
  loopback.watchdog = MakeWatchdogOptions(options, 0, options.loopback_ranks);
  std::mutex mutex;
  absl::Status failure;  // the first that says something
  int code = kExitFinished;
  const absl::Status ended = RunRanks(
      options.loopback_ranks,
      [&](Communicator& world) -> absl::Status {
        const absl::StatusOr<int> mine = main(world);
        const std::lock_guard lock(mutex);
        if (mine.ok() && world.rank() == 0) code = *mine;
        if (failure.ok() && Speaks(mine.status())) failure = mine.status();
        return mine.status();
      },
      loopback);
  if (!failure.ok()) return Fail(failure);
  return ended.ok() ? code : Fail(ended);
}

}  // namespace

int RunJob(const JobOptions& options, const RankMain& main) {
  const auto transport = options.config == nullptr ? CommConfig::AUTO : options.config->comm().transport();
  const bool mpi = transport == CommConfig::MPI || (transport == CommConfig::AUTO && PlaceByLauncher().has_value());
  return mpi ? RunUnderMpi(options, main) : RunAsThreads(options, main);
}

bool PrintsForAll() {
  const auto place = PlaceByLauncher();
  return !place || place->rank == 0;
}

int Fail(const absl::Status& status) {
  const std::string message(status.message());
  // Diagnostics of a config carry their place and the word "error" already. Aborted: another rank has the error and prints it.
  const char* prefix = message.find(": error: ") == std::string::npos ? "error: " : "";
  if (status.code() != absl::StatusCode::kAborted) std::fprintf(stderr, "%s%s\n", prefix, message.c_str());
  return status.code() == absl::StatusCode::kInvalidArgument ? kExitUsage : kExitFailed;
}

}  // namespace conclave
