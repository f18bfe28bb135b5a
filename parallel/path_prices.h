// Prices of experts at which no expert is taken more often than another, for paths of pairs drawn at a temperature.
#ifndef CONCLAVE_PARALLEL_PATH_PRICES_H_
#define CONCLAVE_PARALLEL_PATH_PRICES_H_

#include <cstdint>
#include <vector>

#include "parallel/routing_counts.h"

namespace conclave {

// Pairs of experts i < j in order.
struct ExpertPairs {
  explicit ExpertPairs(int experts);
  int64_t Cell(int64_t s, int width) const { return int64_t{first[s]} * width + second[s]; }

  int64_t count = 0;
  std::vector<int> first, second;
};

// A path is a pair of experts in every layer. Paths are drawn with weight e^(value / T), value being the tokens that a path keeps less the
// prices of its experts. The prices at which every expert is taken equally often are those that minimise
//   sum of all prices + E / 2 * T * log(sum of all weights),
// which is convex. They are found layer by layer, to and fro: with the weight of all ways into a pair and out of it at hand, prices of one
// layer are a scaling of a symmetric matrix to equal sums of rows. At a falling temperature they come to those of the linear program in
// which ranks are mixtures of paths. Sources: Sinkhorn, Knopp, "Concerning nonnegative matrices and doubly stochastic matrices", Pacific
// Journal of Mathematics 1967; Peyré, Cuturi, "Computational Optimal Transport", 2019.
class PathPrices {
 public:
  explicit PathPrices(const RoutingCounts& counts);  // all prices 0; call SetTemperature

  // In tokens, > 0. Cost: layers * E^3 / 2 exponentials.
  void SetTemperature(double temperature);
  // Levels every layer, forward and backward. Cost: layers * E^4 / 2 multiplications, twice.
  void Sweep();
  // [layers, E]: in units of 1 / `units` tokens, of mean 0 in every layer.
  std::vector<int64_t> Rounded(int64_t units) const;

 private:
  double* Rows(int layer) { return rows_.data() + layer * padded_ * width_; }
  double* ForwardOf(int layer) { return forward_.data() + layer * pairs_.count; }
  double* BehindOf(int layer) { return behind_.data() + layer * pairs_.count; }
  double Due(int layer, int64_t s) const;
  void SetRows(int layer);
  void Level(int layer);
  void Forward(int layer);
  void Backward(int layer);

  const RoutingCounts& counts_;
  const int layers_, n_, width_;
  const ExpertPairs pairs_;
  const int64_t padded_;
  double temperature_ = 1;
  std::vector<double> prices_, paid_;  // [layers, n]: in tokens; those that rows_ have taken in
  std::vector<double> rows_;           // [layers - 1, padded, width]: e^((w + w - price - scale / 2) / T); zero behind the last pair
  std::vector<double> scale_;          // [layers - 1, pairs]: what was taken out of both factors of a product, over T
  std::vector<double> forward_,
      behind_;                        // [layers, pairs]: logarithms of the weight of all ways into a pair, its price paid, and out of it
  std::vector<double> cells_;         // [width, width]
  std::vector<double> weight_;        // [padded]; zero behind the last pair
  std::vector<double> share_, sums_;  // [width]; sums_ has [padded] if that is more
};

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_PATH_PRICES_H_
