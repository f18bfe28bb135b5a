#include "optim/field_exchange.h"

#include <cmath>
#include <utility>

#include "base/trace.h"
#include "optim/not_finite.h"

namespace conclave {

absl::StatusOr<Exchanged> ExchangeField(Operator& field, const FlatVector& point, const SampleKey& key, uint32_t draw, Exchange& exchange,
                                        LogicalNorm* norm) {
  exchange.Begin(key.step, draw);
  const OnBlock put = [&exchange, norm](WorkerId worker, BlockId block, const Tensor& span, bool folded) -> absl::Status {
    RETURN_IF_ERROR(exchange.Put(worker, block, span, folded));
    if (norm == nullptr || !folded) return absl::OkStatus();
    if (const Tensor mean = exchange.Place(block); mean.defined()) norm->Note(block, mean);
    return absl::OkStatus();
  };
  Exchanged result;
  field.Attach(&exchange);
  absl::StatusOr<Evaluation> evaluation = field.Evaluate(point, key, exchange.wants_each_worker(), put);
  field.Attach(nullptr);
  ASSIGN_OR_RETURN(result.evaluation, std::move(evaluation));
  const TraceSpan span("exchange finish");
  ASSIGN_OR_RETURN(result.aggregate, exchange.Finish());
  result.field = &field, result.point = &point, result.key = key, result.exchange = &exchange;
  return result;
}

absl::StatusOr<VectorNorms> NormOf(const FlatVector& x, const Exchanged& f, LogicalNorm& norm) {
  ASSIGN_OR_RETURN(VectorNorms norms, norm.Of(x));
  if (std::isfinite(norms.total)) return norms;
  const Suspects suspects{
      .exchange = f.exchange,
      .vectors = [&f](const OnBlock& look) { return f.field->Evaluate(*f.point, f.key, /*each_worker=*/true, look).status(); },
      .mean = f.aggregate};
  ASSIGN_OR_RETURN(norms.why, WhyNotFinite(norm.layout()->parameters(), *norm.world(), suspects));
  return norms;
}

absl::StatusOr<StepReport> RefuseStep(StepReport report, const absl::Status& reason, Guard& guard,
                                      std::initializer_list<Exchange*> exchanges) {
  for (Exchange* exchange : exchanges) exchange->Discard();
  report.skipped = true;
  report.reason = std::string(reason.message());
  if (!report.norms.why.empty()) report.reason += ": " + report.norms.why;
  RETURN_IF_ERROR(Annotate(guard.Refused(absl::Status(reason.code(), report.reason)), absl::StrFormat("step %d", report.step)));
  return report;
}

}  // namespace conclave
