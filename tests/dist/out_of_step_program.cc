// Ranks of which one leaves out a collective: what the watchdog must find. Usage: out_of_step_program HEARTBEAT_DIR CULPRIT
#include <cstdio>
#include <cstdlib>

#include "comm/mpi_communicator.h"
#include "comm/watchdog.h"

namespace conclave {
namespace {

constexpr double kBudgetSeconds = 2;

absl::Status Run(const char* directory, int culprit) {
  ASSIGN_OR_RETURN(const std::unique_ptr<MpiSession> session, MpiSession::Start(nullptr, nullptr));
  Communicator& world = session->world();
  WatchdogOptions options{.directory = directory, .rank = world.rank(), .ranks = world.size()};
  options.budget_seconds.fill(kBudgetSeconds);
  ASSIGN_OR_RETURN(const std::unique_ptr<Watchdog> watchdog, Watchdog::Start(options));
  session->Attach(nullptr, watchdog.get());
  for (int64_t step = 1; step <= 5; ++step) {
    watchdog->SetPhase(Phase::kStep, step);
    double value = 1;
    if (step != 4 || world.rank() != culprit)
      RETURN_IF_ERROR(world.AllReduce("gradient", Tensor(&value, {1}, DType::kF64), ReduceOp::kSum));
    RETURN_IF_ERROR(world.Barrier("end of step"));
  }
  session->Attach(nullptr, nullptr);
  return absl::OkStatus();
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const absl::Status status = conclave::Run(argv[1], std::atoi(argv[2]));
  if (!status.ok()) std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}
