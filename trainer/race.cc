#include "trainer/race.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/clock.h"
#include "comm/ledger.h"
#include "optim/gap.h"
#include "optim/prox.h"
#include "trainer/agreement.h"
#include "trainer/assembly.h"

namespace conclave {
namespace {

constexpr size_t kMostPoints = 512;
constexpr double kDiverged = 1e6;  // relative measure

void WriteValues(const std::vector<double>& values, const Tensor& block) {
  DispatchFloat(block.dtype(), [&](auto t) {
    using T = decltype(t);
    const std::span<T> out = block.span<T>();
    CHECK_EQ(out.size(), values.size());
    std::ranges::transform(values, out.begin(), [](double v) { return static_cast<T>(v); });
  });
}

class RaceYardstick {
 public:
  RaceYardstick(const Assembly& a, RaceMeasure measure) : a_(a), measure_(measure), gap_(a.MakeExchangeContext()) {}

  absl::Status Open() {
    ASSIGN_OR_RETURN(prox_, MakeProx(a_.config.optim().prox(), a_.model->parameters()));
    if (measure_ == RaceMeasure::kDistance) return OpenSolution();
    if (measure_ == RaceMeasure::kGap && !a_.model->Gap(a_.scheme->point())) {
      return InvalidArgument("the model cannot compute a duality gap; measure the distance or the gradient mapping");
    }
    return absl::OkStatus();
  }

  absl::StatusOr<double> Measure() {
    FlatVector& z = a_.scheme->point();
    switch (measure_) {
      case RaceMeasure::kDistance: {
        ASSIGN_OR_RETURN(const double distance, gap_.Distance(z, solution_));
        return distance * distance;
      }
      case RaceMeasure::kGap:
        return *a_.model->Gap(z);
      case RaceMeasure::kMapping:
        break;
    }
    ASSIGN_OR_RETURN(const double mapping, gap_.GradientMapping(*a_.field, *prox_, z, SampleKey{.full = true}, 1.0));
    return mapping * mapping;
  }

 private:
  absl::Status OpenSolution() {
    solution_ = FlatVector(a_.layout.get(), a_.dtype());
    for (const BlockId id : a_.layout->local_blocks()) {
      const std::vector<double> values = a_.model->Solution(id);
      if (values.empty()) {
        return InvalidArgument("the model has no solution in closed form for block '%s'; measure the gap or the gradient mapping",
                               a_.model->parameters()[id].name);
      }
      WriteValues(values, solution_.block(id));
    }
    return absl::OkStatus();
  }

  const Assembly& a_;
  RaceMeasure measure_;
  GapMeasures gap_;
  std::unique_ptr<Prox> prox_;
  FlatVector solution_;
};

class RaceBooks {
 public:
  RaceBooks(const Assembly& a, Communicator& world) : world_(world), workers_(a.workers.workers) {
    for (const BlockSpec& block : a.model->parameters().blocks()) vector_bytes_ += block.shape.elements() * SizeOf(a.dtype());
  }

  // Adds what was booked since the last call of either.
  absl::Status Book(RaceResult* result) {
    const WireReport report = world_.ledger()->Take();
    const LogicalWire& wire = report.logical;
    int64_t sums[] = {wire.encoded_bytes, wire.uplink_bytes + wire.downlink_bytes - wire.header_bytes, wire.header_bytes, wire.dense_bytes,
                      report.BetweenRanks().sent_bytes};
    RETURN_IF_ERROR(world_.AllReduce("race", Tensor(sums, {5}, DType::kI64), ReduceOp::kSum));
    Skip();
    const double share = 1.0 / workers_;
    result->costs.uplink_bytes += share * static_cast<double>(sums[0]);
    result->costs.two_way_bytes += share * static_cast<double>(sums[1]);
    result->costs.header_bytes += share * static_cast<double>(sums[2]);
    result->costs.rounds += share * static_cast<double>(sums[3]) / static_cast<double>(vector_bytes_);
    result->physical_bytes += static_cast<double>(sums[4]);
    return absl::OkStatus();
  }
  void Skip() { world_.ledger()->Take(); }

