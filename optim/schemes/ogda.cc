// OGDA, optimistic gradient descent-ascent; with a prox: forward-reflected-backward (Malitsky and Tam 2020), whose form for steps that
// change is used here (' marks the step before):
//   z <- prox_{gamma h}(z - gamma F(z) - gamma' (F(z) - F(z')));   gamma' = 0 in the first step, so that it is a plain one
// Converges for gamma < 1 / (2 L) on monotone problems; on bilinear games without prox up to 1 / (sqrt(3) L).
#include <utility>

#include "comm/exchanges.h"
#include "optim/field_exchange.h"
#include "optim/prox.h"
#include "optim/schedule.h"
#include "optim/schemes.h"

namespace conclave {
namespace {

class Ogda final : public Scheme {
 public:
  Ogda(const OptimConfig& config, const SchemeContext& context, std::unique_ptr<Prox> prox, std::unique_ptr<Exchange> exchange)
      : config_(config),
        total_steps_(context.total_steps),
        prox_(std::move(prox)),
        exchange_(std::move(exchange)),
        norm_(context.exchange.layout, context.exchange.world),
        z_(InitialPoint(context)),
        F_before_(context.exchange.layout, context.exchange.dtype),
        move_(context.exchange.layout, context.exchange.dtype) {}

  FlatVector& point() override { return z_; }
  absl::Status Start(Operator&) override { return absl::OkStatus(); }

  absl::StatusOr<StepReport> Step(Operator& field, const Cursor& cursor, Guard& guard) override {
    const double gamma = config_.ogda().gamma() * ScheduleFactor(config_.schedule(), cursor.step, total_steps_);
    StepReport report{.step = cursor.step, .learning_rate = gamma, .evaluations = 1};
    ASSIGN_OR_RETURN(Exchanged f, ExchangeField(field, z_, cursor.Key(), 0, *exchange_));
    report.evaluation = std::move(f.evaluation);
    ASSIGN_OR_RETURN(report.norms, norm_.Of(*f.aggregate));
    report.gradient_norm = report.norms.total;
    if (const absl::Status verdict = guard.Accept(report.evaluation.objective, report.gradient_norm); !verdict.ok()) {
      return RefuseStep(std::move(report), verdict, guard, {exchange_.get()});
    }
    exchange_->Commit();
    move_.Combine(gamma + gamma_before_, *f.aggregate, -gamma_before_, F_before_);
    z_.Combine(1, z_, -1, move_);
    prox_->Apply(z_, gamma);
    F_before_.CopyFrom(*f.aggregate);
    gamma_before_ = gamma;
    return report;
  }

  bool wants_each_worker() const override { return exchange_->wants_each_worker(); }

  void Register(StateDict& state) override {
    state.Add("model", z_);
    state.Add("ogda.F_before", F_before_);
    state.AddScalar("ogda.gamma_before", &gamma_before_);
    exchange_->Register(state, "exchange");
  }

 private:
  OptimConfig config_;
  int64_t total_steps_;
  std::unique_ptr<Prox> prox_;
  std::unique_ptr<Exchange> exchange_;
  LogicalNorm norm_;
  FlatVector z_, F_before_;  // train state: F_before = F(z') as it came out of the exchange
  double gamma_before_ = 0;
  FlatVector move_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Scheme>> MakeOgda(const OptimConfig& config, const SchemeContext& context) {
  ASSIGN_OR_RETURN(std::unique_ptr<Prox> prox, MakeProx(config.prox(), context.exchange.layout->parameters()));
  ASSIGN_OR_RETURN(std::unique_ptr<Exchange> exchange, MakeExchange(config.ogda().exchange(), context.exchange));
  return std::make_unique<Ogda>(config, context, std::move(prox), std::move(exchange));
}

}  // namespace conclave
