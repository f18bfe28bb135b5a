#include "launch/job.h"

#include <cstdio>

#include "base/log.h"
#include "comm/ledger.h"
#include "comm/launcher.h"
#include "comm/loopback.h"
#include "comm/mpi_communicator.h"
#include "comm/watchdog.h"
#include "tensor/products.h"
#include "trainer/stop_signal.h"

namespace conclave {
namespace {

LogLevel LevelOf(ObserveConfig::Level level) {
  switch (level) {
    case ObserveConfig::DEBUG: return LogLevel::kDebug;
    case ObserveConfig::WARNING: return LogLevel::kWarning;
    case ObserveConfig::ERROR: return LogLevel::kError;
    default: return LogLevel::kInfo;
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
  watchdog.budget_seconds.fill(options.config->comm().timeout_seconds());
  return watchdog;
}

int ExitCode(const absl::StatusOr<int>& result) { return result.ok() ? *result : Fail(result.status()); }

absl::StatusOr<int> RunUnderMpi(const JobOptions& options, const RankMain& main) {
  ASSIGN_OR_RETURN(const std::unique_ptr<MpiSession> session, MpiSession::Start(nullptr, nullptr));
  const int rank = session->world().rank();
  RETURN_IF_ERROR(StartLog(options, rank));
  UseOneComputeThread();
  Ledger ledger;
  std::unique_ptr<Watchdog> watchdog;
  if (const auto watch = MakeWatchdogOptions(options, rank, session->world().size())) {
    ASSIGN_OR_RETURN(watchdog, Watchdog::Start(*watch));
  }
  session->Attach(&ledger, watchdog.get());
  const absl::StatusOr<int> result = main(session->world());
  const int code = ExitCode(result);
  // Ranks that agreed on their end leave together; one that fails alone must not wait for the others.
  if (!result.ok() && result.status().code() == absl::StatusCode::kUnavailable) session->Abort(code);
  if (watchdog != nullptr) watchdog->SetPhase(Phase::kInit, 0);
  if (absl::Status ended = session->world().Barrier("end of the job"); !ended.ok()) session->Abort(code == 0 ? kExitFailed : code);
  session->Attach(nullptr, nullptr);
  return code;
}

absl::StatusOr<int> RunAsThreads(const JobOptions& options, const RankMain& main) {
  RETURN_IF_ERROR(StartLog(options, 0));
  LoopbackOptions loopback;
  loopback.watchdog = MakeWatchdogOptions(options, 0, options.loopback_ranks);
  int code = kExitFinished;
  RETURN_IF_ERROR(RunRanks(
      options.loopback_ranks,
      [&](Communicator& world) -> absl::Status {
        ASSIGN_OR_RETURN(const int mine, main(world));
        if (world.rank() == 0) code = mine;
        return absl::OkStatus();
      },
      loopback));
  return code;
}

}  // namespace

int RunJob(const JobOptions& options, const RankMain& main) {
  const auto transport = options.config == nullptr ? CommConfig::AUTO : options.config->comm().transport();
  const bool mpi = transport == CommConfig::MPI || (transport == CommConfig::AUTO && PlaceByLauncher().has_value());
  if (mpi) {
    const absl::StatusOr<int> code = RunUnderMpi(options, main);
    return code.ok() ? *code : Fail(code.status());
  }
  return ExitCode(RunAsThreads(options, main));
}

bool PrintsForAll() {
  const auto place = PlaceByLauncher();
  return !place || place->rank == 0;
}

int Fail(const absl::Status& status) {
  // Aborted: another rank has the error and prints it.
  if (status.code() != absl::StatusCode::kAborted) std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
  return status.code() == absl::StatusCode::kInvalidArgument ? kExitUsage : kExitFailed;
}

}  // namespace conclave
