// The smallest loss a linear_vae can reach on its training data: that of probabilistic PCA (Tipping & Bishop 1999), from the eigenvalues of
// the sample covariance. Usage: pca_optimum_program CONFIG [PATH=VALUE]... Prints one number, nats per sample.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numbers>
#include <string>
#include <vector>

#include "base/file_system.h"
#include "data/data_set.h"
#include "trainer/config_loader.h"

namespace conclave {
namespace {

using Matrix = std::vector<double>;  // [d, d] row-major

// Eigenvalues of a symmetric matrix, largest first, by cyclic Jacobi rotations.
std::vector<double> Eigenvalues(Matrix a, int64_t d) {
  constexpr int kSweeps = 30;
  for (int sweep = 0; sweep < kSweeps; ++sweep) {
    for (int64_t p = 0; p < d; ++p) {
      for (int64_t q = p + 1; q < d; ++q) {
        if (a[p * d + q] == 0) continue;
        const double theta = (a[q * d + q] - a[p * d + p]) / (2 * a[p * d + q]);
        const double t = std::copysign(1.0, theta) / (std::abs(theta) + std::hypot(theta, 1.0));
        const double c = 1 / std::hypot(t, 1.0), s = t * c;
        for (int64_t k = 0; k < d; ++k) {  // columns p and q, then rows
          const double kp = a[k * d + p], kq = a[k * d + q];
          a[k * d + p] = c * kp - s * kq;
          a[k * d + q] = s * kp + c * kq;
        }
        for (int64_t k = 0; k < d; ++k) {
          const double pk = a[p * d + k], qk = a[q * d + k];
          a[p * d + k] = c * pk - s * qk;
          a[q * d + k] = s * pk + c * qk;
        }
      }
    }
  }
  std::vector<double> values(d);
  for (int64_t i = 0; i < d; ++i) values[i] = a[i * d + i];
  std::ranges::sort(values, std::greater<>());
  return values;
}

absl::StatusOr<Matrix> Covariance(const Experiment& config) {
  const int64_t d = config.model().linear_vae().data_dim();
  const LoaderOptions options{.seed = config.seed(), .workers = 1, .global_batch = 1};
  ASSIGN_OR_RETURN(const DataSet data, OpenData(config.data(), options, 0, RealFileSystem()));
  const int64_t n = data.loader->samples_per_epoch();
  BatchBuffer buffer({SampleShape::Kind::kFeatures, d}, n, DType::kF64);
  RETURN_IF_ERROR(data.loader->FillLeaf({.full = true}, WorkerId{0}, 0, &buffer));
  const double* x = buffer.batch().features.data<double>();
  std::vector<double> mean(d, 0.0);
  for (int64_t i = 0; i < n * d; ++i) mean[i % d] += x[i] / static_cast<double>(n);
  Matrix covariance(d * d, 0.0);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < d; ++j) {
      for (int64_t k = 0; k < d; ++k) covariance[j * d + k] += (x[i * d + j] - mean[j]) * (x[i * d + k] - mean[k]) / static_cast<double>(n);
    }
  }
  return covariance;
}

// The latent takes the largest eigenvalues; a learned decoder variance is the mean of the others.
double Optimum(const LinearVaeConfig& config, const std::vector<double>& eigenvalues) {
  const size_t kept = static_cast<size_t>(config.latent_dim());
  double v = config.decoder_variance(), value = 0;
  if (config.learn_decoder_variance()) {
    v = 0;
    for (size_t i = kept; i < eigenvalues.size(); ++i) v += eigenvalues[i] / static_cast<double>(eigenvalues.size() - kept);
  }
  for (size_t i = 0; i < eigenvalues.size(); ++i) {
    const double c = i < kept ? std::max(eigenvalues[i], v) : v;
    value += 0.5 * (std::log(2 * std::numbers::pi) + std::log(c) + eigenvalues[i] / c);
  }
  return value;
}

absl::StatusOr<double> Run(const std::string& path, const std::vector<std::string>& overrides) {
  ASSIGN_OR_RETURN(const LoadedConfig loaded, LoadConfig(path, overrides));
  const LinearVaeConfig& config = loaded.config.model().linear_vae();
  if (config.beta() != 1) return InvalidArgument("beta %g: only beta 1 has the optimum of probabilistic PCA", config.beta());
  ASSIGN_OR_RETURN(Matrix covariance, Covariance(loaded.config));
  return Optimum(config, Eigenvalues(std::move(covariance), config.data_dim()));
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  const absl::StatusOr<double> optimum = conclave::Run(argv[1], {argv + 2, argv + argc});
  if (!optimum.ok()) {
    std::fprintf(stderr, "error: %s\n", std::string(optimum.status().message()).c_str());
    return 1;
  }
  std::printf("%.12f\n", *optimum);
  return 0;
}
