// Diagonal normal distributions on a tape.
#ifndef CONCLAVE_MODELS_DISTRIBUTIONS_NORMAL_H_
#define CONCLAVE_MODELS_DISTRIBUTIONS_NORMAL_H_

#include "base/rng.h"
#include "tensor/ops/ops.h"

namespace conclave {

struct NormalDraw {
  Var sample;  // [n, d] mean + exp(log_std) * noise
  Var noise;   // [n, d] constant
};
// Reparameterised draw. mean: [n, d], log_std: [d]. Element (i, j) of the noise is number (first_row + i) * d + j of `key`.
NormalDraw SampleNormal(Tape& tape, Var mean, Var log_std, const RngKey& key, int64_t first_row);

// KL(N(mean, exp(2 log_std)) || N(0, prior_variance)) per dim, summed over rows: [d]. mean: [n, d], log_std: [d].
// Per row and dim, with s = exp(log_std): log(s_p / s) + (s^2 + mean^2) / (2 s_p^2) - 1/2.
Var KlToCentredNormal(Tape& tape, Var mean, Var log_std, double prior_variance);

// The same from one draw: sum over rows of log q(sample) - log p(sample), per dim: [d]. Unbiased for KlToCentredNormal.
Var KlToCentredNormalSampled(Tape& tape, const NormalDraw& draw, Var log_std, double prior_variance);

// log N(difference; 0, exp(log_variance) I) by row: [n]. difference: [n, d], log_variance: [1]. `extra`: [1] added to every row's squared
// error (what an expectation in closed form leaves over), or none.
Var LogDensityIsotropic(Tape& tape, Var difference, Var log_variance, Var extra = {});

}  // namespace conclave

#endif  // CONCLAVE_MODELS_DISTRIBUTIONS_NORMAL_H_
