// Extra anchored gradient (Yoon and Ryu 2021, EAG-C): extragradient whose both half steps are pulled towards the start z0 by a weight that
// fades, as in Halpern's iteration. k counts accepted steps.
//   pulled = z + beta (z0 - z), beta = 1 / (k + 2);   zh = prox_{gamma h}(pulled - gamma F(z));   z <- prox_{gamma h}(pulled - gamma F(zh))
// Without prox and for gamma <= 1 / (8 L): |F(z_k)|^2 <= 4 (1 + gamma L + gamma^2 L^2) / (gamma^2 (1 + gamma L)) |z0 - z*|^2 / (k + 1)^2 on
// every monotone problem. It is not faster under strong monotonicity.
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
struct AnchoredExchanges {
  std::unique_ptr<Exchange> at_z, at_zh;
};

class Anchored final : public Scheme {
 public:
  Anchored(const OptimConfig& config, const SchemeContext& context, std::unique_ptr<Prox> prox, AnchoredExchanges exchanges)
      : config_(config),
        total_steps_(context.total_steps),
        prox_(std::move(prox)),
        at_z_(std::move(exchanges.at_z)),
        at_zh_(std::move(exchanges.at_zh)),
        norm_(context.exchange.layout, context.exchange.world),
        z_(InitialPoint(context)),
        z0_(context.exchange.layout, context.exchange.dtype),
        pulled_(context.exchange.layout, context.exchange.dtype),
        zh_(context.exchange.layout, context.exchange.dtype) {}

  FlatVector& point() override { return z_; }
  absl::Status Start(Operator&) override {
    z0_.CopyFrom(z_);
    return absl::OkStatus();
  }

  absl::StatusOr<StepReport> Step(Operator& field, const Cursor& cursor, Guard& guard) override {
    const double gamma = config_.anchored().gamma() * ScheduleFactor(config_.schedule(), cursor.step, total_steps_);
    const double beta = 1.0 / static_cast<double>(accepted_ + 2);
    StepReport report{.step = cursor.step, .learning_rate = gamma, .evaluations = 2};

    ASSIGN_OR_RETURN(Exchanged f, ExchangeField(field, z_, cursor.Key(), 0, *at_z_));
    report.evaluation = std::move(f.evaluation);
    ASSIGN_OR_RETURN(report.norms, norm_.Of(*f.aggregate));
    report.gradient_norm = report.norms.total;
    if (!std::isfinite(report.gradient_norm)) {  // nothing can be evaluated at zh
      report.evaluations = 1;
      return RefuseStep(std::move(report), FailedPrecondition("operator norm is %f", report.gradient_norm), guard, {at_z_.get()});
    }
    pulled_.Combine(1 - beta, z_, beta, z0_);
    zh_.Combine(1, pulled_, -gamma, *f.aggregate);
    prox_->Apply(zh_, gamma);

    ASSIGN_OR_RETURN(const Exchanged fh, ExchangeField(field, zh_, cursor.Key(), 1, *at_zh_));
    ASSIGN_OR_RETURN(const VectorNorms norms_at_zh, norm_.Of(*fh.aggregate));
    if (const absl::Status verdict = guard.Accept(report.evaluation.objective, norms_at_zh.total); !verdict.ok()) {
      return RefuseStep(std::move(report), verdict, guard, {at_z_.get(), at_zh_.get()});
    }
    at_z_->Commit();
    at_zh_->Commit();
    z_.Combine(1, pulled_, -gamma, *fh.aggregate);
    prox_->Apply(z_, gamma);
    ++accepted_;
    return report;
  }

  bool wants_each_worker() const override { return at_z_->wants_each_worker(); }

  void Register(StateDict& state) override {
    state.Add("model", z_);
    state.Add("anchored.z0", z0_);
    state.AddScalar("optim.accepted", &accepted_);
    at_z_->Register(state, "exchange.at_z");
    at_zh_->Register(state, "exchange.at_zh");
  }

 private:
  OptimConfig config_;
  int64_t total_steps_;
  std::unique_ptr<Prox> prox_;
  std::unique_ptr<Exchange> at_z_, at_zh_;
  LogicalNorm norm_;
  FlatVector z_, z0_;  // train state
  int64_t accepted_ = 0;
  FlatVector pulled_, zh_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Scheme>> MakeAnchored(const OptimConfig& config, const SchemeContext& context) {
  ASSIGN_OR_RETURN(std::unique_ptr<Prox> prox, MakeProx(config.prox(), context.exchange.layout->parameters()));
  AnchoredExchanges exchanges;
  ASSIGN_OR_RETURN(exchanges.at_z, MakeExchange(config.anchored().exchange(), context.exchange));
  ASSIGN_OR_RETURN(exchanges.at_zh, MakeExchange(config.anchored().exchange(), context.exchange));
  return std::make_unique<Anchored>(config, context, std::move(prox), std::move(exchanges));
}

}  // namespace conclave
