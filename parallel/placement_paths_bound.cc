#include "parallel/placement_paths_bound.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "base/check.h"
#include "base/simd.h"
#include "parallel/path_prices.h"

namespace conclave {
namespace {

// Temperatures, in mean transitions.
constexpr double kHottest = 6, kColdest = 0.1, kCooling = 0.7;
// Below kLate there are more rounds, and the prices are looked at.
constexpr double kLate = 0.75;
constexpr int kEarlyRounds = 1, kLateRounds = 7;
constexpr double kSweepsOfRound = 5, kFullWork = 24.0 * 64 * 64 * 64 * 64, kMostWork = 3 * kFullWork;  // layers * E^4

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

using PairValues = std::vector<int64_t>;  // [pairs]

// Tokens kept by the best path up to every pair of every layer, or from it on, less prices, in units; the pair's own price is not paid.
std::vector<PairValues> BestWays(const RoutingCounts& counts, std::span<const int64_t> prices, const ExpertPairs& pairs, bool back) {
  const int n = counts.experts(), layers = counts.layers();
  std::vector<PairValues> ways(layers, PairValues(pairs.count));
  std::vector<int64_t> w(static_cast<size_t>(n) * n), best(w.size()), value(pairs.count), row(n);
  for (int step = 1; step < layers; ++step) {
    const int from = back ? layers - step : step - 1, to = back ? from - 1 : from + 1;
    const auto moved = counts.transitions(std::min(from, to));
    for (int i = 0; i < n; ++i) {
      for (int k = 0; k < n; ++k) w[i * n + k] = kPriceUnits * moved[back ? k * n + i : i * n + k];
    }
    const auto price = prices.subspan(static_cast<size_t>(from) * n, n);
    for (int64_t s = 0; s < pairs.count; ++s) value[s] = ways[from][s] - price[pairs.first[s]] - price[pairs.second[s]];
    DearestSteps(w.data(), value.data(), n, row.data(), best.data());
    for (int64_t s = 0; s < pairs.count; ++s) ways[to][s] = best[pairs.Cell(s, n)];
  }
  return ways;
}

}  // namespace

int64_t KeptAtPrices(const RoutingCounts& counts, std::span<const int64_t> prices) {
  const int n = counts.experts(), layers = counts.layers();
  CHECK_EQ(prices.size(), static_cast<size_t>(layers) * n);
  const ExpertPairs pairs(n);
  const std::vector<PairValues> to = BestWays(counts, prices, pairs, false), from = BestWays(counts, prices, pairs, true);
  int64_t least = std::numeric_limits<int64_t>::max();  // of layers: twice what paths take
  std::vector<int64_t> through(n);
  for (int j = 0; j < layers; ++j) {
    const auto price = prices.subspan(static_cast<size_t>(j) * n, n);
    std::fill(through.begin(), through.end(), std::numeric_limits<int64_t>::min());
    for (int64_t s = 0; s < pairs.count; ++s) {
      const int a = pairs.first[s], b = pairs.second[s];
      const int64_t value = to[j][s] + from[j][s] - price[a] - price[b];
      through[a] = std::max(through[a], value);
      through[b] = std::max(through[b], value);
    }
    least = std::min(least, std::accumulate(through.begin(), through.end(), int64_t{0}));
  }
  const int64_t units = 2 * std::accumulate(prices.begin(), prices.end(), int64_t{0}) + least;
  return units >> std::countr_zero(static_cast<uint64_t>(2 * kPriceUnits));  // rounded down: tokens are whole
}

int64_t PathsKeepAtMost(const RoutingCounts& counts) {
  const int64_t n = counts.experts(), layers = counts.layers();
  int64_t best = counts.total();
  const double mean = static_cast<double>(best) / (static_cast<double>(std::max<int64_t>(1, layers - 1)) * static_cast<double>(n * n));
  const double work = static_cast<double>(layers) * std::pow(static_cast<double>(n), 4);
  if (best == 0 || work > kMostWork) return best;
  CHECK_EQ(n % 2, 0);
  const double sweeps = kSweepsOfRound * std::min(1.0, kFullWork / work);
  PathPrices prices(counts);
  for (double temperature = kHottest; temperature > kColdest; temperature *= kCooling) {
    const bool late = temperature < kLate;
    for (int round = 0; round < (late ? kLateRounds : kEarlyRounds); ++round) {
      prices.SetTemperature(temperature * mean);
      for (int i = 0; i < sweeps; ++i) prices.Sweep();
    }
    if (!late) continue;
    const int64_t kept = KeptAtPrices(counts, prices.Rounded(kPriceUnits));
    if (kept >= best) break;  // colder, exponentials leave the range of numbers
    best = kept;
  }
  return best;
}

}  // namespace conclave
