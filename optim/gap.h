// Gap measures: how far a point is from a solution.
#ifndef CONCLAVE_OPTIM_GAP_H_
#define CONCLAVE_OPTIM_GAP_H_

#include "base/status.h"
#include "comm/exchange.h"
#include "optim/norm.h"
#include "optim/operator.h"
#include "optim/prox.h"
#include "tensor/layout.h"

namespace conclave {

// Owns the scratch vectors and an exact exchange. Every measure is collective and gives the same bits on all ranks. Not for use inside a
// step.
class GapMeasures {
 public:
  explicit GapMeasures(const ExchangeContext& context);

  // ||a - b||.
  absl::StatusOr<double> Distance(const FlatVector& a, const FlatVector& b);
  // ||z - prox_{tau h}(z - tau F(z))|| / tau, tau > 0. Zero at solutions for any h; ||F(z)|| when h = 0. Cost: one evaluation, one exact
  // exchange.
  absl::StatusOr<double> GradientMapping(Operator& field, const Prox& prox, const FlatVector& z, const SampleKey& key, double tau);

 private:
  std::unique_ptr<Exchange> exact_;
  LogicalNorm norm_;
  FlatVector scratch_;
};

}  // namespace conclave

#endif  // CONCLAVE_OPTIM_GAP_H_
