#include "trainer/step_tuning.h"

#include <array>
#include <cmath>
#include <limits>

#include "base/log.h"
#include "comm/ledger.h"
#include "optim/gap.h"
#include "optim/guard.h"
#include "optim/step_size.h"

namespace conclave {
namespace {

constexpr std::array<double, 10> kMultiples = {0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 12};

// Gradient mapping after a trial; infinite where it broke off.
absl::StatusOr<double> TryStep(const OptimConfig& config, const SchemeContext& context, Operator& field) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Scheme> scheme, MakeScheme(config, context));
  GuardConfig halt = config.guard();
  halt.set_policy(GuardConfig::HALT);
  const std::unique_ptr<Guard> guard = MakeGuard(halt, context.exchange.world->rank());
  RETURN_IF_ERROR(scheme->Start(field));
  for (Cursor cursor; cursor.step < config.trial_steps(); ++cursor.step) {
    const absl::Status stepped = scheme->Step(field, cursor, *guard).status();
    if (absl::IsFailedPrecondition(stepped)) return std::numeric_limits<double>::infinity();
    RETURN_IF_ERROR(stepped);
  }
  RETURN_IF_ERROR(scheme->Settle());
  ASSIGN_OR_RETURN(const std::unique_ptr<Prox> prox, MakeProx(config.prox(), context.exchange.layout->parameters()));
  GapMeasures gap(context.exchange);
  ASSIGN_OR_RETURN(const double mapping, gap.GradientMapping(field, *prox, scheme->point(), SampleKey{.full = true}, 1.0));
  return std::isfinite(mapping) ? mapping : std::numeric_limits<double>::infinity();
}

absl::StatusOr<double> CentreOfGrid(const SchemeContext& context, const Operator& field, const OptimConfig& config) {
  const absl::StatusOr<double> proven = ProvableStep(config, field.constants(), context.exchange);
  if (proven.ok()) return *proven;
  const auto* member = config.GetReflection()->GetOneofFieldDescriptor(config, OptimConfig::descriptor()->FindOneofByName("scheme"));
  const google::protobuf::Message& scheme = config.GetReflection()->GetMessage(config, member);
  const auto* gamma = scheme.GetDescriptor()->FindFieldByName("gamma");
  const double given = gamma == nullptr ? 0 : scheme.GetReflection()->GetDouble(scheme, gamma);
  if (given > 0) return given;
  if (const double lipschitz = field.constants().lipschitz.value_or(0); lipschitz > 0 && gamma != nullptr) return 0.25 / lipschitz;
  return Annotate(proven.status(), "optim.step: AUTO_TUNE needs a gamma to search around");
}

}  // namespace

absl::Status FindStep(const SchemeContext& context, Operator& field, OptimConfig* config) {
  if (config->step() == OptimConfig::GIVEN) return absl::OkStatus();
  double best = 0;
  if (config->step() == OptimConfig::PROVABLE) {
    ASSIGN_OR_RETURN(best, ProvableStep(*config, field.constants(), context.exchange));
    best *= config->step_multiple();
  } else {
    ASSIGN_OR_RETURN(const double centre, CentreOfGrid(context, field, *config));
    double least = std::numeric_limits<double>::infinity();
    for (const double multiple : kMultiples) {
      OptimConfig trial = *config;
      SetStep(multiple * centre, &trial);
      ASSIGN_OR_RETURN(const double mapping, TryStep(trial, context, field));
      if (mapping >= least) continue;
      least = mapping;
      best = multiple * centre;
    }
    if (best == 0) {
      return FailedPrecondition("optim.step: AUTO_TUNE: no step from %g to %g reaches a finite point in %d steps; give gamma",
                                kMultiples.front() * centre, kMultiples.back() * centre, config->trial_steps());
    }
    if (Ledger* ledger = context.exchange.world->ledger(); ledger != nullptr) ledger->Take();  // trials are not the run's
  }
  SetStep(best, config);
  const std::string how = OptimConfig::StepSize_Name(config->step());
  config->set_step(OptimConfig::GIVEN);
  if (context.exchange.world->rank() == 0) {
    LOG_INFO << absl::StrFormat("step size gamma = %.6g (%s)", best, how);
  }
  return absl::OkStatus();
}

}  // namespace conclave
