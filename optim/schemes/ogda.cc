// OGDA, optimistic gradient descent-ascent; with a prox: forward-reflected-backward (Malitsky and Tam 2020), whose form for steps that
// change is used here (' marks the step before):
//   z <- prox_{gamma h}(z - gamma F(z) - gamma' (F(z) - F(z')));   gamma' = 0 in the first step, so that it is a plain one
// Converges for gamma < 1 / (2 L) on monotone problems; on bilinear games without prox up to 1 / (sqrt(3) L).
#include <utility>

#include "optim/field_steps.h"

namespace conclave {
namespace {

class Ogda final : public OneLook {
 public:
  Ogda(FieldMethod method, const SchemeContext& context)
      : OneLook(std::move(method), context),
        F_before_(context.exchange.layout, context.exchange.dtype),
        move_(context.exchange.layout, context.exchange.dtype) {}

 private:
  void Move(double gamma, const FlatVector& f) override {
    move_.Combine(gamma + gamma_before_, f, -gamma_before_, F_before_);
    z_.Combine(1, z_, -1, move_);
    method_.prox->Apply(z_, gamma);
    F_before_.CopyFrom(f);
    gamma_before_ = gamma;
  }
  void RegisterOwn(StateDict& state) override {
    state.Add("ogda.F_before", F_before_);
    state.AddScalar("ogda.gamma_before", &gamma_before_);
  }

  FlatVector F_before_;  // train state: F(z') as it came out of the exchange
  double gamma_before_ = 0;
  FlatVector move_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Scheme>> MakeOgda(const OptimConfig& config, const SchemeContext& context) {
  ASSIGN_OR_RETURN(FieldMethod method, MakeFieldMethod(config, config.ogda().exchange(), config.ogda().gamma(), context, 1));
  return std::make_unique<Ogda>(std::move(method), context);
}

}  // namespace conclave
