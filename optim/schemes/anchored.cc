// Extra anchored gradient (Yoon and Ryu 2021, EAG-C): extragradient whose both half steps are pulled towards the start z0 by a weight that
// fades, as in Halpern's iteration. k counts accepted steps.
//   pulled = z + beta (z0 - z), beta = 1 / (k + 2);   zh = prox_{gamma h}(pulled - gamma F(z));   z <- prox_{gamma h}(pulled - gamma F(zh))
// Without prox and for gamma <= 1 / (8 L): |F(z_k)|^2 <= 4 (1 + gamma L + gamma^2 L^2) / (gamma^2 (1 + gamma L)) |z0 - z*|^2 / (k + 1)^2 on
// every monotone problem. It is not faster under strong monotonicity.
#include <utility>

#include "optim/field_steps.h"

namespace conclave {
namespace {

class Anchored final : public TwoLooks {
 public:
  Anchored(FieldMethod method, const SchemeContext& context)
      : TwoLooks(std::move(method), context),
        z0_(context.exchange.layout, context.exchange.dtype),
        pulled_(context.exchange.layout, context.exchange.dtype) {}

  absl::Status Start(Operator&) override {
    z0_.CopyFrom(z_);
    return absl::OkStatus();
  }

 private:
  void MoveHalf(double gamma, const FlatVector& f) override {
    const double beta = 1.0 / static_cast<double>(accepted_ + 2);
    pulled_.Combine(1 - beta, z_, beta, z0_);
    StepTo(&zh_, pulled_, gamma, f);
  }
  void Move(double gamma, const FlatVector&, const FlatVector& fh) override {
    StepTo(&z_, pulled_, gamma, fh);
    ++accepted_;
  }
  void RegisterOwn(StateDict& state) override {
    state.Add("anchored.z0", z0_);
    state.AddScalar("optim.accepted", &accepted_);
  }

  FlatVector z0_;  // train state
  int64_t accepted_ = 0;
  FlatVector pulled_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Scheme>> MakeAnchored(const OptimConfig& config, const SchemeContext& context) {
  ASSIGN_OR_RETURN(FieldMethod method, MakeFieldMethod(config, config.anchored().exchange(), config.anchored().gamma(), context, 2));
  return std::make_unique<Anchored>(std::move(method), context);
}

}  // namespace conclave
