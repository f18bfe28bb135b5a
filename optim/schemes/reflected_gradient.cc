// Reflected gradient (Malitsky 2015): z <- prox_{gamma h}(z - gamma F(2 z - z')), z' the iterate before z; z' = z in the first step.
// Converges for gamma < (sqrt(2) - 1) / L on monotone problems. For an affine F without prox it moves as OGDA does.
#include <utility>

#include "optim/field_steps.h"

namespace conclave {
namespace {

class ReflectedGradient final : public OneLook {
 public:
  ReflectedGradient(FieldMethod method, const SchemeContext& context)
      : OneLook(std::move(method), context),
        z_before_(context.exchange.layout, context.exchange.dtype),
        reflected_(context.exchange.layout, context.exchange.dtype) {}

  absl::Status Start(Operator&) override {
    z_before_.CopyFrom(z_);
    return absl::OkStatus();
  }

 private:
  const FlatVector& Where(double) override {
    reflected_.Combine(2, z_, -1, z_before_);
    return reflected_;
  }
  void Move(double gamma, const FlatVector& f) override {
    z_before_.CopyFrom(z_);
    StepTo(&z_, z_, gamma, f);
  }
  void RegisterOwn(StateDict& state) override { state.Add("reflected_gradient.z_before", z_before_); }

  FlatVector z_before_;  // train state
  FlatVector reflected_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Scheme>> MakeReflectedGradient(const OptimConfig& config, const SchemeContext& context) {
  ASSIGN_OR_RETURN(FieldMethod method,
                   MakeFieldMethod(config, config.reflected_gradient().exchange(), config.reflected_gradient().gamma(), context, 1));
  return std::make_unique<ReflectedGradient>(std::move(method), context);
}

}  // namespace conclave
