#include <algorithm>
#include <map>
#include <vector>

#include "base/trace.h"
#include "bench/benches.h"
#include "bench/library_rates.h"
#include "comm/ledger.h"
#include "tensor/product_tally.h"
#include "tensor/products.h"
#include "trainer/assembly.h"

namespace conclave {
namespace {

std::string NameOfProduct(const LibraryProduct& p) {
  const char* const kinds[] = {"forward", "input gradient", "weight gradient"};
  return absl::StrFormat("%s %d x %d -> %d", kinds[static_cast<int>(p.kind)], p.rows, p.in, p.out);
}

// What one product of the step did, a step at a time.
struct ProductSeries {
  LibraryProduct mean;  // rows: of a call, on average
  bool split = false;   // from parts of bf16, not by a library
  double flop = 0;      // all steps
  int64_t calls = 0;
  std::vector<double> seconds;  // all 0 for attention's, of which no time is taken
  bool timed() const { return !seconds.empty() && std::ranges::max(seconds) > 0; }
};

struct OpSeries {
  int64_t calls = 0;
  std::vector<double> seconds;
};

// Measures steps of an assembled run, and between them the library rates of the products that they make.
class StepBench {
 public:
  StepBench(Assembly* assembly, Communicator* world, const TrainingBenchOptions& options)
      : assembly_(*assembly), world_(*world), options_(options) {}

  absl::Status Run() {
    RETURN_IF_ERROR(assembly_.scheme->Start(*assembly_.field));
    for (; cursor_.step < options_.warmup_steps; ++cursor_.step) {
      tally_.Clear();
      RETURN_IF_ERROR(Step().status());
    }
    ChooseProducts();
    for (; cursor_.step < options_.warmup_steps + options_.steps; ++cursor_.step) {
      Tracer tracer(world_.rank());
      tally_.Clear();
      {
        const ThreadTrace bound(&tracer, "bench");
        ASSIGN_OR_RETURN(const double seconds, Step());
        seconds_.push_back(seconds);
      }
      Collect(tracer);
      rates_->Sample();
    }
    return absl::OkStatus();
  }

  absl::StatusOr<BenchReport> Report(const std::string& name) {
    RETURN_IF_ERROR(assembly_.scheme->Settle());
    int64_t totals[2] = {wire_.sent_bytes, wire_.sent_messages};
    RETURN_IF_ERROR(world_.AllReduce("bench: bytes", Tensor(totals, {2}, DType::kI64), ReduceOp::kSum));
    const double steps = options_.steps;
    BenchResult step{.name = name + ", a training step", .unit = "steps/s", .work = 1, .seconds = TimingOf(seconds_)};
    if (const SampleShape shape = assembly_.model->sample_shape(); shape.kind != SampleShape::Kind::kNone) {
      step.unit = absl::StrFormat("%s/s", shape.unit());
      step.work = static_cast<double>(units_) / steps;
    }
    step.facts = {{"sent_bytes_all_ranks", static_cast<double>(totals[0]) / steps},
                  {"messages_all_ranks", static_cast<double>(totals[1]) / steps},
                  {"parameters", static_cast<double>(assembly_.model->parameters().elements())},
                  {"cpu_seconds", spent_.cpu / steps}};
    const Moment ceiling = Ceiling(false);
    if (ceiling.wall > 0) {
      step.facts.emplace_back("ceiling", step.work / ceiling.wall);
      step.facts.emplace_back("of_ceiling", ceiling.wall * steps / spent_.wall);
      step.facts.emplace_back("of_ceiling_cpu", ceiling.cpu * steps / spent_.cpu);
      step.facts.emplace_back("of_ceiling_cpu_without_attention", Ceiling(true).cpu * steps / spent_.cpu);
    }
    BenchReport report{.bench = "train", .ranks = world_.size()};
    const double median = step.seconds.median;
    report.results.push_back(std::move(step));
    AddProducts(median, &report);
    AddOps(median, &report);
    return report;
  }

 private:
  // Seconds of the slowest rank.
  absl::StatusOr<double> Step() {
    RETURN_IF_ERROR(world_.Barrier("bench: start of a step"));
    if (world_.ledger() != nullptr) world_.ledger()->Take();
    const Moment began = Moment::Now();
    StepReport report;
    {
      const TraceSpan span("step");
      ASSIGN_OR_RETURN(report, assembly_.scheme->Step(*assembly_.field, cursor_, *assembly_.guard));
    }
    const Moment spent = Moment::Now() - began;
    double slowest = spent.wall;
    const WireCount mine = world_.ledger() != nullptr ? world_.ledger()->Take().BetweenRanks() : WireCount{};
    RETURN_IF_ERROR(world_.AllReduce("bench: time", Tensor(&slowest, {1}, DType::kF64), ReduceOp::kMax));
    if (cursor_.step >= options_.warmup_steps) {
      units_ += report.evaluation.samples;
      wire_ += mine;
      spent_ += spent;
    }
    return slowest;
  }

