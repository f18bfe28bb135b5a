#include "parallel/path_prices.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/simd.h"

namespace conclave {
namespace {

constexpr int kRowsAtOnce = 4, kPathLanes = 8;

typedef double PathLanes __attribute__((vector_size(kPathLanes * sizeof(double)), aligned(sizeof(double)), may_alias));

CONCLAVE_INLINE PathLanes* LanesAt(double* x) { return reinterpret_cast<PathLanes*>(x); }
CONCLAVE_INLINE const PathLanes* LanesAt(const double* x) { return reinterpret_cast<const PathLanes*>(x); }

constexpr double kLeastExponent = -230;
constexpr double kMostRounded = 0x1p40;
// Scaling of one layer ends when no sum is off by more than kLevel, or after so many rounds.
constexpr double kLevel = 1e-6, kLeastSum = 1e-4;
// An expert that no path of weight takes gets cheaper step by step: what rows took in may be too far off to tell.
constexpr double kMostTurn = 8;
constexpr int kLevelRounds = 30;

// sums[k, l] = sum over s of weight[s] * rows[s, k] * rows[s, l], for k <= l. rows: [count, width], count a multiple of kRowsAtOnce.
CONCLAVE_SIMD void WeightedProducts(const double* rows, const double* weight, int64_t count, int width, double* sums) {
  std::fill(sums, sums + int64_t{width} * width, 0.0);
  for (int64_t s = 0; s < count; s += kRowsAtOnce) {
    const double *const a = rows + s * width, *const b = a + width, *const c = b + width, *const d = c + width;
    for (int k = 0; k < width; ++k) {
      const double at_a = weight[s] * a[k], at_b = weight[s + 1] * b[k], at_c = weight[s + 2] * c[k], at_d = weight[s + 3] * d[k];
      for (int l = k / kPathLanes * kPathLanes; l < width; l += kPathLanes) {
        *LanesAt(sums + int64_t{k} * width + l) +=
            (at_a * *LanesAt(a + l) + at_b * *LanesAt(b + l)) + (at_c * *LanesAt(c + l) + at_d * *LanesAt(d + l));
      }
    }
  }
}

// out[s] = sum over k, l of rows[s, k] * cells[k, l] * rows[s, l]; cells are zero below the diagonal. rows: as above.
CONCLAVE_SIMD void QuadraticForms(const double* rows, const double* cells, int64_t count, int width, double* out) {
  for (int64_t s = 0; s < count; s += kRowsAtOnce) {
    const double *const a = rows + s * width, *const b = a + width, *const c = b + width, *const d = c + width;
    PathLanes sum[kRowsAtOnce] = {};
    for (int l = 0; l < width; l += kPathLanes) {
      PathLanes inner[kRowsAtOnce] = {};
      for (int k = 0; k < l + kPathLanes; ++k) {
        const PathLanes at = *LanesAt(cells + int64_t{k} * width + l);
        inner[0] += a[k] * at;
        inner[1] += b[k] * at;
        inner[2] += c[k] * at;
        inner[3] += d[k] * at;
      }
      sum[0] += inner[0] * *LanesAt(a + l);
      sum[1] += inner[1] * *LanesAt(b + l);
      sum[2] += inner[2] * *LanesAt(c + l);
      sum[3] += inner[3] * *LanesAt(d + l);
    }
    for (int r = 0; r < kRowsAtOnce; ++r) {
      out[s + r] = 0;
      for (int i = 0; i < kPathLanes; ++i) out[s + r] += sum[r][i];
    }
  }
}

// sums = cells * share. cells: [width, width], symmetric.
CONCLAVE_SIMD void RowSums(const double* cells, const double* share, int width, double* sums) {
  std::fill(sums, sums + width, 0.0);
  for (int k = 0; k < width; ++k) {
    const double* const row = cells + int64_t{k} * width;
    for (int l = 0; l < width; l += kPathLanes) *LanesAt(sums + l) += share[k] * *LanesAt(row + l);
  }
}

// e^x, and nothing where products of three could leave the normal numbers.
double PathWeight(double x) { return x > kLeastExponent ? std::exp(x) : 0.0; }

// Logarithm of a sum of such weights.
double LogOfWeight(double x) { return std::log(std::max(x, 1e-300)); }

// values[s] := e^(values[s] - max). Returns max.
double Exponentials(std::vector<double>& values, int64_t count) {
  const double most = *std::max_element(values.begin(), values.begin() + count);
  for (int64_t s = 0; s < count; ++s) values[s] = PathWeight(values[s] - most);
  return most;
}

}  // namespace

ExpertPairs::ExpertPairs(int experts) {
  for (int i = 0; i < experts; ++i) {
    for (int j = i + 1; j < experts; ++j) first.push_back(i), second.push_back(j);
  }
  count = static_cast<int64_t>(first.size());
}

PathPrices::PathPrices(const RoutingCounts& counts)
    : counts_(counts),
      layers_(counts.layers()),
      n_(counts.experts()),
      width_((n_ + kPathLanes - 1) / kPathLanes * kPathLanes),
      pairs_(n_),
      padded_((pairs_.count + kRowsAtOnce - 1) / kRowsAtOnce * kRowsAtOnce),
      prices_(static_cast<size_t>(layers_) * n_),
      rows_((layers_ - 1) * padded_ * width_),
      scale_((layers_ - 1) * pairs_.count),
      forward_(layers_ * pairs_.count),
      behind_(layers_ * pairs_.count),
      cells_(static_cast<size_t>(width_) * width_),
      weight_(padded_),
      share_(width_),
      sums_(std::max<int64_t>(padded_, width_)) {}

// Rows take in the prices of the next layer, and what ways from there on are about worth: so weights of pairs that are of use are all of
// about the same size, and sums of exponentials serve at low temperatures.
void PathPrices::SetTemperature(double temperature) {
  paid_ = prices_;
  for (int j = 0; j < layers_; ++j) {
    const double* const behind = BehindOf(j);
    const double most = *std::max_element(behind, behind + pairs_.count);
    std::fill(share_.begin(), share_.end(), -std::numeric_limits<double>::infinity());
    for (int64_t s = 0; s < pairs_.count; ++s) {
      for (const int e : {pairs_.first[s], pairs_.second[s]}) share_[e] = std::max(share_[e], behind[s]);
    }
    for (int e = 0; e < n_; ++e) paid_[int64_t{j} * n_ + e] -= temperature_ * (share_[e] - most / 2);
  }
  temperature_ = temperature;
  for (int j = 0; j + 1 < layers_; ++j) SetRows(j);
  for (int64_t s = 0; s < pairs_.count; ++s) ForwardOf(0)[s] = -(paid_[pairs_.first[s]] + paid_[pairs_.second[s]]) / temperature;
  std::fill(BehindOf(layers_ - 1), BehindOf(layers_ - 1) + pairs_.count, 0.0);
  for (int j = layers_ - 1; j > 0; --j) Backward(j);
}

void PathPrices::SetRows(int layer) {
  const int64_t* const w = counts_.transitions(layer).data();
  const double* const paid = paid_.data() + int64_t{layer + 1} * n_;
  for (int64_t s = 0; s < pairs_.count; ++s) {
    const int64_t *const a = w + int64_t{pairs_.first[s]} * n_, *const b = w + int64_t{pairs_.second[s]} * n_;
    double* const row = Rows(layer) + s * width_;
    double most = -std::numeric_limits<double>::infinity(), second = most;
    for (int k = 0; k < n_; ++k) {
      row[k] = static_cast<double>(a[k] + b[k]) - paid[k];
      second = std::max(second, std::min(most, row[k]));
      most = std::max(most, row[k]);
    }
    const double middle = (most + second) / 2;  // no product of two in a row is more than 1
    for (int k = 0; k < n_; ++k) row[k] = PathWeight(std::min((row[k] - middle) / temperature_, -kLeastExponent));
    scale_[layer * pairs_.count + s] = 2 * middle / temperature_;
  }
}

void PathPrices::Sweep() {
  for (int j = 0; j < layers_; ++j) {
    Level(j);
    if (j + 1 < layers_) Forward(j);
  }
  for (int j = layers_ - 1; j >= 0; --j) {
    Level(j);
    if (j > 0) Backward(j);
  }
}

std::vector<int64_t> PathPrices::Rounded(int64_t units) const {
  std::vector<int64_t> rounded(prices_.size());
  for (int j = 0; j < layers_; ++j) {
    const double* const prices = prices_.data() + int64_t{j} * n_;
    double mean = 0;  // changes no bound, but keeps the numbers small
    for (int e = 0; e < n_; ++e) mean += prices[e] / n_;
    for (int e = 0; e < n_; ++e)
      rounded[int64_t{j} * n_ + e] = std::llround(std::clamp((prices[e] - mean) * static_cast<double>(units), -kMostRounded, kMostRounded));
  }
  return rounded;
}

// What the price of a pair has risen since rows took it in, over the temperature.
double PathPrices::Due(int layer, int64_t s) const {
  const double *const prices = prices_.data() + int64_t{layer} * n_, *const paid = paid_.data() + int64_t{layer} * n_;
  const int i = pairs_.first[s], j = pairs_.second[s];
  return (prices[i] - paid[i] + prices[j] - paid[j]) / temperature_;
}

// Prices at which every expert of the layer is taken once by E / 2 paths, those of other layers as they are.
void PathPrices::Level(int layer) {
  for (int64_t s = 0; s < pairs_.count; ++s) weight_[s] = ForwardOf(layer)[s] + BehindOf(layer)[s] - Due(layer, s);
  Exponentials(weight_, pairs_.count);
  double all = 0;
  for (int64_t s = 0; s < pairs_.count; ++s) all += weight_[s];
  std::fill(cells_.begin(), cells_.end(), 0.0);
  for (int64_t s = 0; s < pairs_.count; ++s) {
    const double weight = 0.5 * n_ / all * weight_[s];
    cells_[pairs_.Cell(s, width_)] = cells_[int64_t{pairs_.second[s]} * width_ + pairs_.first[s]] = weight;
  }
  std::fill(share_.begin(), share_.end(), 1.0);
  double worst = 1;
  for (int round = 0; round < kLevelRounds && worst > kLevel; ++round) {
    RowSums(cells_.data(), share_.data(), width_, sums_.data());
    worst = 0;
    for (int e = 0; e < n_; ++e) {
      const double taken = std::max(share_[e] * sums_[e], kLeastSum);
      worst = std::max(worst, std::abs(taken - 1));
      share_[e] /= std::sqrt(taken);
    }
  }
  for (int e = 0; e < n_; ++e) prices_[int64_t{layer} * n_ + e] -= temperature_ * std::clamp(std::log(share_[e]), -kMostTurn, kMostTurn);
}

void PathPrices::Forward(int layer) {
  for (int64_t s = 0; s < pairs_.count; ++s) weight_[s] = ForwardOf(layer)[s] - Due(layer, s) + scale_[layer * pairs_.count + s];
  const double most = Exponentials(weight_, pairs_.count);
  WeightedProducts(Rows(layer), weight_.data(), padded_, width_, cells_.data());
  for (int64_t s = 0; s < pairs_.count; ++s) ForwardOf(layer + 1)[s] = most + LogOfWeight(cells_[pairs_.Cell(s, width_)]);
}

void PathPrices::Backward(int layer) {
  for (int64_t s = 0; s < pairs_.count; ++s) weight_[s] = BehindOf(layer)[s] - Due(layer, s);
  const double most = Exponentials(weight_, pairs_.count);
  std::fill(cells_.begin(), cells_.end(), 0.0);
  for (int64_t s = 0; s < pairs_.count; ++s) cells_[pairs_.Cell(s, width_)] = weight_[s];
  QuadraticForms(Rows(layer - 1), cells_.data(), padded_, width_, sums_.data());
  for (int64_t s = 0; s < pairs_.count; ++s) {
    BehindOf(layer - 1)[s] = most + LogOfWeight(sums_[s]) + scale_[(layer - 1) * pairs_.count + s];
  }
}

}  // namespace conclave
