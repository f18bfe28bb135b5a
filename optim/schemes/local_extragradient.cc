// Local extragradient: every worker makes extragradient steps from a copy x_m of its own, and after local_steps of them all continue from
// the mean of the copies:
//   zh_m = prox(x_m - gamma F_m(x_m));   x_m <- prox(x_m - gamma F_m(zh_m));   every local_steps steps x_m <- z <- mean_m x_m
// Workers who are alike make extragradient steps. Those who differ look ahead along fields of their own and pull apart in between, so that
// the end point lies off the solution by an amount that falls with gamma; proxskip corrects for that. Memory: four vectors a worker.
#include <cmath>
#include <utility>

#include "comm/exchanges.h"
#include "optim/field_exchange.h"
#include "optim/local_copies.h"
#include "optim/prox.h"
#include "optim/schedule.h"

namespace conclave {
namespace {

class LocalExtragradient final : public Scheme {
 public:
  LocalExtragradient(const OptimConfig& config, const SchemeContext& context, std::unique_ptr<Prox> prox,
                     std::unique_ptr<Exchange> exchange)
      : config_(config),
        total_steps_(context.total_steps),
        prox_(std::move(prox)),
        copies_(context, std::move(exchange)),
        zh_m_(context.exchange.layout, context.exchange.workers, context.exchange.dtype) {}

  FlatVector& point() override { return copies_.z(); }
  absl::Status Start(Operator&) override {
    copies_.StartFromZ();
    return absl::OkStatus();
  }

  absl::StatusOr<StepReport> Step(Operator& field, const Cursor& cursor, Guard& guard) override {
    const double gamma = config_.local_extragradient().gamma() * ScheduleFactor(config_.schedule(), cursor.step, total_steps_);
    StepReport report{.step = cursor.step, .learning_rate = gamma};

    ASSIGN_OR_RETURN(report.evaluation, copies_.Evaluate(field, copies_.x_m(), cursor.Key()));
    ASSIGN_OR_RETURN(report.gradient_norm, copies_.Norm());
    report.norms.total = report.gradient_norm;
    if (!std::isfinite(report.gradient_norm)) {  // nothing can be evaluated at zh_m
      const absl::Status reason = FailedPrecondition("operator norm is %f", report.gradient_norm);
      return copies_.Refuse(std::move(report), reason, guard, false);
    }
    StepAlong(copies_.f_m(), gamma);
    RETURN_IF_ERROR(copies_.Evaluate(field, zh_m_, cursor.Key()).status());
    ASSIGN_OR_RETURN(const double guarded, copies_.Norm());
    StepAlong(copies_.f_m(), gamma);  // from here on the new x_m

    const bool meet = std::isfinite(guarded) && copies_.alone() + 1 >= config_.local_extragradient().local_steps();
    Aggregate moved = nullptr;  // the mean of z - x_m
    if (meet) {
      ASSIGN_OR_RETURN(moved, copies_.MeanMove(zh_m_, cursor.Key().step));
    }
    // Nothing of the train state was written so far.
    if (const absl::Status verdict = guard.Accept(report.evaluation.objective, guarded); !verdict.ok()) {
      return copies_.Refuse(std::move(report), verdict, guard, meet);
    }
    if (!meet) {
      copies_.GoOn(zh_m_);
      return report;
    }
    ASSIGN_OR_RETURN(const double norm, copies_.NormOf(moved));
    if (!std::isfinite(norm)) return copies_.RefuseMeeting(std::move(report), guard);
    copies_.exchange().Commit();
    copies_.z().Axpy(-1, *moved);
    copies_.StartFromZ();
    return report;
  }

  void Register(StateDict& state) override { copies_.Register(state, "local_extragradient.x", "local_extragradient.alone"); }

 private:
  // zh_m = prox(x_m - gamma f_m).
  void StepAlong(const WorkerVectors& f_m, double gamma) {
    zh_m_.Combine(1, copies_.x_m(), -gamma, f_m);
    if (prox_->is_zero()) return;
    CHECK_OK(zh_m_.ForEach([&](WorkerId, BlockId id, const Tensor& v) {
      prox_->ApplyToBlock(id, v, gamma);
      return absl::OkStatus();
    }));
  }

  OptimConfig config_;
  int64_t total_steps_;
  std::unique_ptr<Prox> prox_;
  LocalCopies copies_;
  WorkerVectors zh_m_;  // of one step
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
