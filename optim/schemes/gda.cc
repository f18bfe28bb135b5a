// Gradient descent-ascent: z <- prox_{gamma h}(z - gamma F(z)). The control that diverges on bilinear games.
#include <utility>

#include "optim/field_steps.h"

namespace conclave {
namespace {

class GradientDescentAscent final : public OneLook {
 public:
  using OneLook::OneLook;

 private:
  void Move(double gamma, const FlatVector& f) override { StepTo(&z_, z_, gamma, f); }
};

}  // namespace

absl::StatusOr<std::unique_ptr<Scheme>> MakeGradientDescentAscent(const OptimConfig& config, const SchemeContext& context) {
  ASSIGN_OR_RETURN(FieldMethod method, MakeFieldMethod(config, config.gda().exchange(), config.gda().gamma(), context, 1));
  return std::make_unique<GradientDescentAscent>(std::move(method), context);
}

}  // namespace conclave
