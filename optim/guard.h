// The divergence guard by config: finite checks, norm spikes, and what a refused step leads to.
#ifndef CONCLAVE_OPTIM_GUARD_H_
#define CONCLAVE_OPTIM_GUARD_H_

#include <memory>

#include "optim/scheme.h"
#include "proto/optim.pb.h"

namespace conclave {

// Refuses a step whose loss or norm is not finite, and (spike_zscore > 0) one whose norm z has (z - mean) / deviation > spike_zscore, both
// of the last `window` accepted norms; no spike is seen before the window is full. The guarded quantity is the operator norm, not the loss:
// the loss of a game may grow legitimately. A deviation below a thousandth of the mean counts as that thousandth, so that a run at rest has
// no spikes of rounding size. rank: rank 0 writes the window into checkpoints.
std::unique_ptr<Guard> MakeGuard(const GuardConfig& config, int rank);

}  // namespace conclave

#endif  // CONCLAVE_OPTIM_GUARD_H_
