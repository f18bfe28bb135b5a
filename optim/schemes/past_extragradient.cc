// Past extragradient (Popov 1980): extragradient whose half step uses the field of the half step before, so one evaluation is enough.
//   zh = prox_{gamma h}(z - gamma F(zh'));   z <- prox_{gamma h}(z - gamma F(zh));   zh = z in the first step
// Without prox its zh are the iterates of OGDA. Converges for gamma < 1 / (3 L) on monotone problems.
#include <utility>

#include "optim/field_steps.h"

namespace conclave {
namespace {

class PastExtragradient final : public OneLook {
 public:
  PastExtragradient(FieldMethod method, const SchemeContext& context)
      : OneLook(std::move(method), context),
        F_before_(context.exchange.layout, context.exchange.dtype),
        zh_(context.exchange.layout, context.exchange.dtype) {}

 private:
  const FlatVector& Where(double gamma) override {
    if (accepted_ == 0) return z_;
    StepTo(&zh_, z_, gamma, F_before_);
    return zh_;
  }
  void Move(double gamma, const FlatVector& fh) override {
    StepTo(&z_, z_, gamma, fh);
    F_before_.CopyFrom(fh);
    ++accepted_;
  }
  void RegisterOwn(StateDict& state) override {
    state.Add("past_extragradient.F_before", F_before_);
    state.AddScalar("optim.accepted", &accepted_);
  }

  FlatVector F_before_;  // train state: F(zh')
  int64_t accepted_ = 0;
  FlatVector zh_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Scheme>> MakePastExtragradient(const OptimConfig& config, const SchemeContext& context) {
  ASSIGN_OR_RETURN(FieldMethod method,
                   MakeFieldMethod(config, config.past_extragradient().exchange(), config.past_extragradient().gamma(), context, 1));
  return std::make_unique<PastExtragradient>(std::move(method), context);
}

}  // namespace conclave