 private:
  Communicator& world_;
  int workers_;
  int64_t vector_bytes_ = 0;
};

// Every second point goes where there are too many; the first stays.
void Keep(const RaceResult& result, std::vector<RacePoint>* curve, int64_t* stride, int64_t step) {
  if (step % *stride != 0) return;
  curve->push_back({result.costs, result.measure});
  if (curve->size() < kMostPoints - 1) return;
  *stride *= 2;
  size_t kept = 0;
  for (size_t i = 0; i < curve->size(); i += 2) (*curve)[kept++] = (*curve)[i];
  curve->resize(kept);
}

std::optional<RaceEnd> EndOf(const RaceResult& result, const RaceOptions& options) {
  if (!std::isfinite(result.measure) || result.measure > kDiverged) return RaceEnd::kDiverged;
  if (result.measure <= options.target) return RaceEnd::kReached;
  if (options.budget > 0 && result.costs.Of(options.budgeted) > options.budget) return RaceEnd::kOverBudget;
  if (result.costs.evaluations >= static_cast<double>(options.max_evaluations)) return RaceEnd::kOutOfEvaluations;
  return std::nullopt;
}

absl::StatusOr<RaceResult> Race(const Assembly& a, Communicator& world, const RaceOptions& options) {
  RaceYardstick yardstick(a, options.measure);
  RETURN_IF_ERROR(AgreeOn(world, yardstick.Open(), "measuring the race"));
  RaceBooks books(a, world);
  RaceResult result;
  ASSIGN_OR_RETURN(const double start, yardstick.Measure());
  books.Skip();
  if (!(start > 0)) return FailedPrecondition("the starting point is a solution already: its measure is %g", start);
  int64_t stride = 1;
  double evaluated = a.field->evaluations();
  RETURN_IF_ERROR(a.scheme->Start(*a.field));
  result.costs.evaluations = a.field->evaluations() - evaluated;
  RETURN_IF_ERROR(books.Book(&result));
  Keep(result, &result.curve, &stride, 0);
  Cursor cursor;
  std::optional<RaceEnd> end;
  while (!end) {
    const double began = RealClock().Seconds();
    evaluated = a.field->evaluations();
    const absl::StatusOr<StepReport> report = a.scheme->Step(*a.field, cursor, *a.guard);
    if (absl::IsFailedPrecondition(report.status())) {  // the guard gave up
      end = RaceEnd::kDiverged;
      break;
    }
    RETURN_IF_ERROR(report.status());
    if (!report->skipped) a.field->FinishStep(report->evaluation);
    ++cursor.step;
    result.costs.seconds += RealClock().Seconds() - began;
    result.costs.evaluations += a.field->evaluations() - evaluated;
    RETURN_IF_ERROR(books.Book(&result));
    if (cursor.step % options.measure_every != 0) continue;
    RETURN_IF_ERROR(a.scheme->Settle());
    ASSIGN_OR_RETURN(const double measure, yardstick.Measure());
    books.Skip();
    result.measure = measure / start;
    end = EndOf(result, options);
    Keep(result, &result.curve, &stride, cursor.step / options.measure_every);
  }
  result.end = *end;
  result.steps = cursor.step;
  if (result.curve.back().costs.evaluations < result.costs.evaluations) result.curve.push_back({result.costs, result.measure});
  return result;
}

}  // namespace

double RaceCosts::Of(RaceCost cost) const {
  switch (cost) {
    case RaceCost::kTwoWayBytes:
      return two_way_bytes;
    case RaceCost::kUplinkBytes:
      return uplink_bytes;
    case RaceCost::kEvaluations:
      return evaluations;
  }
  return 0;
}

const char* NameOf(RaceEnd end) {
  switch (end) {
    case RaceEnd::kReached:
      return "reached";
    case RaceEnd::kDiverged:
      return "diverged";
    case RaceEnd::kOutOfEvaluations:
      return "out of evaluations";
    case RaceEnd::kOverBudget:
      return "over budget";
  }
  return "";
}

absl::StatusOr<RaceResult> RunRace(const Experiment& config, Communicator& world, const FileSystem& files, const RaceOptions& options) {
  CHECK(world.ledger() != nullptr) << "a race needs a ledger";
  Assembly assembly;
  RETURN_IF_ERROR(Assemble(config, world, files, &assembly));
  return Race(assembly, world, options);
}

}  // namespace conclave
