#include "models/modules/perturbation.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace conclave {
namespace {

template <typename T>
double RowNorm(std::span<const T> row) {
  double squares = 0;
  for (const T v : row) squares += static_cast<double>(v) * static_cast<double>(v);
  return std::sqrt(squares);
}

template <typename T>
std::span<T> RowOf(const Tensor& rows, int64_t row) {
  return rows.Slice(row, 1).span<T>();
}

}  // namespace

Perturbation::Perturbation(const PerturbationConfig& config, const Options& options)
    : config_(config),
      options_(options),
      block_({.name = "perturbation", .shape = {options.width}, .player = Player::kMax, .kind = BlockKind::kPerSample}) {}

// Uniform in the cube, or in a cube inside of the ball.
void Perturbation::Start(const Batch& batch, const RngKey& noise, const Tensor& values) const {
  const int64_t width = options_.width;
  const double cube =
      config_.norm() == PerturbationConfig::L2 ? config_.radius() / std::sqrt(static_cast<double>(width)) : config_.radius();
  const double reach = config_.start() * cube;
  DispatchFloat(values.dtype(), [&](auto t) {
    using T = decltype(t);
    std::array<float, 256> draws;
    for (int64_t row = 0; row < batch.sequences; ++row) {
      const std::span<T> own = RowOf<T>(values, row);
      const auto first = static_cast<uint64_t>((batch.first_row + row) * width);
      for (size_t begin = 0; begin < own.size(); begin += draws.size()) {
        const std::span<float> some = std::span(draws).first(std::min(draws.size(), own.size() - begin));
        noise.FillUniform(first + begin, some);
        for (size_t j = 0; j < some.size(); ++j) own[begin + j] = static_cast<T>(reach * (2.0 * some[j] - 1.0));
      }
      Project(batch, row, own);
    }
  });
}

void Perturbation::Move(const Batch& batch, const Tensor& along, const Tensor& values) const {
  DispatchFloat(values.dtype(), [&](auto t) {
    using T = decltype(t);
    for (int64_t row = 0; row < batch.sequences; ++row) {
      const std::span<T> own = RowOf<T>(values, row), way = RowOf<T>(along, row);
      const T step = static_cast<T>(config_.step());
      if (config_.norm() == PerturbationConfig::LINF) {
        for (size_t j = 0; j < own.size(); ++j) own[j] += way[j] > 0 ? step : way[j] < 0 ? -step : T(0);
      } else if (const double norm = RowNorm<T>(way); norm > 0) {
        const T scale = static_cast<T>(config_.step() / norm);
        for (size_t j = 0; j < own.size(); ++j) own[j] += scale * way[j];
      }
      Project(batch, row, own);
    }
  });
}

// Into the ball, then to where the features have room: as they lie in their range, that only makes values smaller.
template <typename T>
void Perturbation::Project(const Batch& batch, int64_t row, std::span<T> values) const {
  const T radius = static_cast<T>(config_.radius());
  if (config_.norm() == PerturbationConfig::LINF) {
    for (T& v : values) v = std::clamp(v, -radius, radius);
  } else if (const double norm = RowNorm<T>(values); norm > config_.radius()) {
    const T scale = static_cast<T>(config_.radius() / norm);
    for (T& v : values) v *= scale;
  }
  if (!options_.range) return;
  const T low = static_cast<T>(options_.range->first), high = static_cast<T>(options_.range->second);
  const std::span<T> x = RowOf<T>(batch.features, row);
  for (size_t j = 0; j < values.size(); ++j) values[j] = std::clamp(x[j] + values[j], low, high) - x[j];
}

}  // namespace conclave
