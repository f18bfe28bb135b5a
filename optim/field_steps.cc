#include "optim/field_steps.h"

#include <cmath>
#include <utility>

#include "comm/exchanges.h"
#include "optim/schedule.h"

namespace conclave {

absl::StatusOr<FieldMethod> MakeFieldMethod(const OptimConfig& config, const ExchangeConfig& exchange, double gamma,
                                            const SchemeContext& context, int looks) {
  FieldMethod method{.gamma = gamma, .schedule = config.schedule(), .prox = nullptr, .exchange = nullptr, .half = nullptr};
  ASSIGN_OR_RETURN(method.prox, MakeProx(config.prox(), context.exchange.layout->parameters()));
  ASSIGN_OR_RETURN(method.exchange, MakeExchange(exchange, context.exchange));
  if (looks == 2) {
    ASSIGN_OR_RETURN(method.half, MakeExchange(exchange, context.exchange));
  }
  return method;
}

FieldScheme::FieldScheme(FieldMethod method, const SchemeContext& context)
    : method_(std::move(method)),
      total_steps_(context.total_steps),
      norm_(context.exchange.layout, context.exchange.world),
      z_(InitialPoint(context)) {}

void FieldScheme::Register(StateDict& state) {
  state.Add("model", z_);
  RegisterOwn(state);
  if (method_.half == nullptr) return method_.exchange->Register(state, "exchange");
  method_.exchange->Register(state, "exchange.at_z");
  method_.half->Register(state, "exchange.at_zh");
}

double FieldScheme::GammaAt(const Cursor& cursor) const {
  return method_.gamma * ScheduleFactor(method_.schedule, cursor.step, total_steps_);
}

void FieldScheme::StepTo(FlatVector* to, const FlatVector& from, double gamma, const FlatVector& f) const {
  to->Combine(1, from, -gamma, f);
  method_.prox->Apply(*to, gamma);
}

absl::StatusOr<StepReport> OneLook::Step(Operator& field, const Cursor& cursor, Guard& guard) {
  const double gamma = GammaAt(cursor);
  StepReport report{.step = cursor.step, .learning_rate = gamma};
  ASSIGN_OR_RETURN(Exchanged f, ExchangeField(field, Where(gamma), cursor.Key(), 0, *method_.exchange));
  report.evaluation = std::move(f.evaluation);
  ASSIGN_OR_RETURN(report.norms, NormOf(*f.aggregate, f, norm_));
  report.gradient_norm = report.norms.total;
  if (const absl::Status verdict = guard.Accept(report.evaluation.objective, report.gradient_norm); !verdict.ok()) {
    return RefuseStep(std::move(report), verdict, guard, {method_.exchange.get()});
  }
  method_.exchange->Commit();
  Move(gamma, *f.aggregate);
  return report;
}

TwoLooks::TwoLooks(FieldMethod method, const SchemeContext& context)
    : FieldScheme(std::move(method), context), zh_(context.exchange.layout, context.exchange.dtype) {}

absl::StatusOr<StepReport> TwoLooks::Step(Operator& field, const Cursor& cursor, Guard& guard) {
  const double gamma = GammaAt(cursor);
  Exchange *const at_z = method_.exchange.get(), *const at_zh = method_.half.get();
  StepReport report{.step = cursor.step, .learning_rate = gamma};
  ASSIGN_OR_RETURN(Exchanged f, ExchangeField(field, z_, cursor.Key(), 0, *at_z));
  report.evaluation = std::move(f.evaluation);
  ASSIGN_OR_RETURN(report.norms, NormOf(*f.aggregate, f, norm_));
  report.gradient_norm = report.norms.total;
  if (!std::isfinite(report.gradient_norm)) {  // nothing can be evaluated at zh
    return RefuseStep(std::move(report), FailedPrecondition("operator norm is %f", report.gradient_norm), guard, {at_z});
  }
  MoveHalf(gamma, *f.aggregate);
  ASSIGN_OR_RETURN(const Exchanged fh, ExchangeField(field, zh_, cursor.Key(), 1, *at_zh));
  ASSIGN_OR_RETURN(VectorNorms norms_at_zh, NormOf(*fh.aggregate, fh, norm_));
  if (const absl::Status verdict = guard.Accept(report.evaluation.objective, norms_at_zh.total); !verdict.ok()) {
    report.norms.why = std::move(norms_at_zh.why);
    return RefuseStep(std::move(report), verdict, guard, {at_z, at_zh});
  }
  at_z->Commit();
  at_zh->Commit();
  Move(gamma, *f.aggregate, *fh.aggregate);
  return report;
}

}  // namespace conclave
