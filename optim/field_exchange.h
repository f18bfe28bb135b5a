// What every scheme does with a field: evaluate it at a point, send it through an exchange, and take a refused step back.
#ifndef CONCLAVE_OPTIM_FIELD_EXCHANGE_H_
#define CONCLAVE_OPTIM_FIELD_EXCHANGE_H_

#include <initializer_list>

#include "optim/norm.h"
#include "optim/scheme.h"

namespace conclave {

struct Exchanged {
  Evaluation evaluation;
  Aggregate aggregate = nullptr;  // F(point) on the owners, valid until the exchange's next Begin
  // What it was made from.
  Operator* field = nullptr;
  const FlatVector* point = nullptr;
  SampleKey key;
  const Exchange* exchange = nullptr;
};

// F_m(point) of every local worker into `exchange`, overlapped with the evaluation, up to Finish. draw: numbers the messages of one step.
// norm: notes the blocks whose mean is final at once, while they are in the cache; null: nobody asks for norms. Collective. Neither commits
// nor discards.
absl::StatusOr<Exchanged> ExchangeField(Operator& field, const FlatVector& point, const SampleKey& key, uint32_t draw, Exchange& exchange,
                                        LogicalNorm* norm = nullptr);

// norm.Of(x), x made of finite vectors and f's aggregate. Where it is not finite, `why` says whose vector is to blame: the field is
// evaluated once more at the same point if no message tells, each worker by itself (memory of one more gradient, and of its leaves').
// Collective.
absl::StatusOr<VectorNorms> NormOf(const FlatVector& x, const Exchanged& f, LogicalNorm& norm);

// Discards what the step put into `exchanges` and lets the guard decide, who hears of report.norms.why too. Returns the report as a skipped
// step, or the error that ends the run.
absl::StatusOr<StepReport> RefuseStep(StepReport report, const absl::Status& reason, Guard& guard,
                                      std::initializer_list<Exchange*> exchanges);

}  // namespace conclave

#endif  // CONCLAVE_OPTIM_FIELD_EXCHANGE_H_
