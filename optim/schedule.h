// Schedules: a factor on the learning rate or gamma as a pure function of the step.
#ifndef CONCLAVE_OPTIM_SCHEDULE_H_
#define CONCLAVE_OPTIM_SCHEDULE_H_

#include <cstdint>

#include "proto/optim.pb.h"

namespace conclave {

// step: attempts so far, counted from 0; total_steps: the length of the run. With w = warmup_steps:
//   step < w       (step + 1) / (w + 1): linear, 0 at step -1 and 1 at step w
//   CONSTANT       1
//   COSINE         from 1 at step w to min_ratio at the last step, along half a cosine
//   WSD            1, then linear to min_ratio at the last step; the decay takes round(decay_fraction * total_steps) steps
// Steps after the last one keep its factor.
double ScheduleFactor(const ScheduleConfig& config, int64_t step, int64_t total_steps);

}  // namespace conclave

#endif  // CONCLAVE_OPTIM_SCHEDULE_H_
