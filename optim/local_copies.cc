#include "optim/local_copies.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "comm/sums.h"
#include "optim/field_exchange.h"
#include "optim/not_finite.h"

namespace conclave {

LocalCopies::LocalCopies(const SchemeContext& context, std::unique_ptr<Exchange> exchange)
    : exchange_(std::move(exchange)),
      norm_(context.exchange.layout, context.exchange.world),
      z_(InitialPoint(context)),
      points_(context.exchange),
      x_m_(context.exchange.layout, context.exchange.workers, context.exchange.dtype),
      f_m_(context.exchange.layout, context.exchange.workers, context.exchange.dtype),
      difference_({std::max<int64_t>(1, LargestBlock(*context.exchange.layout))}, context.exchange.dtype) {}

absl::StatusOr<Evaluation> LocalCopies::Evaluate(Operator& field, const WorkerVectors& at_m, const SampleKey& key) {
  return points_.Evaluate(field, at_m, z_, key, f_m_);
}

absl::StatusOr<double> LocalCopies::Norm() {
  ASSIGN_OR_RETURN(const std::span<const double> squares, points_.SquaredNorms(f_m_, [](BlockId) { return true; }));
  return RootMean(squares);
}

absl::StatusOr<Aggregate> LocalCopies::MeanMove(const WorkerVectors& v_m, uint32_t step, const std::function<bool(BlockId)>& counts) {
  exchange_->Begin(step, 0);
  RETURN_IF_ERROR(v_m.ForEach([&](WorkerId worker, BlockId id, const Tensor& v) -> absl::Status {
    if (counts && !counts(id)) return absl::OkStatus();
    const Tensor move = difference_->Slice(0, v.elements()).Reshape(v.shape());
    Difference(v.dtype(), z_.block(id).raw(), v.raw(), move.raw(), v.elements());
    return exchange_->Put(worker, id, move);
  }));
  ASSIGN_OR_RETURN(mean_move_, exchange_->Finish());
  return mean_move_;
}

absl::Status LocalCopies::LoseRound(const absl::Status& reason) {
  const int64_t steps = alone_;
  StartFromZ();
  return FailedPrecondition("%s; the %d local steps of the round are lost, workers start again from their last meeting", reason.message(),
                            steps);
}

absl::StatusOr<StepReport> LocalCopies::Refuse(StepReport report, const absl::Status& reason, Guard& guard, bool met) {
  if (met) exchange_->Discard();
  ASSIGN_OR_RETURN(const double norm, Norm());
  if (!std::isfinite(norm)) {
    const Suspects suspects{.vectors = [this](const OnBlock& look) {
      return f_m_.ForEach([&](WorkerId worker, BlockId block, const Tensor& f) { return look(worker, block, f, false); });
    }};
    ASSIGN_OR_RETURN(report.norms.why, WhyNotFinite(z_.layout().parameters(), *norm_.world(), suspects));
  }
  ASSIGN_OR_RETURN(const std::span<const double> squares, points_.SquaredNorms(x_m_, [](BlockId) { return true; }));
  return RefuseStep(std::move(report), std::isfinite(RootMean(squares)) ? reason : LoseRound(reason), guard, {});
}

absl::StatusOr<StepReport> LocalCopies::RefuseMeeting(StepReport report, Guard& guard) {
  guard.Withdraw();
  const Suspects suspects{.exchange = exchange_.get(), .mean = mean_move_};
  ASSIGN_OR_RETURN(report.norms.why, WhyNotFinite(z_.layout().parameters(), *norm_.world(), suspects));
  return RefuseStep(std::move(report), LoseRound(FailedPrecondition("the mean of what the workers moved by is not finite")), guard,
                    {exchange_.get()});
}

void LocalCopies::GoOn(const WorkerVectors& v_m) {
  if (&v_m != &x_m_) x_m_.CopyFrom(v_m);
  ++alone_;
}

void LocalCopies::StartFromZ() {
  x_m_.CopyFrom(z_);
  alone_ = 0;
}

void LocalCopies::Register(StateDict& state, const std::string& copies, const std::string& alone) {
  state.Add("model", z_);
  x_m_.Register(state, copies);
  state.AddScalar(alone, &alone_);
  exchange_->Register(state, "exchange");
}

}  // namespace conclave
