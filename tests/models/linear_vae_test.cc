// linear_vae against probabilistic PCA (Tipping & Bishop 1999). Data: rows +-sqrt(d lambda_i) e_i, whose mean is 0 and covariance
// diag(lambda).
#include <cmath>
#include <numbers>

#include <gtest/gtest.h>

#include "tests/models/one_leaf.h"

namespace conclave {
namespace {

BatchBuffer AxisData(const std::vector<double>& eigenvalues) {
  const int64_t d = static_cast<int64_t>(eigenvalues.size());
  BatchBuffer buffer({SampleShape::Kind::kFeatures, d}, 2 * d, DType::kF64);
  Batch& batch = buffer.Resize(2 * d);
  batch.features.Zero();
  batch.count = 2 * d;
  for (int64_t i = 0; i < d; ++i) {
    const double size = std::sqrt(static_cast<double>(d) * eigenvalues[i]);
    batch.features.data<double>()[2 * i * d + i] = size;
    batch.features.data<double>()[(2 * i + 1) * d + i] = -size;
  }
  return buffer;
}

// The optimum with latent j on axis axes[j]: U_j = sqrt(max(lambda - v, 0)) e, encoder M^-1 U', variances v / M_j, M_j = |U_j|^2 + v.
void SetOptimum(OneLeaf& leaf, const ParameterSet& parameters, const std::vector<double>& eigenvalues, const std::vector<int>& axes,
                double v) {
  const int64_t d = static_cast<int64_t>(eigenvalues.size()), q = static_cast<int64_t>(axes.size());
  const auto block = [&](const char* name) { return leaf.point().block(parameters.Find(name)); };
  leaf.point().Zero();
  for (int64_t j = 0; j < q; ++j) {
    const double u = std::sqrt(std::max(eigenvalues[axes[j]] - v, 0.0)), m = u * u + v;
    block("decoder.weight").data<double>()[axes[j] * q + j] = u;
    block("encoder.weight").data<double>()[j * d + axes[j]] = u / m;
    block("encoder.log_std").data<double>()[j] = 0.5 * std::log(v / m);
  }
  if (parameters.Find("decoder.log_variance").value >= 0) *block("decoder.log_variance").data<double>() = std::log(v);
}

// -1/2 [d log 2 pi + log |C| + tr(C^-1 S)], C = U U' + v I.
double MarginalLikelihood(const std::vector<double>& eigenvalues, const std::vector<int>& axes, double v) {
  double value = 0;
  for (size_t i = 0; i < eigenvalues.size(); ++i) {
    const bool kept = std::ranges::find(axes, static_cast<int>(i)) != axes.end();
    const double c = kept ? std::max(eigenvalues[i], v) : v;
    value -= 0.5 * (std::log(2 * std::numbers::pi) + std::log(c) + eigenvalues[i] / c);
  }
  return value;
}

double LargestGradient(OneLeaf& leaf) {
  double largest = 0;
  for (const double g : ValuesOf(leaf.gradient().flat())) largest = std::max(largest, std::abs(g));
  return largest;
}

TEST(LinearVae, GoldenOptimum) {
  const std::vector<double> eigenvalues = {9, 4, 1, 0.25};
  const auto model = ModelFromText("linear_vae { data_dim: 4 latent_dim: 3 samples: 0 }");
  ASSERT_NE(model, nullptr);
  BatchBuffer data = AxisData(eigenvalues);
  OnOneRank(*model, DType::kF64, [&](OneLeaf& leaf) -> absl::Status {
    SetOptimum(leaf, model->parameters(), eigenvalues, {0, 1, 2}, 1.0);
    ASSIGN_OR_RETURN(const double loss, leaf.Differentiate(data.batch()));
    EXPECT_NEAR(-loss, -7.092513602, 5e-10);
    EXPECT_NEAR(-loss, MarginalLikelihood(eigenvalues, {0, 1, 2}, 1.0), 1e-12);
    EXPECT_LE(LargestGradient(leaf), 1e-14);
    EXPECT_NEAR(leaf.Term(1) - leaf.Term(2), -leaf.Term(0), 1e-11);  // ELBO = reconstruction - KL
    // KL by mode: 1/2 log(lambda / v) in the mean over the data; the third latent is off.
    EXPECT_NEAR(leaf.Term(2) / 8, 0.5 * (std::log(9.0) + std::log(4.0)), 1e-12);
    return absl::OkStatus();
  });
}

// With the decoder's variance learned its optimum is the mean of the discarded eigenvalues.
TEST(LinearVae, LearnedVarianceIsTheMeanOfWhatIsDiscarded) {
  const std::vector<double> eigenvalues = {9, 4, 1, 0.25};
  const auto model = ModelFromText("linear_vae { data_dim: 4 latent_dim: 2 samples: 0 learn_decoder_variance: true }");
  ASSERT_NE(model, nullptr);
  BatchBuffer data = AxisData(eigenvalues);
  OnOneRank(*model, DType::kF64, [&](OneLeaf& leaf) -> absl::Status {
    SetOptimum(leaf, model->parameters(), eigenvalues, {1, 0}, 0.625);
    ASSIGN_OR_RETURN(const double loss, leaf.Differentiate(data.batch()));
    EXPECT_NEAR(-loss, MarginalLikelihood(eigenvalues, {0, 1}, 0.625), 1e-12);
    EXPECT_LE(LargestGradient(leaf), 1e-14);
    return absl::OkStatus();
  });
}

// Any subset of eigenvectors is stationary; only the largest are the best.
TEST(LinearVae, SubsetsOfEigenvectorsAreStationary) {
  const std::vector<double> eigenvalues = {9, 4, 2, 0.25};
  const auto model = ModelFromText("linear_vae { data_dim: 4 latent_dim: 2 samples: 0 }");
  ASSERT_NE(model, nullptr);
  BatchBuffer data = AxisData(eigenvalues);
  OnOneRank(*model, DType::kF64, [&](OneLeaf& leaf) -> absl::Status {
    std::vector<double> losses;
    for (const std::vector<int>& axes : {std::vector<int>{0, 1}, {0, 2}, {1, 2}}) {
      SetOptimum(leaf, model->parameters(), eigenvalues, axes, 1.0);
      ASSIGN_OR_RETURN(const double loss, leaf.Differentiate(data.batch()));
      EXPECT_NEAR(-loss, MarginalLikelihood(eigenvalues, axes, 1.0), 1e-12);
      EXPECT_LE(LargestGradient(leaf), 1e-14);
      losses.push_back(loss);
    }
    EXPECT_LT(losses[0], losses[1]);
    EXPECT_LT(losses[1], losses[2]);
    return absl::OkStatus();
  });
}

// Sampled bounds agree with the closed form: the mean over independent steps lies within 4 standard errors.
TEST(LinearVae, SampledBoundsAgreeWithTheClosedForm) {
  const std::string shape = "linear_vae { data_dim: 4 latent_dim: 3 beta: 0.8 prior_variance: 1.2 ";
  const auto closed = ModelFromText(shape + "samples: 0 }");
  ASSERT_NE(closed, nullptr);
  BatchBuffer data = AxisData({9, 4, 1, 0.25});
  double exact = 0;
  OnOneRank(*closed, DType::kF64, [&](OneLeaf& leaf) -> absl::Status {
    leaf.Shake(0.3, 4);
    ASSIGN_OR_RETURN(exact, leaf.Objective(data.batch()));
    return absl::OkStatus();
  });
  for (const char* estimator : {"samples: 1 }", "samples: 3 }", "samples: 1 analytic_kl: false }"}) {
    const auto model = ModelFromText(shape + estimator);
    ASSERT_NE(model, nullptr);
    OnOneRank(*model, DType::kF64, [&](OneLeaf& leaf) -> absl::Status {
      leaf.Shake(0.3, 4);
      Batch batch = data.batch();
      constexpr int kSteps = 400;
      double sum = 0, squares = 0;
      for (int step = 0; step < kSteps; ++step) {
        batch.key.step = static_cast<uint32_t>(step);
        ASSIGN_OR_RETURN(const double loss, leaf.Objective(batch));
        sum += loss, squares += loss * loss;
      }
      const double mean = sum / kSteps, error = std::sqrt((squares / kSteps - mean * mean) / kSteps);
      EXPECT_GT(error, 0) << estimator;
      EXPECT_LE(std::abs(mean - exact), 4 * error) << estimator << ": " << mean << " vs " << exact;
      return absl::OkStatus();
    });
  }
}

TEST(LinearVae, ClosedFormNeedsTheAnalyticKl) {
  const absl::Status status =
      MakeModel(ParseModelConfig("linear_vae { data_dim: 4 latent_dim: 2 samples: 0 analytic_kl: false }"), {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(status.message()).find("set analytic_kl: true"), std::string::npos) << status;
}

}  // namespace
}  // namespace conclave
