#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <vector>

#include "base/rng.h"
#include "data/source_factory.h"

namespace conclave {
namespace {

// x_i = mean + R diag(sqrt(lambda)) e_i, e_i standard normal: row i of the noise is elements i * dim .. of one counter stream, so any
// sample is made alone and in any order. The samples are a fixed data set: every epoch shows the same. Fetch costs dim^2 products where R
// is not the identity.
class GaussianSource : public Source {
 public:
  struct Spectrum {
    std::vector<double> scales;    // [dim] square roots of the eigenvalues
    std::vector<double> rotation;  // [dim, dim] row-major, orthogonal; empty: the identity
    double mean = 0;
  };
  GaussianSource(std::shared_ptr<const Spectrum> spectrum, const RngKey& key, int64_t first, int64_t size)
      : spectrum_(std::move(spectrum)), key_(key), first_(first), size_(size) {}

  SampleShape shape() const override { return {SampleShape::Kind::kFeatures, dim()}; }
  int64_t size() const override { return size_; }
  absl::Status Fetch(int64_t sample, int64_t, int64_t row, Batch* batch) const override {
    DispatchFloat(batch->features.dtype(), [&](auto t) {
      using T = decltype(t);
      const std::span<T> x = batch->features.Slice(row, 1).template span<T>();
      if (spectrum_->rotation.empty()) {
        ForNoise(sample, [&](int64_t j, double noise) { x[j] = static_cast<T>(spectrum_->mean + noise); });
      } else {
        Rotate(sample, x);
      }
    });
    ++batch->count;
    return absl::OkStatus();
  }

 private:
  int64_t dim() const { return static_cast<int64_t>(spectrum_->scales.size()); }
  // Calls f(j, noise) for the coordinates of a sample.
  template <typename F>
  void ForNoise(int64_t sample, const F& f) const {
    std::array<double, 256> draws;
    for (int64_t at = 0; at < dim(); at += draws.size()) {
      const int64_t n = std::min<int64_t>(draws.size(), dim() - at);
      key_.FillNormal(static_cast<uint64_t>((first_ + sample) * dim() + at), std::span(draws).first(n));
      for (int64_t j = 0; j < n; ++j) f(at + j, spectrum_->scales[at + j] * draws[j]);
    }
  }
  template <typename T>
  void Rotate(int64_t sample, std::span<T> x) const {
    thread_local std::vector<double> noise;
    noise.resize(spectrum_->scales.size());
    ForNoise(sample, [&](int64_t j, double drawn) { noise[j] = drawn; });
    for (int64_t i = 0; i < dim(); ++i) {
      double sum = spectrum_->mean;
      for (int64_t j = 0; j < dim(); ++j) sum += spectrum_->rotation[i * dim() + j] * noise[j];
      x[i] = static_cast<T>(sum);
    }
  }

  std::shared_ptr<const Spectrum> spectrum_;
  RngKey key_;
  int64_t first_, size_;
};

// An orthogonal matrix [n, n]: normal rows made orthonormal by Gram-Schmidt, applied twice for accuracy.
std::vector<double> RandomRotation(int64_t n, const RngKey& key) {
  std::vector<double> rows(static_cast<size_t>(n * n));
  for (int64_t i = 0; i < n; ++i) {
    double* row = rows.data() + i * n;
    key.FillNormal(static_cast<uint64_t>(i * n), {row, static_cast<size_t>(n)});
    for (int pass = 0; pass < 2; ++pass) {
      for (int64_t k = 0; k < i; ++k) {
        const double* other = rows.data() + k * n;
        double dot = 0;
        for (int64_t j = 0; j < n; ++j) dot += row[j] * other[j];
        for (int64_t j = 0; j < n; ++j) row[j] -= dot * other[j];
      }
    }
    double norm = 0;
    for (int64_t j = 0; j < n; ++j) norm += row[j] * row[j];
    for (int64_t j = 0; j < n; ++j) row[j] /= std::sqrt(norm);
  }
  return rows;
}

}  // namespace

absl::StatusOr<SplitSource> MakeGaussianSource(const GaussianSourceConfig& config, const SourceContext& context) {
  if (config.eigenvalues_size() > config.dim()) {
    return InvalidArgument("data.sources[%d].gaussian: %d eigenvalues for dimension %d; give at most dim of them", context.index,
                           config.eigenvalues_size(), config.dim());
  }
  auto spectrum = std::make_shared<GaussianSource::Spectrum>();
  spectrum->mean = config.mean();
  for (int64_t i = 0; i < config.dim(); ++i) {
    const double eigenvalue = i < config.eigenvalues_size() ? config.eigenvalues(static_cast<int>(i)) : config.tail_eigenvalue();
    if (!(eigenvalue >= 0))
      return InvalidArgument("data.sources[%d].gaussian: eigenvalue %d is %g, expected at least 0", context.index, i, eigenvalue);
    spectrum->scales.push_back(std::sqrt(eigenvalue));
  }
  const auto index = static_cast<uint32_t>(context.index);
  if (config.rotate())
    spectrum->rotation = RandomRotation(config.dim(), {.seed = context.seed, .site = index, .step = 1, .kind = RngKind::kProblem});
  const RngKey noise = {.seed = context.seed, .site = index, .step = 0, .kind = RngKind::kProblem};
  const auto held_out = static_cast<int64_t>(std::floor(context.data->validation_fraction() * static_cast<double>(config.samples())));
  const int64_t train = config.samples() - held_out;
  if (train < 1) return InvalidArgument("data.sources[%d].gaussian: all %d samples are held out", context.index, config.samples());
  SplitSource split;
  split.train = std::make_unique<GaussianSource>(spectrum, noise, 0, train);
  if (held_out > 0) split.validation = std::make_unique<GaussianSource>(spectrum, noise, train, held_out);
  return split;
}

}  // namespace conclave
