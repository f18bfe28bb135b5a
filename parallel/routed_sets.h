// RoutedSets: which experts tokens use together, summed up exactly. All that the traffic of training depends on.
#ifndef CONCLAVE_PARALLEL_ROUTED_SETS_H_
#define CONCLAVE_PARALLEL_ROUTED_SETS_H_

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "parallel/routing_trace.h"
#include "proto/parallel.pb.h"

namespace conclave {

struct Topology;

// In training the combine brings a token home after every layer, so what a layer sends depends on the token's home and on the set of its
// experts there, and on nothing else: tokens are summed up by (home, sorted set), for any k, in integers. Without homes every token is
// counted once at each rank, which gives `homes()` times its mean over homes drawn alike.
class RoutedSets {
 public:
  struct Set {
    std::span<const int32_t> experts;  // [k], ascending
    int home;                          // rank; -1: counted at every rank
    int64_t times;
  };

  // homes: [tokens] the rank that owns each token outside the layer, or empty: any of `ranks`.
  static RoutedSets Of(const RoutingTrace& trace, int ranks, std::span<const int> homes = {});

  int layers() const { return static_cast<int>(layers_.size()); }
  int experts() const { return experts_; }
  int top_k() const { return top_k_; }
  int ranks() const { return ranks_; }
  int64_t tokens() const { return tokens_; }
  // By how much counts exceed those of the tokens: ranks() where homes are not known, else 1.
  int64_t homes() const { return homes_; }
  int sets(int layer) const { return static_cast<int>(layers_[layer].times.size()); }
  Set set(int layer, int index) const {
    const Layer& l = layers_[layer];
    return {std::span(l.experts).subspan(static_cast<size_t>(index) * top_k_, top_k_), l.home[index], l.times[index]};
  }

 private:
  struct Layer {
    std::vector<int32_t> experts;  // [sets, k]
    std::vector<int32_t> home;
    std::vector<int64_t> times;
  };
  int experts_ = 0, top_k_ = 1, ranks_ = 1;
  int64_t tokens_ = 0, homes_ = 1;
  std::vector<Layer> layers_;
};

// Rows inside nodes (between ranks) and between nodes.
struct RowCount {
  int64_t inside = 0, between = 0;
  RowCount& operator+=(const RowCount& other) {
    inside += other.inside;
    between += other.between;
    return *this;
  }
  bool operator==(const RowCount&) const = default;
};

// Nodes other than its own that tokens of a layer touch (`between`), and other ranks of their own node (`inside`), times sets.homes().
// rank_of: [E]. The co-activation objective is l_inter * between + l_intra * inside. Cost: sets * k. topology.ranks = sets.ranks().
RowCount CountTouched(const RoutedSets& sets, int layer, std::span<const int> rank_of, const Topology& topology);

// What tokens [first, last) of a trace touch if rank r is their home, all layers together: [ranks] of the same counts.
std::vector<RowCount> CountTouchedFrom(const RoutingTrace& trace, std::pair<int64_t, int64_t> tokens,
                                       std::span<const std::vector<int>> table, const Topology& topology);

// Rows that a route (not AUTO) sends on their way to the experts of a layer, over all ranks, times sets.homes(): what the ledger books for
// the same tokens at the same homes. The results of the experts come home in as many rows as FLAT or, in two levels, HIERARCHICAL sends;
// where they are summed on the way, in as many as went out.
RowCount CountRows(const RoutedSets& sets, int layer, std::span<const int> rank_of, const Topology& topology, DispatchConfig::Route route);

// Rows that do not come home because those of a token's first slots come as their sum (DispatchConfig.fold), over all ranks, times
// sets.homes(): the mean over the orders in which a token may have its experts, which sets do not know.
struct FoldedRows {
  double inside = 0, between = 0;
  FoldedRows& operator+=(const FoldedRows& other) {
    inside += other.inside;
    between += other.between;
    return *this;
  }
};
FoldedRows CountFolded(const RoutedSets& sets, int layer, std::span<const int> rank_of, const Topology& topology,
                       DispatchConfig::Route route);

// tokens / ranks consecutive tokens at each rank: the homes of a trace that holds all tokens of one step, in order.
std::vector<int> HomesInOrder(int64_t tokens, int ranks);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_ROUTED_SETS_H_
