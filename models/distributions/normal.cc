#include "models/distributions/normal.h"

#include <cmath>
#include <numbers>

namespace conclave {

NormalDraw SampleNormal(Tape& tape, Var mean, Var log_std, const RngKey& key, int64_t first_row) {
  const Tensor m = tape.value(mean);
  const Tensor noise = tape.arena().New(m.shape(), m.dtype());
  const int64_t d = m.dim(1);
  DispatchFloat(m.dtype(), [&](auto t) {
    using T = decltype(t);
    key.FillNormal(static_cast<uint64_t>(first_row * d), noise.span<T>());
  });
  NormalDraw draw;
  draw.noise = tape.Constant(noise);
  draw.sample = Add(tape, mean, Mul(tape, draw.noise, Exp(tape, log_std)));
  return draw;
}

Var KlToCentredNormal(Tape& tape, Var mean, Var log_std, double prior_variance) {
  const double half = 0.5 / prior_variance;
  const Var variance = Exp(tape, Affine(tape, log_std, 2, 0));
  const Var by_dim = Sub(tape, Affine(tape, variance, half, 0.5 * std::log(prior_variance) - 0.5), log_std);
  return SumFirst(tape, Add(tape, Affine(tape, Square(tape, mean), half, 0), by_dim));
}

Var KlToCentredNormalSampled(Tape& tape, const NormalDraw& draw, Var log_std, double prior_variance) {
  const Var energy = Affine(tape, Square(tape, draw.sample), 0.5 / prior_variance, 0.5 * std::log(prior_variance));
  const Var entropy = Affine(tape, Square(tape, draw.noise), 0.5, 0);
  return SumFirst(tape, Sub(tape, Sub(tape, energy, entropy), log_std));
}

Var LogDensityIsotropic(Tape& tape, Var difference, Var log_variance, Var extra) {
  const double d = static_cast<double>(tape.value(difference).dim(1));
  Var squared = SumLast(tape, Square(tape, difference));
  if (extra.defined()) squared = Add(tape, squared, extra);
  const Var precision = Exp(tape, Affine(tape, log_variance, -1, 0));
  const Var scaled = Mul(tape, squared, precision);
  return Affine(tape, Add(tape, scaled, Affine(tape, log_variance, d, d * std::log(2 * std::numbers::pi))), -0.5, 0);
}

}  // namespace conclave
