#include "parallel/routed_sets.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "parallel/dispatch_route.h"
#include "parallel/placement_problem.h"

namespace conclave {
namespace {

// The ranks of one token's experts, and what of them crosses which link, seen from a home.
class Touched {
 public:
  explicit Touched(const Topology& topology) : topology_(topology), of_rank_(topology.ranks), of_node_(topology.nodes) {}

  void Set(std::span<const int32_t> experts, std::span<const int> rank_of) {
    std::ranges::fill(of_rank_, 0);
    std::ranges::fill(of_node_, 0);
    for (const int32_t e : experts) {
      ++of_rank_[rank_of[e]];
      ++of_node_[topology_.NodeOf(rank_of[e])];
    }
  }
  // Distinct other nodes, and distinct other ranks of the own one.
  RowCount Distinct(int home) const {
    const int own = topology_.NodeOf(home), q = topology_.ranks_per_node();
    RowCount count;
    for (int n = 0; n < topology_.nodes; ++n) count.between += n != own && of_node_[n] > 0;
    for (int r = own * q; r < (own + 1) * q; ++r) count.inside += r != home && of_rank_[r] > 0;
    return count;
  }
  RowCount Rows(int home, DispatchConfig::Route route) const {
    const bool once = SendsOnce(route), two_levels = InTwoLevels(route);
    const int own = topology_.NodeOf(home), q = topology_.ranks_per_node();
    RowCount count;
    for (int r = 0; r < topology_.ranks; ++r) {
      const int64_t rows = once ? of_rank_[r] > 0 : of_rank_[r];
      const bool crosses = topology_.NodeOf(r) != own;
      // In two levels a row changes its place in the node in one hop and the node in the other.
      if (two_levels ? r % q != home % q : !crosses && r != home) count.inside += rows;
      if (crosses && !(once && two_levels)) count.between += rows;
    }
    if (once && two_levels) count.between += Distinct(home).between;
    return count;
  }
  // Of c copies in one place among k, in any order of slots: the first slots that are all there, without the first, where slot 0 is there.
  FoldedRows Folded(int home, int64_t k, bool two_levels) const {
    const auto saved = [k](int64_t c) {
      return static_cast<double>(c) / static_cast<double>(k - c + 1) - static_cast<double>(c) / static_cast<double>(k);
    };
    const int own = topology_.NodeOf(home);
    FoldedRows rows;
    for (int n = 0; n < topology_.nodes && two_levels; ++n) rows.between += n == own ? 0 : saved(of_node_[n]);
    for (int r = 0; r < topology_.ranks && !two_levels; ++r) {
      if (r != home) (topology_.NodeOf(r) == own ? rows.inside : rows.between) += saved(of_rank_[r]);
    }
    return rows;
  }

 private:
  const Topology& topology_;
  std::vector<int> of_rank_, of_node_;
};

template <typename Count>
auto SumOverHomes(const RoutedSets& sets, int layer, std::span<const int> rank_of, const Topology& topology, Count&& count) {
  CHECK_EQ(sets.ranks(), topology.ranks);
  Touched touched(topology);
  decltype(count(touched, 0)) sum;
  for (int i = 0; i < sets.sets(layer); ++i) {
    const RoutedSets::Set set = sets.set(layer, i);
    touched.Set(set.experts, rank_of);
    decltype(sum) once;
    if (set.home >= 0) {
      once = count(touched, set.home);
    } else {
      for (int home = 0; home < topology.ranks; ++home) once += count(touched, home);
    }
    const auto times = static_cast<decltype(once.inside)>(set.times);
    sum.inside += times * once.inside;
    sum.between += times * once.between;
  }
  return sum;
}

}  // namespace

RoutedSets RoutedSets::Of(const RoutingTrace& trace, int ranks, std::span<const int> homes) {
  CHECK(ranks >= 1 && (homes.empty() || static_cast<int64_t>(homes.size()) == trace.tokens()));
  RoutedSets sets;
  sets.experts_ = trace.experts(), sets.top_k_ = trace.top_k(), sets.ranks_ = ranks;
  sets.tokens_ = trace.tokens();
  sets.homes_ = homes.empty() ? ranks : 1;
  const int64_t width = trace.top_k() + 1;
  std::vector<int32_t> keys(static_cast<size_t>(trace.tokens() * width));  // home and sorted experts of each token
  std::vector<int64_t> order(static_cast<size_t>(trace.tokens()));
  for (int j = 0; j < trace.layers(); ++j) {
    for (int64_t t = 0; t < trace.tokens(); ++t) {
      int32_t* const key = keys.data() + t * width;
      key[0] = homes.empty() ? -1 : homes[t];
      for (int s = 0; s < trace.top_k(); ++s) key[s + 1] = trace.expert(t, j, s);
      std::sort(key + 1, key + width);
    }
    const auto key_of = [&](int64_t t) { return std::span(keys).subspan(static_cast<size_t>(t * width), static_cast<size_t>(width)); };
    std::iota(order.begin(), order.end(), int64_t{0});
    std::ranges::sort(order, [&](int64_t a, int64_t b) { return std::ranges::lexicographical_compare(key_of(a), key_of(b)); });
    Layer& layer = sets.layers_.emplace_back();
    for (size_t i = 0; i < order.size(); ++i) {
      const auto key = key_of(order[i]);
      if (i > 0 && std::ranges::equal(key, key_of(order[i - 1]))) {
        ++layer.times.back();
        continue;
      }
      layer.home.push_back(key[0]);
      layer.times.push_back(1);
      layer.experts.insert(layer.experts.end(), key.begin() + 1, key.end());
    }
  }
  return sets;
}

RowCount CountTouched(const RoutedSets& sets, int layer, std::span<const int> rank_of, const Topology& topology) {
  return SumOverHomes(sets, layer, rank_of, topology, [](const Touched& touched, int home) { return touched.Distinct(home); });
}

std::vector<RowCount> CountTouchedFrom(const RoutingTrace& trace, std::pair<int64_t, int64_t> tokens,
                                       std::span<const std::vector<int>> table, const Topology& topology) {
  Touched touched(topology);
  std::vector<RowCount> sums(topology.ranks);
  std::vector<int32_t> experts(trace.top_k());
  for (int64_t t = tokens.first; t < tokens.second; ++t) {
    for (int j = 0; j < trace.layers(); ++j) {
      for (int s = 0; s < trace.top_k(); ++s) experts[s] = trace.expert(t, j, s);
      touched.Set(experts, table[j]);
      for (int home = 0; home < topology.ranks; ++home) sums[home] += touched.Distinct(home);
    }
  }
  return sums;
}

RowCount CountRows(const RoutedSets& sets, int layer, std::span<const int> rank_of, const Topology& topology, DispatchConfig::Route route) {
  CHECK(route != DispatchConfig::AUTO);
  return SumOverHomes(sets, layer, rank_of, topology, [route](const Touched& touched, int home) { return touched.Rows(home, route); });
}

FoldedRows CountFolded(const RoutedSets& sets, int layer, std::span<const int> rank_of, const Topology& topology,
                       DispatchConfig::Route route) {
  return SumOverHomes(sets, layer, rank_of, topology,
                      [&](const Touched& touched, int home) { return touched.Folded(home, sets.top_k(), InTwoLevels(route)); });
}

std::vector<int> HomesInOrder(int64_t tokens, int ranks) {
  std::vector<int> homes(static_cast<size_t>(tokens));
  for (int64_t t = 0; t < tokens; ++t) homes[static_cast<size_t>(t)] = static_cast<int>(t * ranks / tokens);
  return homes;
}

}  // namespace conclave
