// MASHA2 (Beznosikov, Richtarik, Diskin, Ryabinin, Gasnikov, arXiv 2110.03313): a contractive codec C with error feedback carries
// F_m(zh) - F_m(w). Without constraints (h = 0) only.
//   zbar = (1 - p) z + p w;   zh = zbar - gamma F(w)
//   u_m = gamma (F_m(zh) - F_m(w)) + e_m;   c_m = C(u_m);   e_m <- u_m - c_m;   z <- zh - mean_m c_m
// The exchange works on u_m / gamma, keeps e_m / gamma and sends C(u_m / gamma) = c_m / gamma: every codec commutes with positive factors,
// up to rounding. So when gamma changes, the weighted memory e_m is rescaled by gamma_new / gamma_old, as it must be, without a write. The
// reference point moves to the new z, or with `reference: PREVIOUS` to the z before.
#include <cmath>
#include <utility>

#include "comm/exchanges.h"
#include "optim/prox.h"
#include "optim/reference_point.h"
#include "optim/schedule.h"

namespace conclave {
namespace {

class Masha2 final : public Scheme {
 public:
  Masha2(const OptimConfig& config, const SchemeContext& context, std::unique_ptr<Exchange> feedback)
      : config_(config),
        total_steps_(context.total_steps),
        feedback_(std::move(feedback)),
        norm_(context.exchange.layout, context.exchange.world),
        reference_(context, {.part = "masha2", .p = config.masha2().p(), .variance_reduced = config.masha2().variance_reduced()}),
        z_(InitialPoint(context)),
        zh_(context.exchange.layout, context.exchange.dtype),
        z_new_(context.exchange.layout, context.exchange.dtype),
        estimate_(context.exchange.layout, context.exchange.dtype) {}

  FlatVector& point() override { return z_; }
  absl::Status Start(Operator& field) override { return reference_.Start(field, z_); }

  absl::StatusOr<StepReport> Step(Operator& field, const Cursor& cursor, Guard& guard) override {
    const double p = config_.masha2().p();
    const double gamma = config_.masha2().gamma() * ScheduleFactor(config_.schedule(), cursor.step, total_steps_);
    StepReport report{.step = cursor.step, .learning_rate = gamma};

    zh_.Combine(1 - p, z_, p, reference_.w());
    zh_.Axpy(-gamma, reference_.F_w());
    ASSIGN_OR_RETURN(Exchanged c, reference_.ExchangeDifferences(field, zh_, cursor.Key(), *feedback_));
    report.evaluation = std::move(c.evaluation);
    z_new_.Combine(1, zh_, -gamma, *c.aggregate);
    estimate_.Combine(1, reference_.F_w(), 1, *c.aggregate);  // of F(zh), errors of the past included
    ASSIGN_OR_RETURN(report.norms, NormOf(estimate_, c, norm_));
    report.gradient_norm = report.norms.total;
    double guarded = report.gradient_norm;

    const bool refresh = std::isfinite(guarded) && reference_.Coin(cursor.Key());
    const FlatVector& next = config_.masha2().reference() == Masha2Config::PREVIOUS ? z_ : z_new_;
    if (refresh) {
      ASSIGN_OR_RETURN(VectorNorms refreshed, reference_.EvaluateNext(field, next, cursor.Key()));
      if (!std::isfinite(refreshed.total)) guarded = refreshed.total, report.norms.why = std::move(refreshed.why);
    }
    // Nothing of the train state was written so far.
    if (const absl::Status verdict = guard.Accept(report.evaluation.objective, guarded); !verdict.ok()) {
      if (refresh) reference_.Discard();
      return RefuseStep(std::move(report), verdict, guard, {feedback_.get()});
    }
    feedback_->Commit();
    if (refresh) reference_.MoveTo(next);
    z_.CopyFrom(z_new_);
    return report;
  }

  void Register(StateDict& state) override {
    state.Add("model", z_);
    reference_.Register(state);
    feedback_->Register(state, "exchange.differences");
  }

 private:
  OptimConfig config_;
  int64_t total_steps_;
  std::unique_ptr<Exchange> feedback_;
  LogicalNorm norm_;
  ReferencePoint reference_;
  FlatVector z_;                      // train state, as the reference and the exchange's memory are
  FlatVector zh_, z_new_, estimate_;  // of one step
};

}  // namespace

absl::StatusOr<std::unique_ptr<Scheme>> MakeMasha2(const OptimConfig& config, const SchemeContext& context) {
  RETURN_IF_ERROR(CheckExchangeKind(config.masha2().exchange(), {"exact", "ef14"}, "optim.masha2.exchange"));
  ASSIGN_OR_RETURN(const std::unique_ptr<Prox> prox, MakeProx(config.prox(), context.exchange.layout->parameters()));
  if (!prox->is_zero()) {
    return InvalidArgument(
        "optim.prox: masha2 knows no constraints and no regulariser: error feedback would carry what a prox cuts off; "
        "use masha1, or put a smooth regulariser into the model");
  }
  ASSIGN_OR_RETURN(std::unique_ptr<Exchange> feedback, MakeExchange(config.masha2().exchange(), context.exchange));
  return std::make_unique<Masha2>(config, context, std::move(feedback));
}

}  // namespace conclave
