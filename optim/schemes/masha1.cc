// MASHA1 (Beznosikov, Richtarik, Diskin, Ryabinin, Gasnikov, arXiv 2110.03313): an unbiased codec carries F_m(zh) - F_m(w); with
// probability p the reference point w moves to the new z and F(w) is exchanged in full.
//   zbar = (1 - p) z + p w;   zh = prox(zbar - gamma F(w));   g = mean_m Q_m(F_m(zh) - F_m(w));   z <- prox(zbar - gamma (F(w) + g))
// Variance reduced (VR-MASHA1): g = mean_m Q_m(F_mB(zh) - F_mB(w)) on one sample B of every worker, F(w) of the full data; with an exact
// exchange that is VR-extragradient (Alacaoglu and Malitsky, arXiv 2102.08352).
// Partial participation: the mean is over b of the M workers, drawn anew every step; the others neither evaluate nor send. Refreshes need
// all of them.
#include <cmath>
#include <utility>

#include "comm/exchanges.h"
#include "optim/prox.h"
#include "optim/reference_point.h"
#include "optim/schedule.h"

namespace conclave {
namespace {

class Masha1 final : public Scheme {
 public:
  Masha1(const OptimConfig& config, const SchemeContext& context, std::unique_ptr<Prox> prox, std::unique_ptr<Exchange> compressed,
         std::unique_ptr<Participants> participants)
      : config_(config),
        total_steps_(context.total_steps),
        prox_(std::move(prox)),
        norm_(context.exchange.layout, context.exchange.world),
        reference_(context, {.part = "masha1",
                             .p = config.masha1().p(),
                             .variance_reduced = config.masha1().variance_reduced(),
                             .participants = std::move(participants)}),
        q_(std::move(compressed)),
        z_(InitialPoint(context)),
        zbar_(context.exchange.layout, context.exchange.dtype),
        zh_(context.exchange.layout, context.exchange.dtype),
        z_new_(context.exchange.layout, context.exchange.dtype),
        estimate_(context.exchange.layout, context.exchange.dtype) {}

  FlatVector& point() override { return z_; }
  absl::Status Start(Operator& field) override { return reference_.Start(field, z_); }

  absl::StatusOr<StepReport> Step(Operator& field, const Cursor& cursor, Guard& guard) override {
    const double p = config_.masha1().p();
    const double gamma = config_.masha1().gamma() * ScheduleFactor(config_.schedule(), cursor.step, total_steps_);
    StepReport report{.step = cursor.step, .learning_rate = gamma};

    zbar_.Combine(1 - p, z_, p, reference_.w());
    zh_.Combine(1, zbar_, -gamma, reference_.F_w());
    prox_->Apply(zh_, gamma);
    ASSIGN_OR_RETURN(Exchanged g, reference_.ExchangeDifferences(field, zh_, cursor.Key(), *q_));
    report.evaluation = std::move(g.evaluation);
    estimate_.Combine(1, reference_.F_w(), 1, *g.aggregate);  // of F(zh)
    z_new_.Combine(1, zbar_, -gamma, estimate_);
    prox_->Apply(z_new_, gamma);
    ASSIGN_OR_RETURN(report.norms, NormOf(estimate_, g, norm_));
    report.gradient_norm = report.norms.total;
    double guarded = report.gradient_norm;

    const bool refresh = std::isfinite(guarded) && reference_.Coin(cursor.Key());
    if (refresh) {
      ASSIGN_OR_RETURN(VectorNorms refreshed, reference_.EvaluateNext(field, z_new_, cursor.Key()));
      if (!std::isfinite(refreshed.total)) guarded = refreshed.total, report.norms.why = std::move(refreshed.why);
    }
    // Nothing of the train state was written so far.
    if (const absl::Status verdict = guard.Accept(report.evaluation.objective, guarded); !verdict.ok()) {
      if (refresh) reference_.Discard();
      return RefuseStep(std::move(report), verdict, guard, {q_.get()});
    }
    q_->Commit();
    z_.CopyFrom(z_new_);
    if (refresh) reference_.MoveTo(z_);
    return report;
  }

  void Register(StateDict& state) override {
    state.Add("model", z_);
    reference_.Register(state);
    q_->Register(state, "exchange.differences");
  }

 private:
  OptimConfig config_;
  int64_t total_steps_;
  std::unique_ptr<Prox> prox_;
  LogicalNorm norm_;
  ReferencePoint reference_;
  std::unique_ptr<Exchange> q_;              // of those that `reference_` draws
  FlatVector z_;                             // train state, as the reference is
  FlatVector zbar_, zh_, z_new_, estimate_;  // of one step
};

}  // namespace

absl::StatusOr<std::unique_ptr<Scheme>> MakeMasha1(const OptimConfig& config, const SchemeContext& context) {
  RETURN_IF_ERROR(CheckExchangeKind(config.masha1().exchange(), {"exact", "quantized"}, "optim.masha1.exchange"));
  const int64_t participants = config.masha1().participants();
  if (participants < 0 || participants > context.exchange.workers.workers) {
    return InvalidArgument("optim.masha1.participants must be between 0 (all) and the number of workers, %d; got %d",
                           context.exchange.workers.workers, participants);
  }
  ASSIGN_OR_RETURN(std::unique_ptr<Prox> prox, MakeProx(config.prox(), context.exchange.layout->parameters()));
  const int workers = context.exchange.workers.workers;
  std::unique_ptr<Participants> some;
  if (participants > 0 && participants < workers) {
    some = std::make_unique<Participants>(Participants{.count = static_cast<int>(participants), .chosen = std::vector<char>(workers)});
  }
  ExchangeContext differences = context.exchange;
  differences.participants = some.get();
  ASSIGN_OR_RETURN(std::unique_ptr<Exchange> compressed, MakeExchange(config.masha1().exchange(), differences));
  return std::make_unique<Masha1>(config, context, std::move(prox), std::move(compressed), std::move(some));
}

}  // namespace conclave
