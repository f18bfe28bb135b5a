// Local extragradient: every worker makes extragradient steps from a copy x_m of its own, and after local_steps of them all continue from
// the mean of the copies:
//   zh_m = prox(x_m - gamma F_m(x_m));   x_m <- prox(x_m - gamma F_m(zh_m));   every local_steps steps x_m <- z <- mean_m x_m
// Workers who are alike make extragradient steps. Those who differ look ahead along fields of their own and pull apart in between, so that
// the end point lies off the solution by an amount that falls with gamma; proxskip corrects for that. Memory: four vectors a worker.
#include <cmath>
#include <utility>

#include "comm/exchanges.h"
#include "comm/sums.h"
#include "optim/field_exchange.h"
#include "optim/prox.h"
#include "optim/schedule.h"
#include "optim/schemes.h"
#include "optim/worker_points.h"

namespace conclave {
namespace {

class LocalExtragradient final : public Scheme {
 public:
  LocalExtragradient(const OptimConfig& config, const SchemeContext& context, std::unique_ptr<Prox> prox,
                     std::unique_ptr<Exchange> exchange)
      : config_(config),
        total_steps_(context.total_steps),
        prox_(std::move(prox)),
        exchange_(std::move(exchange)),
        z_(InitialPoint(context)),
        points_(context.exchange),
        x_m_(context.exchange.layout, context.exchange.workers, context.exchange.dtype),
        f_m_(context.exchange.layout, context.exchange.workers, context.exchange.dtype),
        zh_m_(context.exchange.layout, context.exchange.workers, context.exchange.dtype),
        difference_({LargestBlock(*context.exchange.layout)}, context.exchange.dtype) {}

  FlatVector& point() override { return z_; }
  absl::Status Start(Operator&) override {
    x_m_.CopyFrom(z_);
    return absl::OkStatus();
  }

  absl::StatusOr<StepReport> Step(Operator& field, const Cursor& cursor, Guard& guard) override {
    const double gamma = config_.local_extragradient().gamma() * ScheduleFactor(config_.schedule(), cursor.step, total_steps_);
    StepReport report{.step = cursor.step, .learning_rate = gamma, .evaluations = 2};
    const auto all = [](BlockId) { return true; };

    ASSIGN_OR_RETURN(report.evaluation, points_.Evaluate(field, x_m_, z_, cursor.Key(), f_m_));
    ASSIGN_OR_RETURN(std::span<const double> squares, points_.SquaredNorms(f_m_, all));
    report.gradient_norm = report.norms.total = RootMean(squares);
    if (!std::isfinite(report.gradient_norm)) {  // nothing can be evaluated at zh_m
      report.evaluations = 1;
      return RefuseStep(std::move(report), FailedPrecondition("operator norm is %f", report.gradient_norm), guard, {});
    }
    zh_m_.Combine(1, x_m_, -gamma, f_m_);
    ApplyProx(zh_m_, gamma);
    RETURN_IF_ERROR(points_.Evaluate(field, zh_m_, z_, cursor.Key(), f_m_).status());
    ASSIGN_OR_RETURN(squares, points_.SquaredNorms(f_m_, all));
    zh_m_.Combine(1, x_m_, -gamma, f_m_);  // from here on the new x_m
    ApplyProx(zh_m_, gamma);

    const double guarded = RootMean(squares);
    const bool meet = std::isfinite(guarded) && alone_ + 1 >= config_.local_extragradient().local_steps();
    Aggregate moved = nullptr;  // the mean of z - x_m
    if (meet) {
      ASSIGN_OR_RETURN(moved, ExchangeMoves(cursor.Key().step));
    }
    // Nothing of the train state was written so far. The losses of several workers' points are mixed where they share a replica, so the
    // norm alone is judged.
    if (const absl::Status verdict = guard.Accept(guarded, guarded); !verdict.ok()) {
      return RefuseStep(std::move(report), verdict, guard,
                        meet ? std::initializer_list<Exchange*>{exchange_.get()} : std::initializer_list<Exchange*>{});
    }
    ++alone_;
    if (!meet) {
      x_m_.CopyFrom(zh_m_);
      return report;
    }
    alone_ = 0;
    exchange_->Commit();
    z_.Axpy(-1, *moved);
    x_m_.CopyFrom(z_);
    return report;
  }

  void Register(StateDict& state) override {
    state.Add("model", z_);
    x_m_.Register(state, "local_extragradient.x");
    state.AddScalar("local_extragradient.alone", &alone_);
    exchange_->Register(state, "exchange");
  }

 private:
  void ApplyProx(const WorkerVectors& v_m, double gamma) const {
    if (prox_->is_zero()) return;
    CHECK_OK(v_m.ForEach([&](WorkerId, BlockId id, const Tensor& v) {
      prox_->ApplyToBlock(id, v, gamma);
      return absl::OkStatus();
    }));
  }

  absl::StatusOr<Aggregate> ExchangeMoves(uint32_t step) {
    exchange_->Begin(step, 0);
    RETURN_IF_ERROR(zh_m_.ForEach([this](WorkerId worker, BlockId id, const Tensor& x) {
      const Tensor move = difference_->Slice(0, x.elements()).Reshape(x.shape());
      Difference(x.dtype(), z_.block(id).raw(), x.raw(), move.raw(), x.elements());
      return exchange_->Put(worker, id, move);
    }));
    return exchange_->Finish();
  }

  OptimConfig config_;
  int64_t total_steps_;
  std::unique_ptr<Prox> prox_;
  std::unique_ptr<Exchange> exchange_;
  FlatVector z_;  // where the workers met last. Train state, as x_m
  WorkerPoints points_;
  WorkerVectors x_m_;
  WorkerVectors f_m_, zh_m_;  // of one step
  OwnedTensor difference_;    // [largest block]
  int64_t alone_ = 0;         // steps since the last meeting. Train state
};

}  // namespace

absl::StatusOr<std::unique_ptr<Scheme>> MakeLocalExtragradient(const OptimConfig& config, const SchemeContext& context) {
  ASSIGN_OR_RETURN(std::unique_ptr<Prox> prox, MakeProx(config.prox(), context.exchange.layout->parameters()));
  if (!prox->is_zero()) {
    RETURN_IF_ERROR(CheckExchangeKind(config.local_extragradient().exchange(), {"exact"},
                                      "optim.local_extragradient.exchange, where a prox keeps the copies in a set"));
  }
  ASSIGN_OR_RETURN(std::unique_ptr<Exchange> exchange, MakeExchange(config.local_extragradient().exchange(), context.exchange));
  return std::make_unique<LocalExtragradient>(config, context, std::move(prox), std::move(exchange));
}

}  // namespace conclave
