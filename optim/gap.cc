#include "optim/gap.h"

#include "optim/field_exchange.h"

namespace conclave {

GapMeasures::GapMeasures(const ExchangeContext& context)
    : exact_(MakeExactExchange(context)), norm_(context.layout, context.world), scratch_(context.layout, context.dtype) {}

absl::StatusOr<double> GapMeasures::Distance(const FlatVector& a, const FlatVector& b) {
  scratch_.Combine(1, a, -1, b);
  ASSIGN_OR_RETURN(const VectorNorms norms, norm_.Of(scratch_));
  return norms.total;
}

absl::StatusOr<double> GapMeasures::GradientMapping(Operator& field, const Prox& prox, const FlatVector& z, const SampleKey& key,
                                                    double tau) {
  ASSIGN_OR_RETURN(const Exchanged f, ExchangeField(field, z, key, 0, *exact_));
  exact_->Commit();
  scratch_.Combine(1, z, -tau, *f.aggregate);
  prox.Apply(scratch_, tau);
  scratch_.Combine(1, z, -1, scratch_);
  ASSIGN_OR_RETURN(const VectorNorms norms, norm_.Of(scratch_));
  return norms.total / tau;
}

}  // namespace conclave