  // The products of the last warm-up step are those whose rates are measured. Only those of f32 have libraries to be compared with.
  void ChooseProducts() {
    std::vector<LibraryProduct> chosen;
    const ProductPrecision precision = PrecisionOf(assembly_.config.model()).products;
    const bool full = precision != ProductPrecision::kBf16;
    for (const auto& [shape, total] : tally_.totals()) {
      const LibraryProduct mean{shape.kind, (total.rows + total.calls / 2) / total.calls, shape.in, shape.out};
      if (mean.rows == 0 || !full || assembly_.scheme->point().dtype() != DType::kF32) continue;
      products_[shape] = {.mean = mean, .split = precision == ProductPrecision::kFull && ProductsAreSplit(shape.in, shape.out)};
    }
    for (const auto& [shape, product] : products_) chosen.push_back(product.mean);
    rates_ = std::make_unique<LibraryRates>(chosen);
  }

  void Collect(const Tracer& tracer) {
    for (auto& [shape, product] : products_) {
      const auto found = tally_.totals().find(shape);
      if (found == tally_.totals().end()) continue;
      const ProductTally::Total& total = found->second;
      product.flop += LibraryProduct{shape.kind, total.rows, shape.in, shape.out}.flop();
      product.calls += total.calls;
      product.seconds.push_back(total.seconds);
    }
    for (const Tracer::Total& total : tracer.Totals()) {
      OpSeries& op = ops_[total.name];
      op.calls += total.count;
      op.seconds.push_back(1e-9 * static_cast<double>(total.self_ns));
    }
  }

  // The time of a step's products, or of those but attention's, at library speed; 0: none.
  Moment Ceiling(bool without_attention) const {
    Moment sum;
    size_t i = 0;
    for (const auto& [shape, product] : products_) {
      const double times = product.flop / options_.steps / product.mean.flop();
      const Moment best = rates_->Best(i++);
      if (without_attention && !product.timed()) continue;
      sum += {times * best.wall, times * best.cpu};
    }
    return sum;
  }

  void AddProducts(double step_seconds, BenchReport* report) const {
    size_t i = 0;
    for (const auto& [shape, product] : products_) {
      const double library = 1e-9 * product.mean.flop() / rates_->Best(i++).cpu;
      if (!product.timed()) continue;
      BenchResult result{.name = NameOfProduct(product.mean), .unit = "GFLOP/s", .seconds = TimingOf(product.seconds)};
      result.work = 1e-9 * product.flop / static_cast<double>(product.seconds.size());
      result.facts = {{"share", result.seconds.median / step_seconds},
                      {"library", library},
                      {"of_library", result.Rate() / library},
                      {"split", product.split ? 1 : 0}};
      report->results.push_back(std::move(result));
    }
  }

  void AddOps(double step_seconds, BenchReport* report) const {
    const size_t first = report->results.size();
    for (const auto& [name, op] : ops_) {
      BenchResult result{.name = name, .unit = "calls/s", .seconds = TimingOf(op.seconds)};
      result.work = static_cast<double>(op.calls) / static_cast<double>(op.seconds.size());
      result.facts = {{"share", result.seconds.median / step_seconds}};
      report->results.push_back(std::move(result));
    }
    std::ranges::stable_sort(report->results.begin() + static_cast<int64_t>(first), report->results.end(), std::greater<>(),
                             [](const BenchResult& result) { return result.seconds.median; });
  }

  Assembly& assembly_;
  Communicator& world_;
  const TrainingBenchOptions options_;
  Cursor cursor_;
  ProductTally tally_;
  std::unique_ptr<LibraryRates> rates_;
  std::map<ProductTally::Shape, ProductSeries> products_;
  std::map<std::string, OpSeries> ops_;
  std::vector<double> seconds_;
  Moment spent_;  // all measured steps, this rank
  int64_t units_ = 0;
  WireCount wire_;
};

}  // namespace

absl::StatusOr<BenchReport> BenchTraining(const Experiment& config, Communicator& world, const TrainingBenchOptions& options) {
  Assembly assembly;
  RETURN_IF_ERROR(Assemble(config, world, RealFileSystem(), &assembly));
  StepBench bench(&assembly, &world, options);
  RETURN_IF_ERROR(bench.Run());
  return bench.Report(config.name());
}

}  // namespace conclave
