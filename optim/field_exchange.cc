#include "optim/field_exchange.h"

#include <utility>

#include "base/trace.h"

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
  return result;
}

absl::StatusOr<StepReport> RefuseStep(StepReport report, const absl::Status& reason, Guard& guard,
                                      std::initializer_list<Exchange*> exchanges) {
  for (Exchange* exchange : exchanges) exchange->Discard();
  RETURN_IF_ERROR(Annotate(guard.Refused(reason), absl::StrFormat("step %d", report.step)));
  report.skipped = true;
  report.reason = std::string(reason.message());
  return report;
}

}  // namespace conclave
