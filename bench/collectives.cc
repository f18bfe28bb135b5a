#include <algorithm>
#include <vector>

#include "base/clock.h"
#include "bench/benches.h"
#include "comm/exchange.h"
#include "comm/ledger.h"

namespace conclave {
namespace {

constexpr int64_t kSampleBytes = int64_t{32} << 20;  // a sample repeats small calls until they add up to about this
constexpr int64_t kMostCalls = 200;

struct Sampled {
  Timing seconds;         // of one call, on the slowest rank
  double sent_bytes = 0;  // of one call, all ranks together, between ranks
  double messages = 0;
};

// All ranks call `body` equally often. The first call warms up and is what the ledger reports.
absl::StatusOr<Sampled> SampleCollective(Communicator& world, int samples, int64_t bytes, const std::function<absl::Status()>& body) {
  CHECK(world.ledger() != nullptr);
  world.ledger()->Take();
  RETURN_IF_ERROR(body());
  const WireCount mine = world.ledger()->Take().BetweenRanks();
  int64_t wire[2] = {mine.sent_bytes, mine.sent_messages};
  RETURN_IF_ERROR(world.AllReduce("bench: bytes", Tensor(wire, {2}, DType::kI64), ReduceOp::kSum));
  Sampled result{.sent_bytes = static_cast<double>(wire[0]), .messages = static_cast<double>(wire[1])};
  const int64_t calls = std::clamp<int64_t>(kSampleBytes / bytes, 1, kMostCalls);
  std::vector<double> seconds;
  for (int i = 0; i < samples; ++i) {
    RETURN_IF_ERROR(world.Barrier("bench: start of a sample"));
    const double began = RealClock().Seconds();
    for (int64_t c = 0; c < calls; ++c) RETURN_IF_ERROR(body());
    double slowest = (RealClock().Seconds() - began) / static_cast<double>(calls);
    RETURN_IF_ERROR(world.AllReduce("bench: time", Tensor(&slowest, {1}, DType::kF64), ReduceOp::kMax));
    seconds.push_back(slowest);
  }
  result.seconds = TimingOf(std::move(seconds));
  return result;
}

BenchResult ResultOf(const std::string& name, int64_t bytes, const Sampled& sampled) {
  return {.name = name,
          .unit = "GB/s",
          .work = 1e-9 * static_cast<double>(bytes),
          .seconds = sampled.seconds,
          .facts = {{"sent_bytes_all_ranks", sampled.sent_bytes}, {"messages_all_ranks", sampled.messages}}};
}

absl::StatusOr<Sampled> SampleExchange(Communicator& world, Communicator& self, int samples, int64_t elements) {
  ParameterSet parameters;
  const BlockId block = parameters.Add({.name = "vector", .shape = {elements}});
  const Layout layout = ReplicatedLayout(&parameters, world.rank(), world.size());
  const std::unique_ptr<Exchange> exchange =
      MakeExactExchange({.layout = &layout, .workers = {.workers = world.size(), .ranks = world.size()}, .world = &world, .data = &self});
  FlatVector vector(&layout, DType::kF32);
  vector.flat().Fill(1);
  uint32_t step = 0;
  return SampleCollective(world, samples, elements * SizeOf(DType::kF32), [&]() -> absl::Status {
    exchange->Begin(step++, 0);
    RETURN_IF_ERROR(exchange->Put(WorkerId{world.rank()}, block, vector.block(block)));
    RETURN_IF_ERROR(exchange->Finish().status());
    exchange->Commit();
    return absl::OkStatus();
  });
}

}  // namespace

absl::StatusOr<BenchReport> BenchCollectives(Communicator& world, const CollectiveBenchOptions& options) {
  BenchReport report{.bench = "collectives", .ranks = world.size()};
  // No block is an expert's, but the exchange wants the group that would sum them.
  ASSIGN_OR_RETURN(const std::unique_ptr<Communicator> self, world.Split(world.rank(), 0, "self"));
  for (int64_t bytes = 4096; bytes <= options.largest_bytes; bytes *= 16) {
    const int64_t elements = bytes / SizeOf(DType::kF32);
    const std::string size = absl::StrFormat("%d KiB", bytes / 1024);
    ASSIGN_OR_RETURN(const Sampled exchange, SampleExchange(world, *self, options.samples, elements));
    report.results.push_back(ResultOf("exact exchange " + size, bytes, exchange));
    const OwnedTensor data({elements}, DType::kF32);
    ASSIGN_OR_RETURN(const Sampled reduced, SampleCollective(world, options.samples, bytes,
                                                             [&] { return world.AllReduce("bench: all-reduce", *data, ReduceOp::kSum); }));
    report.results.push_back(ResultOf("all-reduce " + size, bytes, reduced));
  }
  return report;
}

}  // namespace conclave
