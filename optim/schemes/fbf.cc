// FBF, forward-backward-forward (Tseng 2000): zh = prox_{gamma h}(z - gamma F(z)); z <- zh - gamma (F(zh) - F(z)). Same samples at both
// points. One prox a step; without prox it is extragradient. Converges for gamma < 1 / L on monotone problems. z may leave the domain of h
// by as much as the last correction.
#include <utility>

#include "optim/field_steps.h"

namespace conclave {
namespace {

class ForwardBackwardForward final : public TwoLooks {
 public:
  ForwardBackwardForward(FieldMethod method, const SchemeContext& context)
      : TwoLooks(std::move(method), context), correction_(context.exchange.layout, context.exchange.dtype) {}

 private:
  void MoveHalf(double gamma, const FlatVector& f) override { StepTo(&zh_, z_, gamma, f); }
  void Move(double gamma, const FlatVector& f, const FlatVector& fh) override {
    correction_.Combine(1, fh, -1, f);
    z_.Combine(1, zh_, -gamma, correction_);
  }

  FlatVector correction_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Scheme>> MakeForwardBackwardForward(const OptimConfig& config, const SchemeContext& context) {
  ASSIGN_OR_RETURN(FieldMethod method, MakeFieldMethod(config, config.fbf().exchange(), config.fbf().gamma(), context, 2));
  return std::make_unique<ForwardBackwardForward>(std::move(method), context);
}

}  // namespace conclave
