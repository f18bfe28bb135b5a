#include "parallel/markov_trace.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "base/rng.h"

namespace conclave {
namespace {

constexpr int kMostExperts = 1 << 12;

// Rows of P(p in layer + 1 | i in layer): [E, E].
std::vector<double> Probabilities(const MarkovInstance& instance, int layer) {
  const size_t experts = instance.experts;
  std::vector<double> p(experts * experts);
  const RngKey key{.seed = instance.seed, .site = 3, .step = static_cast<uint32_t>(layer), .kind = RngKind::kProblem};
  key.FillNormal(0, p);
  for (size_t i = 0; i < experts; ++i) {
    double sum = 0;
    for (size_t q = 0; q < experts; ++q) sum += p[i * experts + q] = std::exp(instance.sigma * p[i * experts + q]);
    for (size_t q = 0; q < experts; ++q) p[i * experts + q] /= sum;
  }
  return p;
}

}  // namespace

absl::Status CheckMarkovInstance(const MarkovInstance& instance) {
  if (instance.layers < 2 || instance.layers > 4096) return InvalidArgument("layers: expected 2..4096, got %d", instance.layers);
  if (instance.experts < 1 || instance.experts > kMostExperts)
    return InvalidArgument("experts: expected 1..%d, got %d", kMostExperts, instance.experts);
  if (!(instance.sigma >= 0 && instance.sigma <= 20)) return InvalidArgument("sigma: expected 0..20, got %g", instance.sigma);
  if (instance.tokens < 1) return InvalidArgument("tokens: expected at least 1, got %d", instance.tokens);
  return absl::OkStatus();
}

RoutingTrace MarkovTrace(const MarkovInstance& instance) {
  CHECK_OK(CheckMarkovInstance(instance));
  const int layers = instance.layers, experts = instance.experts;
  std::vector<int32_t> ids(static_cast<size_t>(instance.tokens) * layers);
  const RngKey entry{.seed = instance.seed, .site = 4, .kind = RngKind::kProblem};
  for (int64_t t = 0; t < instance.tokens; ++t) ids[t * layers] = static_cast<int32_t>(entry.Below(experts, t));
  std::vector<double> cumulative;
  for (int j = 0; j + 1 < layers; ++j) {
    cumulative = Probabilities(instance, j);
    for (size_t i = 0; i < cumulative.size(); ++i) cumulative[i] += i % experts == 0 ? 0 : cumulative[i - 1];
    const RngKey key{.seed = instance.seed, .site = 5, .step = static_cast<uint32_t>(j), .kind = RngKind::kProblem};
    for (int64_t t = 0; t < instance.tokens; ++t) {
      const auto row = cumulative.begin() + static_cast<int64_t>(ids[t * layers + j]) * experts;
      const double u = key.UniformDouble(t) * row[experts - 1];
      ids[t * layers + j + 1] = static_cast<int32_t>(std::min<int64_t>(std::upper_bound(row, row + experts, u) - row, experts - 1));
    }
  }
  auto trace = RoutingTrace::Make({.experts = experts, .layers = layers, .corpus = "markov", .seed = instance.seed}, std::move(ids));
  CHECK_OK(trace.status());
  return *std::move(trace);
}

RoutingCounts MarkovCounts(const MarkovInstance& instance) {
  CHECK_OK(CheckMarkovInstance(instance));
  const int experts = instance.experts;
  RoutingCounts counts(instance.layers, experts);
  std::vector<double> share(experts, 1.0 / experts), next(experts);
  const double tokens = static_cast<double>(instance.tokens);
  for (int j = 0; j < instance.layers; ++j) {
    for (int i = 0; i < experts; ++i) counts.load(j)[i] = std::llround(tokens * share[i]);
    if (j + 1 == instance.layers) break;
    const std::vector<double> p = Probabilities(instance, j);
    std::fill(next.begin(), next.end(), 0.0);
    for (int i = 0; i < experts; ++i) {
      for (int q = 0; q < experts; ++q) {
        const double flow = share[i] * p[static_cast<size_t>(i) * experts + q];
        counts.transitions(j)[i * experts + q] = std::llround(tokens * flow);
        next[q] += flow;
      }
    }
    share.swap(next);
  }
  return counts;
}

}  // namespace conclave
