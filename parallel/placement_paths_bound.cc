#include "parallel/placement_paths_bound.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "base/check.h"
#include "base/simd.h"

namespace conclave {
namespace {

constexpr int kRowsAtOnce = 4, kPathLanes = 8;

typedef double PathLanes __attribute__((vector_size(kPathLanes * sizeof(double)), aligned(sizeof(double)), may_alias));

CONCLAVE_INLINE PathLanes* LanesAt(double* x) { return reinterpret_cast<PathLanes*>(x); }
CONCLAVE_INLINE const PathLanes* LanesAt(const double* x) { return reinterpret_cast<const PathLanes*>(x); }

constexpr double kLeastExponent = -230;
constexpr double kHottest = 12, kColdest = 0.25, kCooling = 0.7;  // temperatures, in mean transitions
constexpr int kMostSteps = 18, kFewestSteps = 6;                  // a temperature
constexpr double kFullWork = 24.0 * 64 * 64 * 64 * 64;            // layers * E^4 up to which all steps are taken
constexpr double kMostExcess = 1.5, kStep = 0.1, kMomentum = 0.7;

// Pairs of experts i < j in order; `padded` of them so that products take whole groups of rows.
struct Pairs {
  explicit Pairs(int experts) {
    for (int i = 0; i < experts; ++i) {
      for (int j = i + 1; j < experts; ++j) first.push_back(i), second.push_back(j);
    }
    count = static_cast<int64_t>(first.size());
    padded = (count + kRowsAtOnce - 1) / kRowsAtOnce * kRowsAtOnce;
  }
  int64_t Cell(int64_t s, int width) const { return int64_t{first[s]} * width + second[s]; }

  int64_t count = 0, padded = 0;
  std::vector<int> first, second;
};

// best[k, l] = max over pairs i < j of value + w[i, k] + w[j, k] + w[i, l] + w[j, l], for k < l. w, best: [n, n].
CONCLAVE_SIMD void DearestSteps(const int64_t* w, const int64_t* value, int n, int64_t* row, int64_t* best) {
  std::fill(best, best + int64_t{n} * n, std::numeric_limits<int64_t>::min());
  for (int i = 0; i < n; ++i) {
    for (int j = i + 1; j < n; ++j, ++value) {
      for (int k = 0; k < n; ++k) row[k] = w[int64_t{i} * n + k] + w[int64_t{j} * n + k];
      for (int k = 0; k < n; ++k) {
        const int64_t base = *value + row[k];
        int64_t* const to = best + int64_t{k} * n;
        for (int l = k & ~7; l < n; ++l) to[l] = std::max(to[l], base + row[l]);
      }
    }
  }
}

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

// e^x, and nothing where products of three could leave the normal numbers.
double PathWeight(double x) { return x > kLeastExponent ? std::exp(x) : 0.0; }

// Logarithm of a sum of such weights.
double LogOfWeight(double x) { return std::log(std::max(x, 1e-300)); }

// values[s] := e^(values[s] - max).
void Exponentials(std::vector<double>& values, int64_t count) {
  const double most = *std::max_element(values.begin(), values.begin() + count);
  for (int64_t s = 0; s < count; ++s) values[s] = PathWeight(values[s] - most);
}

// Prices at falling temperatures.
class PathPrices {
 public:
  explicit PathPrices(const RoutingCounts& counts)
      : counts_(counts),
        layers_(counts.layers()),
        n_(counts.experts()),
        width_((n_ + kPathLanes - 1) / kPathLanes * kPathLanes),
        pairs_(n_),
        rows_((layers_ - 1) * pairs_.padded * width_),
        scale_((layers_ - 1) * pairs_.count),
        forward_(layers_ * pairs_.count),
        prices_(static_cast<size_t>(layers_) * n_),
        taken_(prices_.size()),
        speed_(prices_.size()),
        cells_(static_cast<size_t>(width_) * width_),
        weight_(pairs_.padded),
        sums_(pairs_.padded) {}

  void SetTemperature(double temperature) {
    temperature_ = temperature;
    std::vector<int64_t> both(n_);
    for (int j = 0; j + 1 < layers_; ++j) {
      const int64_t* const w = counts_.transitions(j).data();
      for (int64_t s = 0; s < pairs_.count; ++s) {
        for (int k = 0; k < n_; ++k) both[k] = w[int64_t{pairs_.first[s]} * n_ + k] + w[int64_t{pairs_.second[s]} * n_ + k];
        const int64_t most = *std::max_element(both.begin(), both.end());
        double* const row = Rows(j) + s * width_;
        for (int k = 0; k < n_; ++k) row[k] = PathWeight(static_cast<double>(both[k] - most) / temperature);
        scale_[j * pairs_.count + s] = 2 * static_cast<double>(most) / temperature;
      }
    }
  }

  // One step: experts taken more than once become dearer.
  void Step() {
    Forward();
    Backward();
    for (size_t e = 0; e < prices_.size(); ++e) {
      const double excess = std::clamp(std::log(n_ / 2 * std::max(taken_[e], 1e-12)), -kMostExcess, kMostExcess);
      speed_[e] = kMomentum * speed_[e] + kStep * temperature_ * excess;
      prices_[e] += speed_[e];
    }
  }

  std::vector<int64_t> Rounded() const {
    std::vector<int64_t> rounded(prices_.size());
    for (int j = 0; j < layers_; ++j) {
      const double* const prices = prices_.data() + int64_t{j} * n_;
      double mean = 0;  // changes no bound, but keeps the numbers small
      for (int e = 0; e < n_; ++e) mean += prices[e] / n_;
      for (int e = 0; e < n_; ++e) rounded[int64_t{j} * n_ + e] = std::llround((prices[e] - mean) * kPriceUnits);
    }
    return rounded;
  }

