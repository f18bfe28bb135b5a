#include "optim/field_exchange.h"

#include <utility>

#include "base/trace.h"

namespace conclave {

absl::StatusOr<Exchanged> ExchangeField(Operator& field, const FlatVector& point, const SampleKey& key, uint32_t draw, Exchange& exchange) {
  exchange.Begin(key.step, draw);
  const OnBlock put = [&exchange](WorkerId worker, BlockId block, const Tensor& span, bool folded) {
    return exchange.Put(worker, block, span, folded);
  };
  Exchanged result;
  field.ReadFrom(&exchange);
  absl::StatusOr<Evaluation> evaluation = field.Evaluate(point, key, exchange.wants_each_worker(), put);
  field.ReadFrom(nullptr);
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
