#include "parallel/placement_bound.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <vector>

#include "parallel/placement_gram_bound.h"
#include "parallel/placement_paths_bound.h"
#include "parallel/symmetric_eigen.h"

namespace conclave {
namespace {

constexpr int kMostSpectral = 1600, kRounds = 100;

// Rows' prices for fixed columns' prices: the price at which a row wants exactly `degree` columns.
void PriceRows(const std::vector<int64_t>& w, int n, int degree, const std::vector<int64_t>& columns, std::vector<int64_t>* rows) {
  std::vector<int64_t> values(n);
  for (int i = 0; i < n; ++i) {
    for (int p = 0; p < n; ++p) values[p] = w[i * n + p] - columns[p];
    std::nth_element(values.begin(), values.begin() + degree - 1, values.end(), std::greater<>());
    const int64_t last_in = values[degree - 1];
    // Any price between the last column wanted and the first not wanted is best; the middle moves on where the ends would stall.
    const int64_t first_out = degree < n ? *std::max_element(values.begin() + degree, values.end()) : last_in;
    (*rows)[i] = first_out + (last_in - first_out) / 2;
  }
}

// The dual value: whatever the prices, no matching of `degree` a row and a column is worth more.
int64_t DualValue(const std::vector<int64_t>& w, int n, int degree, const std::vector<int64_t>& rows, const std::vector<int64_t>& columns) {
  int64_t value = 0;
  for (int i = 0; i < n; ++i) value += degree * (rows[i] + columns[i]);
  for (int i = 0; i < n; ++i) {
    for (int p = 0; p < n; ++p) value += std::max<int64_t>(0, w[i * n + p] - rows[i] - columns[p]);
  }
  return value;
}

int64_t MatchingBound(const RoutingCounts& counts, int layer, int degree) {
  const int n = counts.experts();
  const std::vector<int64_t> w(counts.transitions(layer).begin(), counts.transitions(layer).end());
  std::vector<int64_t> transposed(w.size()), rows(n), columns(n, 0);
  for (int i = 0; i < n; ++i) {
    for (int p = 0; p < n; ++p) transposed[p * n + i] = w[i * n + p];
  }
  int64_t best = std::accumulate(w.begin(), w.end(), int64_t{0});
  for (int round = 0; round < kRounds; ++round) {
    PriceRows(w, n, degree, columns, &rows);
    PriceRows(transposed, n, degree, rows, &columns);
    const int64_t value = DualValue(w, n, degree, rows, columns);
    if (value >= best && round > 0) break;
    best = std::min(best, value);
  }
  return best;
}

// Takes the mean over rows and over columns out of an [n, n] matrix.
void Center(std::vector<double>& w, int n) {
  std::vector<double> row(n), column(n);
  double all = 0;
  for (int i = 0; i < n; ++i) {
    for (int p = 0; p < n; ++p) row[i] += w[i * n + p] / n, column[p] += w[i * n + p] / n;
  }
  for (const double value : row) all += value / n;
  for (int i = 0; i < n; ++i) {
    for (int p = 0; p < n; ++p) w[i * n + p] += all - row[i] - column[p];
  }
}

// Transitions between layers first .. first + layers - 1.
int64_t SpectralBound(const RoutingCounts& counts, int first, int layers, int parts) {
  const int e = counts.experts(), n = layers * e;
  std::vector<double> chain(static_cast<size_t>(n) * n);
  double total = 0;
  for (int j = 0; j + 1 < layers; ++j) {
    std::vector<double> w(counts.transitions(first + j).begin(), counts.transitions(first + j).end());
    total += std::accumulate(w.begin(), w.end(), 0.0);
    Center(w, e);
    for (int i = 0; i < e; ++i) {
      for (int p = 0; p < e; ++p) {
        const size_t row = static_cast<size_t>(j) * e + i, column = static_cast<size_t>(j + 1) * e + p;
        chain[row * n + column] = chain[column * n + row] = w[i * e + p] / 2;
      }
    }
  }
  const double kept = total / parts + (parts > 1 ? static_cast<double>(e / parts) * layers * LargestEigenvalues(chain, n, parts - 1) : 0.0);
  return static_cast<int64_t>(std::ceil(kept + 1e-9 * total));
}

}  // namespace

int64_t KeptAtMost(const RoutingCounts& counts, int parts) {
  const int layers = counts.layers(), experts = counts.experts();
  if (parts == 1 || layers < 2) return counts.total();
  const int64_t chain = experts == 2 * parts ? PathsKeepAtMost(counts) : GramsKeepAtMost(counts, parts);
  const bool tried = chain < counts.total();  // then the spectral bound, which is weaker, is not worth its time
  const int run = std::max(1, std::min(layers, kMostSpectral / experts) - 1);  // transitions of a run
  int64_t kept = 0;
  for (int first = 0; first + 1 < layers; first += run) {
    const int last = std::min(first + run, layers - 1);
    int64_t matching = 0;
    for (int j = first; j < last; ++j) matching += MatchingBound(counts, j, experts / parts);
    const bool spectral = !tried && (last - first + 1) * experts <= kMostSpectral;
    kept += spectral ? std::min(matching, SpectralBound(counts, first, last - first + 1, parts)) : matching;
  }
  return std::min(kept, chain);
}

int64_t LowerBound(const PlacementProblem& problem) {
  const Topology& topology = problem.topology;
  const int64_t total = problem.counts->total();
  // cost = l_intra * rank crossings + (l_inter - l_intra) * node crossings, each at least what its own best placement has.
  const int64_t ranks = total - KeptAtMost(*problem.counts, topology.ranks);
  const int64_t nodes = topology.nodes == topology.ranks ? ranks : total - KeptAtMost(*problem.counts, topology.nodes);
  return topology.intra_cost * ranks + (topology.inter_cost - topology.intra_cost) * nodes;
}

}  // namespace conclave
