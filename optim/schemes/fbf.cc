// FBF, forward-backward-forward (Tseng 2000): zh = prox_{gamma h}(z - gamma F(z)); z <- zh - gamma (F(zh) - F(z)). Same samples at both
// points. One prox a step; without prox it is extragradient. Converges for gamma < 1 / L on monotone problems. z may leave the domain of h
// by as much as the last correction.
#include <cmath>
#include <utility>

#include "comm/exchanges.h"
#include "optim/field_exchange.h"
#include "optim/prox.h"
#include "optim/schedule.h"
#include "optim/schemes.h"

namespace conclave {
namespace {

// Each point has an exchange of its own: the state of a stateful one then follows one sequence of vectors.
struct FbfExchanges {
  std::unique_ptr<Exchange> at_z, at_zh;
};

class ForwardBackwardForward final : public Scheme {
 public:
  ForwardBackwardForward(const OptimConfig& config, const SchemeContext& context, std::unique_ptr<Prox> prox, FbfExchanges exchanges)
      : config_(config),
        total_steps_(context.total_steps),
        prox_(std::move(prox)),
        at_z_(std::move(exchanges.at_z)),
        at_zh_(std::move(exchanges.at_zh)),
        norm_(context.exchange.layout, context.exchange.world),
        z_(InitialPoint(context)),
        zh_(context.exchange.layout, context.exchange.dtype),
        correction_(context.exchange.layout, context.exchange.dtype) {}

  FlatVector& point() override { return z_; }
  absl::Status Start(Operator&) override { return absl::OkStatus(); }

  absl::StatusOr<StepReport> Step(Operator& field, const Cursor& cursor, Guard& guard) override {
    const double gamma = config_.fbf().gamma() * ScheduleFactor(config_.schedule(), cursor.step, total_steps_);
    StepReport report{.step = cursor.step, .learning_rate = gamma, .evaluations = 2};

    ASSIGN_OR_RETURN(Exchanged f, ExchangeField(field, z_, cursor.Key(), 0, *at_z_));
    report.evaluation = std::move(f.evaluation);
    ASSIGN_OR_RETURN(report.norms, norm_.Of(*f.aggregate));
    report.gradient_norm = report.norms.total;
    if (!std::isfinite(report.gradient_norm)) {  // nothing can be evaluated at zh
      report.evaluations = 1;
      return RefuseStep(std::move(report), FailedPrecondition("operator norm is %f", report.gradient_norm), guard, {at_z_.get()});
    }
    zh_.Combine(1, z_, -gamma, *f.aggregate);
    prox_->Apply(zh_, gamma);

    ASSIGN_OR_RETURN(const Exchanged fh, ExchangeField(field, zh_, cursor.Key(), 1, *at_zh_));
    ASSIGN_OR_RETURN(const VectorNorms norms_at_zh, norm_.Of(*fh.aggregate));
    if (const absl::Status verdict = guard.Accept(report.evaluation.objective, norms_at_zh.total); !verdict.ok()) {
      return RefuseStep(std::move(report), verdict, guard, {at_z_.get(), at_zh_.get()});
    }
    at_z_->Commit();
    at_zh_->Commit();
    correction_.Combine(1, *fh.aggregate, -1, *f.aggregate);
    z_.Combine(1, zh_, -gamma, correction_);
    return report;
  }

  bool wants_each_worker() const override { return at_z_->wants_each_worker(); }

  void Register(StateDict& state) override {
    state.Add("model", z_);
    at_z_->Register(state, "exchange.at_z");
    at_zh_->Register(state, "exchange.at_zh");
  }

 private:
  OptimConfig config_;
  int64_t total_steps_;
  std::unique_ptr<Prox> prox_;
  std::unique_ptr<Exchange> at_z_, at_zh_;
  LogicalNorm norm_;
  FlatVector z_, zh_, correction_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Scheme>> MakeForwardBackwardForward(const OptimConfig& config, const SchemeContext& context) {
  ASSIGN_OR_RETURN(std::unique_ptr<Prox> prox, MakeProx(config.prox(), context.exchange.layout->parameters()));
  FbfExchanges exchanges;
  ASSIGN_OR_RETURN(exchanges.at_z, MakeExchange(config.fbf().exchange(), context.exchange));
  ASSIGN_OR_RETURN(exchanges.at_zh, MakeExchange(config.fbf().exchange(), context.exchange));
  return std::make_unique<ForwardBackwardForward>(config, context, std::move(prox), std::move(exchanges));
}

}  // namespace conclave