 private:
  double* Rows(int layer) { return rows_.data() + layer * pairs_.padded * width_; }
  double* ForwardOf(int layer) { return forward_.data() + layer * pairs_.count; }
  // Of a pair, over the temperature.
  double PriceOf(int layer, int64_t s) const {
    const double* const prices = prices_.data() + int64_t{layer} * n_;
    return (prices[pairs_.first[s]] + prices[pairs_.second[s]]) / temperature_;
  }

  // Logarithms of the weight of all paths up to every pair.
  void Forward() {
    for (int64_t s = 0; s < pairs_.count; ++s) ForwardOf(0)[s] = -PriceOf(0, s);
    for (int j = 0; j + 1 < layers_; ++j) {
      for (int64_t s = 0; s < pairs_.count; ++s) weight_[s] = ForwardOf(j)[s] + scale_[j * pairs_.count + s];
      Exponentials(weight_, pairs_.count);
      WeightedProducts(Rows(j), weight_.data(), pairs_.padded, width_, cells_.data());
      for (int64_t s = 0; s < pairs_.count; ++s) ForwardOf(j + 1)[s] = LogOfWeight(cells_[pairs_.Cell(s, width_)]) - PriceOf(j + 1, s);
    }
  }

  // How often experts are taken by a path.
  void Backward() {
    std::fill(taken_.begin(), taken_.end(), 0.0);
    std::vector<double>& behind = sums_;  // logarithms of the weight of all paths from every pair on
    std::fill(behind.begin(), behind.end(), 0.0);
    for (int j = layers_ - 1;; --j) {
      for (int64_t s = 0; s < pairs_.count; ++s) weight_[s] = ForwardOf(j)[s] + behind[s];
      Exponentials(weight_, pairs_.count);
      double all = 0;
      for (int64_t s = 0; s < pairs_.count; ++s) all += weight_[s];
      double* const taken = taken_.data() + int64_t{j} * n_;
      for (int64_t s = 0; s < pairs_.count; ++s) {
        taken[pairs_.first[s]] += weight_[s] / all;
        taken[pairs_.second[s]] += weight_[s] / all;
      }
      if (j == 0) return;
      for (int64_t s = 0; s < pairs_.count; ++s) weight_[s] = behind[s] - PriceOf(j, s);
      Exponentials(weight_, pairs_.count);
      std::fill(cells_.begin(), cells_.end(), 0.0);
      for (int64_t s = 0; s < pairs_.count; ++s) cells_[pairs_.Cell(s, width_)] = weight_[s];
      QuadraticForms(Rows(j - 1), cells_.data(), pairs_.padded, width_, behind.data());
      for (int64_t s = 0; s < pairs_.count; ++s) behind[s] = LogOfWeight(behind[s]) + scale_[(j - 1) * pairs_.count + s];
    }
  }

  const RoutingCounts& counts_;
  const int layers_, n_, width_;
  const Pairs pairs_;
  double temperature_ = 1;
  std::vector<double> rows_;                    // [layers - 1, padded, width]: e^((w + w - scale / 2) / T); zero behind the last pair
  std::vector<double> scale_;                   // [layers - 1, pairs]: what was taken out of both factors of a product, over T
  std::vector<double> forward_;                 // [layers, pairs]
  std::vector<double> prices_, taken_, speed_;  // [layers, n]; prices in tokens
  std::vector<double> cells_;                   // [width, width]
  std::vector<double> weight_, sums_;           // [padded]; weights are zero behind the last pair
};

}  // namespace

int64_t KeptAtPrices(const RoutingCounts& counts, std::span<const int64_t> prices) {
  const int n = counts.experts(), layers = counts.layers();
  CHECK_EQ(prices.size(), static_cast<size_t>(layers) * n);
  const Pairs pairs(n);
  std::vector<int64_t> w(static_cast<size_t>(n) * n), best(w.size()), value(pairs.count), row(n);
  int64_t all = 0;
  for (const int64_t price : prices) all += price;
  for (int j = 0; j < layers; ++j) {
    if (j > 0) {
      const auto from = counts.transitions(j - 1);
      for (size_t i = 0; i < w.size(); ++i) w[i] = from[i] * kPriceUnits;
      DearestSteps(w.data(), value.data(), n, row.data(), best.data());
    }
    const auto price = prices.subspan(static_cast<size_t>(j) * n, n);
    for (int64_t s = 0; s < pairs.count; ++s) {
      value[s] = (j > 0 ? best[pairs.Cell(s, n)] : 0) - price[pairs.first[s]] - price[pairs.second[s]];
    }
  }
  const int64_t units = all + n / 2 * *std::max_element(value.begin(), value.end());
  return units >> std::countr_zero(static_cast<uint64_t>(kPriceUnits));  // rounded down: tokens are whole
}

int64_t PathsKeepAtMost(const RoutingCounts& counts) {
  const int64_t n = counts.experts(), layers = counts.layers();
  int64_t best = counts.total();
  const double mean = static_cast<double>(best) / (static_cast<double>(std::max<int64_t>(1, layers - 1)) * static_cast<double>(n * n));
  const double work = static_cast<double>(layers) * std::pow(static_cast<double>(n), 4);
  const int steps = static_cast<int>(std::min<double>(kMostSteps, kMostSteps * kFullWork / work));
  if (best == 0 || steps < kFewestSteps) return best;
  CHECK_EQ(n % 2, 0);
  PathPrices prices(counts);
  for (double temperature = kHottest; temperature > kColdest; temperature *= kCooling) {
    prices.SetTemperature(temperature * mean);
    for (int i = 0; i < steps; ++i) prices.Step();
    best = std::min(best, KeptAtPrices(counts, prices.Rounded()));
  }
  return best;
}

}  // namespace conclave
