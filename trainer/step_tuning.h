// What `optim.step` says: the step size of a run, found before its first step.
#ifndef CONCLAVE_TRAINER_STEP_TUNING_H_
#define CONCLAVE_TRAINER_STEP_TUNING_H_

#include "base/status.h"
#include "optim/operator.h"
#include "optim/schemes.h"

namespace conclave {

// Writes gamma into `config` where its step is not GIVEN, which it is from then on. PROVABLE: optim/step_size.h, times step_multiple.
// AUTO_TUNE: from 1/4 to 12 times the proven step (or gamma where it is given, or 1 / L), each tried for trial_steps steps from the
// starting point; the one with the least gradient mapping on the full data wins, the smaller one of equals. A function of the config alone,
// so a resumed run finds the same. Collective; the result is the same on all ranks. Cost: AUTO_TUNE 10 * (trial_steps + 1) steps. Errors:
// ProvableStep's; FailedPrecondition where no trial ends at a finite point.
absl::Status FindStep(const SchemeContext& context, Operator& field, OptimConfig* config);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_STEP_TUNING_H_
