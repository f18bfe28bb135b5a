#include "models/distributions/normal.h"

#include <cmath>
#include <numbers>

#include <gtest/gtest.h>

#include "tests/tensor/gradient_check.h"

namespace conclave {
namespace {

OwnedTensor Make(const std::vector<double>& values, const Shape& shape) {
  OwnedTensor tensor(shape, DType::kF64);
  std::ranges::copy(values, tensor->data<double>());
  return tensor;
}

std::vector<double> Kl(const std::vector<double>& mean, const std::vector<double>& log_std, double prior_variance) {
  Arena arena;
  Tape tape(&arena, /*gradients=*/false);
  const int64_t d = static_cast<int64_t>(log_std.size()), n = static_cast<int64_t>(mean.size()) / d;
  const OwnedTensor m = Make(mean, {n, d}), s = Make(log_std, {d});
  const std::span<double> kl = tape.value(KlToCentredNormal(tape, tape.Constant(*m), tape.Constant(*s), prior_variance)).span<double>();
  return {kl.begin(), kl.end()};
}

TEST(Normal, KlGolden) {
  // KL(N(1, 0.5^2) || N(0, 1)).
  EXPECT_NEAR(Kl({1.0}, {std::log(0.5)}, 1.0)[0], 0.8181471806, 5e-11);
}

TEST(Normal, KlByDefinition) {
  const std::vector<double> mean = {0.3, -1.2, 2.0, 0.1, 0.0, -0.7}, log_std = {-0.4, 0.2, 0.9};
  const double prior = 1.7;
  const std::vector<double> kl = Kl(mean, log_std, prior);
  for (int j = 0; j < 3; ++j) {
    double want = 0;
    for (int i = 0; i < 2; ++i) {
      const double sq = std::exp(log_std[j]), sp = std::sqrt(prior), mu = mean[i * 3 + j];
      want += std::log(sp / sq) + (sq * sq + mu * mu) / (2 * sp * sp) - 0.5;
    }
    EXPECT_NEAR(kl[j], want, 1e-14 * std::abs(want) + 1e-14) << "dim " << j;
    EXPECT_GE(kl[j], 0);
  }
}

TEST(Normal, KlOfEqualDistributionsIsZero) {
  for (const double variance : {0.25, 1.0, 3.0}) {
    EXPECT_NEAR(Kl({0.0, 0.0}, {0.5 * std::log(variance), 0.5 * std::log(variance)}, variance)[1], 0, 1e-15) << variance;
  }
}

// Scaling the space by a changes mean, deviation and prior alike, and no divergence.
TEST(Normal, KlIsInvariantUnderScaling) {
  for (const double a : {0.1, 3.0}) {
    EXPECT_NEAR(Kl({a * 0.8}, {std::log(a * 0.6)}, a * a * 1.3)[0], Kl({0.8}, {std::log(0.6)}, 1.3)[0], 1e-14);
  }
}

// The one-draw estimator agrees with the closed form within 4 standard errors, and so do the draw's first two moments.
TEST(Normal, SampledKlAgreesWithTheClosedForm) {
  constexpr int64_t kRows = 40000;
  const double mean = 0.7, log_std = -0.3, prior = 1.4;
  Arena arena;
  Tape tape(&arena, /*gradients=*/false);
  const OwnedTensor m = Make(std::vector<double>(kRows, mean), {kRows, 1}), s = Make({log_std}, {1});
  const Var mv = tape.Constant(*m), sv = tape.Constant(*s);
  const NormalDraw draw = SampleNormal(tape, mv, sv, {.seed = 9, .kind = RngKind::kNoise}, 0);
  const std::span<double> z = tape.value(draw.sample).span<double>(), noise = tape.value(draw.noise).span<double>();
  double sum = 0, squares = 0, first = 0, second = 0;
  for (int64_t i = 0; i < kRows; ++i) {
    EXPECT_DOUBLE_EQ(z[i], mean + std::exp(log_std) * noise[i]);
    const double sample = -0.5 * noise[i] * noise[i] - log_std + 0.5 * z[i] * z[i] / prior + 0.5 * std::log(prior);
    sum += sample, squares += sample * sample;
    first += z[i], second += (z[i] - mean) * (z[i] - mean);
  }
  const double estimate = tape.value(KlToCentredNormalSampled(tape, draw, sv, prior)).span<double>()[0] / kRows;
  EXPECT_NEAR(estimate, sum / kRows, 1e-12);
  const double standard_error = std::sqrt((squares / kRows - estimate * estimate) / kRows);
  EXPECT_LE(std::abs(estimate - Kl({mean}, {log_std}, prior)[0]), 4 * standard_error);
  const double variance = std::exp(2 * log_std);
  EXPECT_LE(std::abs(first / kRows - mean), 4 * std::sqrt(variance / kRows));
  EXPECT_LE(std::abs(second / kRows - variance), 4 * variance * std::sqrt(2.0 / kRows));
}

// Noise is addressed by row: a draw of rows 2.. equals the tail of a draw of rows 0...
TEST(Normal, NoiseIsAddressedByRow) {
  Arena arena;
  Tape tape(&arena, /*gradients=*/false);
  const OwnedTensor five({5, 3}, DType::kF64), three({3, 3}, DType::kF64), s({3}, DType::kF64);
  const RngKey key{.seed = 4, .site = 1, .kind = RngKind::kNoise};
  const auto all = tape.value(SampleNormal(tape, tape.Constant(*five), tape.Constant(*s), key, 0).noise).span<double>();
  const auto tail = tape.value(SampleNormal(tape, tape.Constant(*three), tape.Constant(*s), key, 2).noise).span<double>();
  for (size_t i = 0; i < tail.size(); ++i) EXPECT_EQ(tail[i], all[6 + i]);
}

TEST(Normal, LogDensity) {
  Arena arena;
  Tape tape(&arena, /*gradients=*/false);
  const OwnedTensor x = Make({1, 2, -1, 0.5}, {2, 2}), log_variance = Make({std::log(0.7)}, {1}), extra = Make({0.3}, {1});
  const std::span<double> plain = tape.value(LogDensityIsotropic(tape, tape.Constant(*x), tape.Constant(*log_variance))).span<double>();
  const std::span<double> more =
      tape.value(LogDensityIsotropic(tape, tape.Constant(*x), tape.Constant(*log_variance), tape.Constant(*extra))).span<double>();
  const double squares[] = {5, 1.25};
  for (int i = 0; i < 2; ++i) {
    EXPECT_NEAR(plain[i], -std::log(2 * std::numbers::pi * 0.7) - squares[i] / 1.4, 1e-14);
    EXPECT_NEAR(more[i], -std::log(2 * std::numbers::pi * 0.7) - (squares[i] + 0.3) / 1.4, 1e-14);
  }
}

TEST(Normal, Gradients) {
  const RngKey key{.seed = 2, .kind = RngKind::kNoise};
  const std::vector<GradientInput> inputs = {RandomInput({4, 3}, 1), RandomInput({3}, 2)};
  EXPECT_TRUE(CheckGradients(inputs, [&](Tape& t, std::span<const Var> x) { return KlToCentredNormal(t, x[0], x[1], 1.3); }));
  EXPECT_TRUE(CheckGradients(inputs, [&](Tape& t, std::span<const Var> x) { return SampleNormal(t, x[0], x[1], key, 7).sample; }));
  EXPECT_TRUE(CheckGradients(inputs, [&](Tape& t, std::span<const Var> x) {
    return KlToCentredNormalSampled(t, SampleNormal(t, x[0], x[1], key, 7), x[1], 1.3);
  }));
  EXPECT_TRUE(CheckGradients({RandomInput({4, 3}, 1), RandomInput({1}, 2), RandomInput({1}, 3)},
                             [&](Tape& t, std::span<const Var> x) { return LogDensityIsotropic(t, x[0], x[1], x[2]); }));
}

}  // namespace
}  // namespace conclave
