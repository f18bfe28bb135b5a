// Past extragradient (Popov 1980): extragradient whose half step uses the field of the half step before, so one evaluation is enough.
//   zh = prox_{gamma h}(z - gamma F(zh'));   z <- prox_{gamma h}(z - gamma F(zh));   zh = z in the first step
// Without prox its zh are the iterates of OGDA. Converges for gamma < 1 / (3 L) on monotone problems.
#include <utility>

#include "comm/exchanges.h"
#include "optim/field_exchange.h"
#include "optim/prox.h"
#include "optim/schedule.h"
#include "optim/schemes.h"

namespace conclave {
namespace {

class PastExtragradient final : public Scheme {
 public:
  PastExtragradient(const OptimConfig& config, const SchemeContext& context, std::unique_ptr<Prox> prox, std::unique_ptr<Exchange> exchange)
      : config_(config),
        total_steps_(context.total_steps),
        prox_(std::move(prox)),
        exchange_(std::move(exchange)),
        norm_(context.exchange.layout, context.exchange.world),
        z_(InitialPoint(context)),
        F_before_(context.exchange.layout, context.exchange.dtype),
        zh_(context.exchange.layout, context.exchange.dtype) {}

  FlatVector& point() override { return z_; }
  absl::Status Start(Operator&) override { return absl::OkStatus(); }

  absl::StatusOr<StepReport> Step(Operator& field, const Cursor& cursor, Guard& guard) override {
    const double gamma = config_.past_extragradient().gamma() * ScheduleFactor(config_.schedule(), cursor.step, total_steps_);
    StepReport report{.step = cursor.step, .learning_rate = gamma, .evaluations = 1};
    zh_.CopyFrom(z_);
    if (accepted_ > 0) {
      zh_.Axpy(-gamma, F_before_);
      prox_->Apply(zh_, gamma);
    }
    ASSIGN_OR_RETURN(Exchanged fh, ExchangeField(field, zh_, cursor.Key(), 0, *exchange_));
    report.evaluation = std::move(fh.evaluation);
    ASSIGN_OR_RETURN(report.norms, norm_.Of(*fh.aggregate));
    report.gradient_norm = report.norms.total;
    if (const absl::Status verdict = guard.Accept(report.evaluation.objective, report.gradient_norm); !verdict.ok()) {
      return RefuseStep(std::move(report), verdict, guard, {exchange_.get()});
    }
    exchange_->Commit();
    z_.Combine(1, z_, -gamma, *fh.aggregate);
    prox_->Apply(z_, gamma);
    F_before_.CopyFrom(*fh.aggregate);
    ++accepted_;
    return report;
  }

  bool wants_each_worker() const override { return exchange_->wants_each_worker(); }

  void Register(StateDict& state) override {
    state.Add("model", z_);
    state.Add("past_extragradient.F_before", F_before_);
    state.AddScalar("optim.accepted", &accepted_);
    exchange_->Register(state, "exchange");
  }

 private:
  OptimConfig config_;
  int64_t total_steps_;
  std::unique_ptr<Prox> prox_;
  std::unique_ptr<Exchange> exchange_;
  LogicalNorm norm_;
  FlatVector z_, F_before_;  // train state: F_before = F(zh')
  int64_t accepted_ = 0;
  FlatVector zh_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Scheme>> MakePastExtragradient(const OptimConfig& config, const SchemeContext& context) {
  ASSIGN_OR_RETURN(std::unique_ptr<Prox> prox, MakeProx(config.prox(), context.exchange.layout->parameters()));
  ASSIGN_OR_RETURN(std::unique_ptr<Exchange> exchange, MakeExchange(config.past_extragradient().exchange(), context.exchange));
  return std::make_unique<PastExtragradient>(config, context, std::move(prox), std::move(exchange));
}

}  // namespace conclave
