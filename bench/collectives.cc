#include <algorithm>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "bench/benches.h"
#include "bench/exchange_of_one_block.h"
#include "bench/mpi_all_reduce.h"
#include "comm/ledger.h"

namespace conclave {
namespace {

constexpr int64_t kSampleBytes = int64_t{32} << 20;  // a sample repeats small calls until they add up to about this
constexpr int64_t kMostCalls = 200;

// One way to sum a vector over the ranks; all ranks call `body` equally often.
struct Contender {
  std::string name;
  std::function<absl::Status()> body;
  std::vector<double> seconds;  // of one call, on the slowest rank
  double sent_bytes = 0;        // of one call, all ranks together, between ranks
  double messages = 0;
};

// The first call warms up and is what the ledger reports.
absl::Status WarmUp(Communicator& world, Contender& contender) {
  CHECK(world.ledger() != nullptr);
  world.ledger()->Take();
  RETURN_IF_ERROR(contender.body());
  const WireCount mine = world.ledger()->Take().BetweenRanks();
  int64_t wire[2] = {mine.sent_bytes, mine.sent_messages};
  RETURN_IF_ERROR(world.AllReduce("bench: bytes", Tensor(wire, {2}, DType::kI64), ReduceOp::kSum));
  contender.sent_bytes = static_cast<double>(wire[0]), contender.messages = static_cast<double>(wire[1]);
  return absl::OkStatus();
}

absl::Status SampleOnce(Communicator& world, int64_t calls, Contender& contender) {
  RETURN_IF_ERROR(world.Barrier("bench: start of a sample"));
  const double began = RealClock().Seconds();
  for (int64_t c = 0; c < calls; ++c) RETURN_IF_ERROR(contender.body());
  double slowest = (RealClock().Seconds() - began) / static_cast<double>(calls);
  RETURN_IF_ERROR(world.AllReduce("bench: time", Tensor(&slowest, {1}, DType::kF64), ReduceOp::kMax));
  contender.seconds.push_back(slowest);
  return absl::OkStatus();
}

// In turn, so that what else runs on the machine meets all contenders alike.
absl::Status SampleInTurn(Communicator& world, int samples, int64_t bytes, std::vector<Contender>& contenders) {
  const int64_t calls = std::clamp<int64_t>(kSampleBytes / bytes, 1, kMostCalls);
  for (Contender& contender : contenders) RETURN_IF_ERROR(WarmUp(world, contender));
  for (int i = 0; i < samples; ++i) {
    for (Contender& contender : contenders) RETURN_IF_ERROR(SampleOnce(world, calls, contender));
  }
  return absl::OkStatus();
}

BenchResult ResultOf(int64_t bytes, const Contender& contender) {
  return {.name = contender.name + absl::StrFormat(" %d KiB", bytes / 1024),
          .unit = "GB/s",
          .work = 1e-9 * static_cast<double>(bytes),
          .seconds = TimingOf(contender.seconds),
          .facts = {{"sent_bytes_all_ranks", contender.sent_bytes}, {"messages_all_ranks", contender.messages}}};
}

}  // namespace

absl::StatusOr<BenchReport> BenchCollectives(Communicator& world, const CollectiveBenchOptions& options) {
  BenchReport report{.bench = "collectives", .ranks = world.size()};
  // No block is an expert's, but the exchange wants the group that would sum them.
  ASSIGN_OR_RETURN(const std::unique_ptr<Communicator> self, world.Split(world.rank(), 0, "self"));
  for (int64_t bytes = options.smallest_bytes; bytes <= options.largest_bytes; bytes *= 4) {
    const int64_t elements = bytes / SizeOf(DType::kF32);
    const OwnedTensor data({elements}, DType::kF32);
    ASSIGN_OR_RETURN(const auto exact, ExchangeOfOneBlock::Make(world, *self, elements, ""));
    std::unique_ptr<ExchangeOfOneBlock> coded;
    std::vector<Contender> contenders;
    contenders.push_back({.name = "exact exchange", .body = [&] { return exact->Run(); }});
    if (!options.codec.empty()) {
      ASSIGN_OR_RETURN(coded, ExchangeOfOneBlock::Make(world, *self, elements, options.codec));
      contenders.push_back({.name = "coded exchange", .body = [&] { return coded->Run(); }});
    }
    contenders.push_back({.name = "all-reduce", .body = [&] { return world.AllReduce("bench: all-reduce", *data, ReduceOp::kSum); }});
    if (RunsUnderMpi()) contenders.push_back({.name = "MPI_Allreduce", .body = [&] { return MpiAllReduce(*data); }});
    RETURN_IF_ERROR(SampleInTurn(world, options.samples, bytes, contenders));
    for (const Contender& contender : contenders) report.results.push_back(ResultOf(bytes, contender));
  }
  return report;
}

}  // namespace conclave
