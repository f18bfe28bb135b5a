// Extragradient (Korpelevich 1976): zh = prox_{gamma h}(z - gamma F(z)); z <- prox_{gamma h}(z - gamma F(zh)). Same samples at both points.
// Converges for gamma < 1 / L on monotone problems, bilinear games included.
#include <utility>

#include "optim/field_steps.h"

namespace conclave {
namespace {

class Extragradient final : public TwoLooks {
 public:
  using TwoLooks::TwoLooks;

 private:
  void MoveHalf(double gamma, const FlatVector& f) override { StepTo(&zh_, z_, gamma, f); }
  void Move(double gamma, const FlatVector&, const FlatVector& fh) override { StepTo(&z_, z_, gamma, fh); }
};

}  // namespace

absl::StatusOr<std::unique_ptr<Scheme>> MakeExtragradient(const OptimConfig& config, const SchemeContext& context) {
  ASSIGN_OR_RETURN(FieldMethod method,
                   MakeFieldMethod(config, config.extragradient().exchange(), config.extragradient().gamma(), context, 2));
  return std::make_unique<Extragradient>(std::move(method), context);
}

}  // namespace conclave
