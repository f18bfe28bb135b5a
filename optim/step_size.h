// Step sizes that theory proves.
#ifndef CONCLAVE_OPTIM_STEP_SIZE_H_
#define CONCLAVE_OPTIM_STEP_SIZE_H_

#include "base/status.h"
#include "comm/exchange.h"
#include "optim/operator.h"
#include "proto/optim.pb.h"

namespace conclave {

// Lipschitz constant of the estimate that MASHA1's exchange gives, in the mean square: E |g|^2 <= Cq^2 |zh - w|^2. With independent codecs
// Cq^2 = L^2 + (q - 1) / M L~^2, L~^2 the mean of L_m^2; perm_k with values of factor q_v: q_v L~^2; errors common to all workers: q L~^2;
// with b of M workers L^2 + ((M - b) / (b (M - 1)) + (q - 1) / b) L~^2. q: the largest of the blocks'. A codec on the way back multiplies
// Cq^2 by its own q_s. Errors: InvalidArgument for other exchanges than exact and quantized, or a codec that cannot be made or is biased.
absl::StatusOr<double> CompressedLipschitz(const Masha1Config& config, const OperatorConstants& constants, const ExchangeContext& context);

// The step that is proven to converge on a problem with these constants: for extragradient and fbf 0.9 / L, ogda 0.45 / L,
// past_extragradient 0.3 / L, reflected_gradient 0.37 / L, anchored 0.12 / L, gda mu / L^2; masha1: min(sqrt(p / 2) / Cq, p / (2 mu)) where
// mu > 0 and p <= 1/2, else sqrt(p) / Cq. Errors: InvalidArgument for schemes without a proven step, and for a lossy exchange under any but
// masha1; FailedPrecondition where a constant is not known.
absl::StatusOr<double> ProvableStep(const OptimConfig& config, const OperatorConstants& constants, const ExchangeContext& context);

// Writes the chosen scheme's gamma. False: it has none.
bool SetStep(double gamma, OptimConfig* config);

}  // namespace conclave

#endif  // CONCLAVE_OPTIM_STEP_SIZE_H_
