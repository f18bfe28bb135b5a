// Reflected gradient (Malitsky 2015): z <- prox_{gamma h}(z - gamma F(2 z - z')), z' the iterate before z; z' = z in the first step.
// Converges for gamma < (sqrt(2) - 1) / L on monotone problems. For an affine F without prox it moves as OGDA does.
#include <utility>

#include "comm/exchanges.h"
#include "optim/field_exchange.h"
#include "optim/prox.h"
#include "optim/schedule.h"
#include "optim/schemes.h"

namespace conclave {
namespace {

class ReflectedGradient final : public Scheme {
 public:
  ReflectedGradient(const OptimConfig& config, const SchemeContext& context, std::unique_ptr<Prox> prox, std::unique_ptr<Exchange> exchange)
      : config_(config),
        total_steps_(context.total_steps),
        prox_(std::move(prox)),
        exchange_(std::move(exchange)),
        norm_(context.exchange.layout, context.exchange.world),
        z_(InitialPoint(context)),
        z_before_(context.exchange.layout, context.exchange.dtype),
        reflected_(context.exchange.layout, context.exchange.dtype) {}

  FlatVector& point() override { return z_; }
  absl::Status Start(Operator&) override {
    z_before_.CopyFrom(z_);
    return absl::OkStatus();
  }

  absl::StatusOr<StepReport> Step(Operator& field, const Cursor& cursor, Guard& guard) override {
    const double gamma = config_.reflected_gradient().gamma() * ScheduleFactor(config_.schedule(), cursor.step, total_steps_);
    StepReport report{.step = cursor.step, .learning_rate = gamma, .evaluations = 1};
    reflected_.Combine(2, z_, -1, z_before_);
    ASSIGN_OR_RETURN(Exchanged f, ExchangeField(field, reflected_, cursor.Key(), 0, *exchange_));
    report.evaluation = std::move(f.evaluation);
    ASSIGN_OR_RETURN(report.norms, norm_.Of(*f.aggregate));
    report.gradient_norm = report.norms.total;
    if (const absl::Status verdict = guard.Accept(report.evaluation.objective, report.gradient_norm); !verdict.ok()) {
      return RefuseStep(std::move(report), verdict, guard, {exchange_.get()});
    }
    exchange_->Commit();
    z_before_.CopyFrom(z_);
    z_.Combine(1, z_, -gamma, *f.aggregate);
    prox_->Apply(z_, gamma);
    return report;
  }

  bool wants_each_worker() const override { return exchange_->wants_each_worker(); }

  void Register(StateDict& state) override {
    state.Add("model", z_);
    state.Add("reflected_gradient.z_before", z_before_);
    exchange_->Register(state, "exchange");
  }

 private:
  OptimConfig config_;
  int64_t total_steps_;
  std::unique_ptr<Prox> prox_;
  std::unique_ptr<Exchange> exchange_;
  LogicalNorm norm_;
  FlatVector z_, z_before_;  // train state
  FlatVector reflected_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Scheme>> MakeReflectedGradient(const OptimConfig& config, const SchemeContext& context) {
  ASSIGN_OR_RETURN(std::unique_ptr<Prox> prox, MakeProx(config.prox(), context.exchange.layout->parameters()));
  ASSIGN_OR_RETURN(std::unique_ptr<Exchange> exchange, MakeExchange(config.reflected_gradient().exchange(), context.exchange));
  return std::make_unique<ReflectedGradient>(config, context, std::move(prox), std::move(exchange));
}

}  // namespace conclave
