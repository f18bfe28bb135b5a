// Gradient descent-ascent: z <- prox_{gamma h}(z - gamma F(z)). The control that diverges on bilinear games.
#include <utility>

#include "comm/exchanges.h"
#include "optim/field_exchange.h"
#include "optim/prox.h"
#include "optim/schedule.h"
#include "optim/schemes.h"

namespace conclave {
namespace {

class GradientDescentAscent final : public Scheme {
 public:
  GradientDescentAscent(const OptimConfig& config, const SchemeContext& context, std::unique_ptr<Prox> prox,
                        std::unique_ptr<Exchange> exchange)
      : config_(config),
        total_steps_(context.total_steps),
        prox_(std::move(prox)),
        exchange_(std::move(exchange)),
        norm_(context.exchange.layout, context.exchange.world),
        z_(InitialPoint(context)) {}

  FlatVector& point() override { return z_; }
  absl::Status Start(Operator&) override { return absl::OkStatus(); }

  absl::StatusOr<StepReport> Step(Operator& field, const Cursor& cursor, Guard& guard) override {
    const double gamma = config_.gda().gamma() * ScheduleFactor(config_.schedule(), cursor.step, total_steps_);
    StepReport report{.step = cursor.step, .learning_rate = gamma, .evaluations = 1};
    ASSIGN_OR_RETURN(Exchanged f, ExchangeField(field, z_, cursor.Key(), 0, *exchange_));
    report.evaluation = std::move(f.evaluation);
    ASSIGN_OR_RETURN(report.norms, norm_.Of(*f.aggregate));
    report.gradient_norm = report.norms.total;
    if (const absl::Status verdict = guard.Accept(report.evaluation.objective, report.gradient_norm); !verdict.ok()) {
      return RefuseStep(std::move(report), verdict, guard, {exchange_.get()});
    }
    exchange_->Commit();
    z_.Combine(1, z_, -gamma, *f.aggregate);
    prox_->Apply(z_, gamma);
    return report;
  }

  bool wants_each_worker() const override { return exchange_->wants_each_worker(); }

  void Register(StateDict& state) override {
    state.Add("model", z_);
    exchange_->Register(state, "exchange");
  }

 private:
  OptimConfig config_;
  int64_t total_steps_;
  std::unique_ptr<Prox> prox_;
  std::unique_ptr<Exchange> exchange_;
  LogicalNorm norm_;
  FlatVector z_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Scheme>> MakeGradientDescentAscent(const OptimConfig& config, const SchemeContext& context) {
  ASSIGN_OR_RETURN(std::unique_ptr<Prox> prox, MakeProx(config.prox(), context.exchange.layout->parameters()));
  ASSIGN_OR_RETURN(std::unique_ptr<Exchange> exchange, MakeExchange(config.gda().exchange(), context.exchange));
  return std::make_unique<GradientDescentAscent>(config, context, std::move(prox), std::move(exchange));
}

}  // namespace conclave
