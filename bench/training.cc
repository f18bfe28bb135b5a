#include <vector>

#include "base/clock.h"
#include "bench/benches.h"
#include "comm/ledger.h"
#include "trainer/assembly.h"

namespace conclave {

absl::StatusOr<BenchReport> BenchTraining(const Experiment& config, Communicator& world, const TrainingBenchOptions& options) {
  Assembly assembly;
  RETURN_IF_ERROR(Assemble(config, world, RealFileSystem(), &assembly));
  RETURN_IF_ERROR(assembly.scheme->Start(*assembly.field));
  Cursor cursor;
  std::vector<double> seconds;
  int64_t units = 0;
  WireCount wire;
  for (; cursor.step < options.warmup_steps + options.steps; ++cursor.step) {
    RETURN_IF_ERROR(world.Barrier("bench: start of a step"));
    if (world.ledger() != nullptr) world.ledger()->Take();
    const double began = RealClock().Seconds();
    ASSIGN_OR_RETURN(const StepReport report, assembly.scheme->Step(*assembly.field, cursor, *assembly.guard));
    double slowest = RealClock().Seconds() - began;
    const WireCount mine = world.ledger() != nullptr ? world.ledger()->Take().BetweenRanks() : WireCount{};
    RETURN_IF_ERROR(world.AllReduce("bench: time", Tensor(&slowest, {1}, DType::kF64), ReduceOp::kMax));
    if (cursor.step < options.warmup_steps) continue;
    seconds.push_back(slowest);
    units += report.evaluation.samples;
    wire += mine;
  }
  int64_t totals[2] = {wire.sent_bytes, wire.sent_messages};
  RETURN_IF_ERROR(world.AllReduce("bench: bytes", Tensor(totals, {2}, DType::kI64), ReduceOp::kSum));
  const double steps = options.steps;
  BenchResult result{.name = config.name() + ", a training step", .unit = "steps/s", .work = 1, .seconds = TimingOf(std::move(seconds))};
  if (assembly.model->sample_shape().kind != SampleShape::Kind::kNone) {
    result.unit = assembly.model->sample_shape().kind == SampleShape::Kind::kTokens ? "tokens/s" : "samples/s";
    result.work = static_cast<double>(units) / steps;
  }
  result.facts = {{"sent_bytes_all_ranks", static_cast<double>(totals[0]) / steps},
                  {"messages_all_ranks", static_cast<double>(totals[1]) / steps},
                  {"parameters", static_cast<double>(assembly.model->parameters().elements())}};
  return BenchReport{.bench = "train", .ranks = world.size(), .results = {std::move(result)}};
}

}  // namespace conclave
