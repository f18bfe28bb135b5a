// The zoo's analytic oracles, reached by training through the real schemes.
#include <cmath>
#include <complex>
#include <numbers>

#include <gtest/gtest.h>

#include "tests/trainer/model_run.h"

namespace conclave {
namespace {

// Rows +-sqrt(d lambda_i) e_i: 2 d samples with mean 0 and covariance diag(lambda).
class AxisSource : public Source {
 public:
  explicit AxisSource(std::vector<double> eigenvalues) : eigenvalues_(std::move(eigenvalues)) {}
  SampleShape shape() const override { return {SampleShape::Kind::kFeatures, d()}; }
  int64_t size() const override { return 2 * d(); }
  absl::Status Fetch(int64_t sample, int64_t, int64_t row, Batch* batch) const override {
    const int64_t axis = sample / 2;
    const double value = (sample % 2 == 0 ? 1 : -1) * std::sqrt(static_cast<double>(d()) * eigenvalues_[axis]);
    batch->features.Slice(row, 1).Zero();
    DispatchFloat(batch->features.dtype(),
                  [&](auto t) { batch->features.data<decltype(t)>()[row * d() + axis] = static_cast<decltype(t)>(value); });
    ++batch->count;
    return absl::OkStatus();
  }

 private:
  int64_t d() const { return static_cast<int64_t>(eigenvalues_.size()); }
  std::vector<double> eigenvalues_;
};

double TermOf(const StepReport& report, const std::string& name) {
  for (const Term& term : report.evaluation.terms) {
    if (term.name == name) return term.value;
  }
  return std::nan("");
}

// 16 dimensions, 3 latents: 9 and 4 are kept, 1 equals the decoder's variance and must collapse.
struct Pca {
  std::vector<double> eigenvalues = {9, 4, 1};
  double optimum = 0;  // -1/2 sum of [log 2 pi + log c_i + lambda_i / c_i], c_i = max(lambda_i, 1) for the kept
  Pca() {
    eigenvalues.resize(16, 0.25);
    for (size_t i = 0; i < 16; ++i) {
      const double c = i < 3 ? std::max(eigenvalues[i], 1.0) : 1.0;
      optimum -= 0.5 * (std::log(2 * std::numbers::pi) + std::log(c) + eigenvalues[i] / c);
    }
  }
};

TEST(LinearVaeTraining, AdamWReachesProbabilisticPca) {
  const Pca pca;
  const auto run = RunModel({.config = "name: 'vae' trainer { workers: 4 global_batch: 32 } model { precision { compute: F64 }"
                                       " linear_vae { data_dim: 16 latent_dim: 3 samples: 0 } }"
                                       " optim { first_order { lr: 0.03 rule { adamw { weight_decay: 0 beta2: 0.99 } } }"
                                       " schedule { cosine { min_ratio: 0.001 } } }",
                             .data = 2,
                             .source = [pca] { return std::make_unique<AxisSource>(pca.eigenvalues); },
                             .steps = 1500});
  ASSERT_TRUE(run.ok()) << run.status();
  const ModelOutcome& outcome = *run;
  EXPECT_NEAR(-outcome.loss(), pca.optimum, 1e-4);
  EXPECT_LE(-outcome.loss(), pca.optimum + 1e-9);  // a bound is never above the evidence
  EXPECT_NEAR(TermOf(outcome.reports.back(), "kl"), 0.5 * (std::log(9.0) + std::log(4.0)), 0.02);
  // |U_j|^2 by latent, sorted: 8, 3 and a collapsed one.
  const std::vector<double> u = outcome.Doubles("decoder.weight");
  std::vector<double> squares(3, 0.0);
  for (size_t i = 0; i < u.size(); ++i) squares[i % 3] += u[i] * u[i];
  std::ranges::sort(squares);
  EXPECT_LE(squares[0], 0.05);
  EXPECT_NEAR(squares[1], 3, 0.05);
  EXPECT_NEAR(squares[2], 8, 0.05);
}

// ||z_k - z*|| of a game along a run, by training it for 0, 1, 2, ... steps.
std::vector<double> Distances(ModelRun run, int64_t steps) {
  std::vector<double> distances;
  const Experiment config = ParseExperiment(run.config);
  const auto model = MakeModel(config.model(), {.seed = config.seed(), .workers = static_cast<int>(config.trainer().workers())});
  EXPECT_TRUE(model.ok()) << model.status();
  for (run.steps = 0; run.steps <= steps; ++run.steps) {
    const auto outcome = RunModel(run);
    EXPECT_TRUE(outcome.ok()) << outcome.status();
    if (!outcome.ok()) return distances;
    double squares = 0;
    for (const BlockId block : {BlockId{0}, BlockId{1}}) {
      const std::vector<double> z = outcome->Doubles((*model)->parameters()[block].name), solution = (*model)->Solution(block);
      for (size_t i = 0; i < z.size(); ++i) squares += (z[i] - solution[i]) * (z[i] - solution[i]);
    }
    distances.push_back(std::sqrt(squares));
  }
  return distances;
}

ModelRun Game(const std::string& scheme, const std::string& fields) {
  return {.config = "name: 'game' trainer { workers: 4 global_batch: 0 } optim { " + scheme +
                    " } model { precision { compute: F64 } bilinear_game { dim: 6 " + fields + " } }",
          .data = 2};
}

// With one singular value sigma and nu = lambda + i sigma every step multiplies the distance by |factor(gamma nu)|.
void ExpectRate(const ModelRun& run, double factor) {
  const std::vector<double> distances = Distances(run, 12);
  ASSERT_EQ(distances.size(), 13u);
  for (size_t k = 1; k < distances.size(); ++k) EXPECT_NEAR(distances[k] / distances[k - 1], factor, 1e-10) << "step " << k;
}

TEST(BilinearGameTraining, ExtragradientConvergesAtItsRate) {
  for (const double lambda : {0.0, 0.4}) {
    const double gamma = 0.5, sigma = 0.8;
    const std::complex<double> step = gamma * std::complex<double>(lambda, sigma);
    const double factor = std::abs(1.0 - step + step * step);
    EXPECT_LT(factor, 1);
    ExpectRate(Game("extragradient { gamma: 0.5 }", absl::StrFormat("sigma_min: 0.8 sigma_max: 0.8 lambda: %g", lambda)), factor);
  }
}

TEST(BilinearGameTraining, GradientDescentAscentDivergesAtItsRate) {
  const double factor = std::abs(1.0 - 0.5 * std::complex<double>(0, 0.8));
  EXPECT_GT(factor, 1);
  ExpectRate(Game("gda { gamma: 0.5 }", "sigma_min: 0.8 sigma_max: 0.8"), factor);
}

// A spectrum from 0.3 to 1: the slowest mode bounds the rate, and in the end sets it.
TEST(BilinearGameTraining, TheSlowestModeSetsTheRate) {
  const double gamma = 0.6;
  const auto factor = [&](double sigma) {
    const std::complex<double> step(0, gamma * sigma);
    return std::abs(1.0 - step + step * step);
  };
  ModelRun run = Game("extragradient { gamma: 0.6 }", "sigma_min: 0.3 sigma_max: 1");
  const std::vector<double> distances = Distances(run, 60);
  ASSERT_EQ(distances.size(), 61u);
  double slowest = 0, fastest = 1;
  for (int i = 0; i < 6; ++i) {
    slowest = std::max(slowest, factor(0.3 + 0.14 * i));
    fastest = std::min(fastest, factor(0.3 + 0.14 * i));
  }
  for (size_t k = 1; k < distances.size(); ++k) {
    EXPECT_LE(distances[k] / distances[k - 1], slowest + 1e-12) << k;
    EXPECT_GE(distances[k] / distances[k - 1], fastest - 1e-12) << k;
  }
  EXPECT_LT(distances.back(), distances.front() * std::pow(slowest, 59));
}

}  // namespace
}  // namespace conclave
