// RoutingCounts: a trace summed up, exactly. All the chain objective depends on.
#ifndef CONCLAVE_PARALLEL_ROUTING_COUNTS_H_
#define CONCLAVE_PARALLEL_ROUTING_COUNTS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "parallel/routing_trace.h"

namespace conclave {

// C_j[i, p]: tokens that use expert i in layer j and expert p in layer j + 1 (slot 0 for k > 1). Integers throughout, so that nothing
// depends on the order of summation. Source: Yao et al., "Exploiting Inter-Layer Expert Affinity" (ExFlow), IPDPS 2024.
class RoutingCounts {
 public:
  RoutingCounts(int layers, int experts);  // all zero
  static RoutingCounts Of(const RoutingTrace& trace);

  int layers() const { return layers_; }
  int experts() const { return experts_; }
  // [E, E], row-major: from expert of `layer` to expert of `layer` + 1; layer in 0..layers-2.
  std::span<const int64_t> transitions(int layer) const { return Matrix(transitions_, layer); }
  std::span<int64_t> transitions(int layer) { return std::span(transitions_).subspan(layer * square_, square_); }
  // [E]: tokens an expert of `layer` takes, all slots counted.
  std::span<const int64_t> load(int layer) const { return std::span(load_).subspan(layer * experts_, experts_); }
  std::span<int64_t> load(int layer) { return std::span(load_).subspan(layer * experts_, experts_); }
  // All transitions of all layers: (layers - 1) * tokens for a trace.
  int64_t total() const;

  // A_j[i, p] = C_j[i, p] / sum_q C_j[i, q], an estimate of P(p in layer j + 1 | i in layer j): [E, E]. Rows without tokens are zero.
  std::vector<double> Affinity(int layer) const;
  // Mean over the rows with tokens, of all layers, of the largest affinity of a row: 1/E for uniform routing, 1 for fixed paths.
  double MeanLargestAffinity() const;

 private:
  std::span<const int64_t> Matrix(const std::vector<int64_t>& all, int layer) const {
    return std::span(all).subspan(layer * square_, square_);
  }
  int layers_, experts_;
  size_t square_;
  std::vector<int64_t> transitions_, load_;
};

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_ROUTING_COUNTS_H_
