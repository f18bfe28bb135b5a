#include "parallel/routing_counts.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace conclave {

RoutingCounts::RoutingCounts(int layers, int experts)
    : layers_(layers), experts_(experts), square_(static_cast<size_t>(experts) * experts) {
  CHECK(layers >= 1 && experts >= 1);
  transitions_.resize(square_ * (layers - 1));
  load_.resize(static_cast<size_t>(layers) * experts);
}

RoutingCounts RoutingCounts::Of(const RoutingTrace& trace) {
  RoutingCounts counts(trace.layers(), trace.experts());
  for (int64_t t = 0; t < trace.tokens(); ++t) {
    for (int j = 0; j < trace.layers(); ++j) {
      for (int s = 0; s < trace.top_k(); ++s) ++counts.load(j)[trace.expert(t, j, s)];
      if (j + 1 < trace.layers()) ++counts.transitions(j)[trace.expert(t, j) * trace.experts() + trace.expert(t, j + 1)];
    }
  }
  return counts;
}

int64_t RoutingCounts::total() const { return std::accumulate(transitions_.begin(), transitions_.end(), int64_t{0}); }

std::vector<double> RoutingCounts::Affinity(int layer) const {
  const std::span<const int64_t> counts = transitions(layer);
  std::vector<double> affinity(square_);
  for (int i = 0; i < experts_; ++i) {
    const auto row = counts.subspan(static_cast<size_t>(i) * experts_, experts_);
    const int64_t tokens = std::accumulate(row.begin(), row.end(), int64_t{0});
    if (tokens == 0) continue;
    for (int p = 0; p < experts_; ++p) affinity[static_cast<size_t>(i) * experts_ + p] = static_cast<double>(row[p]) / tokens;
  }
  return affinity;
}

double RoutingCounts::MeanLargestAffinity() const {
  double sum = 0;
  int64_t rows = 0;
  for (int j = 0; j + 1 < layers_; ++j) {
    const std::vector<double> affinity = Affinity(j);
    for (int i = 0; i < experts_; ++i) {
      const double largest = *std::max_element(affinity.begin() + i * experts_, affinity.begin() + (i + 1) * experts_);
      sum += largest;
      rows += largest > 0;
    }
  }
  return rows == 0 ? 0 : sum / static_cast<double>(rows);
}

}  // namespace conclave
