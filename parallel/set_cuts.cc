#include "parallel/set_cuts.h"

#include <cmath>
#include <utility>

#include "base/rng.h"

namespace conclave {

SetCuts::SetCuts(const RoutedSets& sets, int layer, const Topology& topology, std::vector<int> rank_of)
    : topology_(topology), row_((static_cast<size_t>(sets.experts()) + 63) / 64), sets_of_(sets.experts()) {
  // A set with its homes summed over: a node is another one's at all ranks but its own, a rank at the others of its node.
  any_node_ = topology.inter_cost * (topology.ranks - topology.ranks_per_node());
  any_rank_ = topology.intra_cost * (topology.ranks_per_node() - 1);
  const int count = sets.sets(layer);
  words_.resize(count * row_);
  of_rank_.resize(static_cast<size_t>(count) * topology.ranks);
  of_node_.resize(static_cast<size_t>(count) * topology.nodes);
  for (int s = 0; s < count; ++s) {
    const RoutedSets::Set set = sets.set(layer, s);
    home_.push_back(set.home);
    times_.push_back(set.times);
    for (const int32_t e : set.experts) {
      words_[s * row_ + e / 64] |= uint64_t{1} << (e % 64);
      sets_of_[e].push_back(s);
    }
  }
  SetTable(std::move(rank_of));
}

int64_t SetCuts::NodePrice(int set, int node) const {
  const int home = home_[set];
  if (home < 0) return times_[set] * any_node_;
  return topology_.NodeOf(home) == node ? 0 : times_[set] * topology_.inter_cost;
}

int64_t SetCuts::RankPrice(int set, int rank) const {
  const int home = home_[set];
  if (home < 0) return times_[set] * any_rank_;
  return home == rank || topology_.NodeOf(home) != topology_.NodeOf(rank) ? 0 : times_[set] * topology_.intra_cost;
}

void SetCuts::SetTable(std::vector<int> rank_of) {
  rank_of_ = std::move(rank_of);
  std::fill(of_rank_.begin(), of_rank_.end(), 0);
  std::fill(of_node_.begin(), of_node_.end(), 0);
  cost_ = 0;
  for (int e = 0; e < experts(); ++e) {
    const int rank = rank_of_[e], node = topology_.NodeOf(rank);
    for (const int s : sets_of_[e]) {
      if (of_rank_[static_cast<size_t>(s) * topology_.ranks + rank]++ == 0) cost_ += RankPrice(s, rank);
      if (of_node_[static_cast<size_t>(s) * topology_.nodes + node]++ == 0) cost_ += NodePrice(s, node);
    }
  }
}

int64_t SetCuts::MoveCost(int x, int y) const {
  const int from = rank_of_[x], to = rank_of_[y], here = topology_.NodeOf(from), there = topology_.NodeOf(to);
  int64_t cost = 0;
  for (const int s : sets_of_[x]) {
    if (Contains(s, y)) continue;  // it touches what it touched
    const uint16_t* const of_rank = of_rank_.data() + static_cast<size_t>(s) * topology_.ranks;
    if (of_rank[from] == 1) cost -= RankPrice(s, from);
    if (of_rank[to] == 0) cost += RankPrice(s, to);
    if (here == there) continue;
    const uint16_t* const of_node = of_node_.data() + static_cast<size_t>(s) * topology_.nodes;
    if (of_node[here] == 1) cost -= NodePrice(s, here);
    if (of_node[there] == 0) cost += NodePrice(s, there);
  }
  return cost;
}

int64_t SetCuts::SwapCost(int x, int y) const { return rank_of_[x] == rank_of_[y] ? 0 : MoveCost(x, y) + MoveCost(y, x); }

void SetCuts::Move(int x, int from, int to) {
  const int here = topology_.NodeOf(from), there = topology_.NodeOf(to);
  for (const int s : sets_of_[x]) {
    --of_rank_[static_cast<size_t>(s) * topology_.ranks + from];
    ++of_rank_[static_cast<size_t>(s) * topology_.ranks + to];
    --of_node_[static_cast<size_t>(s) * topology_.nodes + here];
    ++of_node_[static_cast<size_t>(s) * topology_.nodes + there];
  }
}

void SetCuts::Swap(int x, int y) {
  const int p = rank_of_[x], q = rank_of_[y];
  if (p == q) return;
  cost_ += SwapCost(x, y);
  Move(x, p, q);
  Move(y, q, p);
  std::swap(rank_of_[x], rank_of_[y]);
}

void DescendCuts(SetCuts& cuts) {
  for (bool lowered = true; lowered;) {
    lowered = false;
    for (int x = 0; x < cuts.experts(); ++x) {
      int64_t best = 0;
      int partner = -1;
      for (int y = 0; y < cuts.experts(); ++y) {
        const int64_t cost = cuts.SwapCost(x, y);
        if (cost < best) best = cost, partner = y;
      }
      if (partner < 0) continue;
      cuts.Swap(x, partner);
      lowered = true;
    }
  }
}

void AnnealCuts(SetCuts& cuts, int layer, const CutAnneal& options) {
  const RngKey key{.seed = options.seed,
                   .site = 6,
                   .step = options.start,
                   .worker = static_cast<uint32_t>(layer),
                   .kind = RngKind::kPlacement,
                   .draw = static_cast<uint32_t>(options.pairs)};
  const auto allowed = [&](int x, int y) {
    const int p = cuts.rank_of()[x], q = cuts.rank_of()[y];
    const bool across = cuts.topology().NodeOf(p) != cuts.topology().NodeOf(q);
    return p != q && (options.pairs == CutAnneal::kAll || across == (options.pairs == CutAnneal::kAcrossNodes));
  };
  // Hot: half the mean size of a change; cold: where hardly any swap that costs is taken any more.
  constexpr int kSampled = 64;
  constexpr double kHot = 0.5, kCold = 0.01;
  uint64_t element = 0;
  const auto draw = [&](uint64_t bound) { return static_cast<int>(key.Below(bound, element++)); };
  const auto experts = static_cast<uint64_t>(cuts.experts());
  double typical = 0;
  int seen = 0;
  for (int i = 0; i < kSampled; ++i) {
    const int x = draw(experts), y = draw(experts);
    if (!allowed(x, y)) continue;
    typical += static_cast<double>(std::abs(cuts.SwapCost(x, y)));
    ++seen;
  }
  if (typical == 0 || options.swaps < 1) return;
  typical /= seen;
  double temperature = kHot * typical;
  const double factor = std::pow(kCold / kHot, 1.0 / static_cast<double>(options.swaps));
  std::vector<int> best = cuts.rank_of();
  int64_t best_cost = cuts.cost();
  for (int64_t i = 0; i < options.swaps; ++i, temperature *= factor) {
    const int x = draw(experts), y = draw(experts);
    const double coin = key.Uniform(element++);
    if (!allowed(x, y)) continue;
    const int64_t cost = cuts.SwapCost(x, y);
    if (cost > 0 && coin >= std::exp(-static_cast<double>(cost) / temperature)) continue;
    cuts.Swap(x, y);
    if (cuts.cost() >= best_cost) continue;
    best_cost = cuts.cost();
    best = cuts.rank_of();
  }
  if (cuts.cost() > best_cost) cuts.SetTable(std::move(best));
}

}  // namespace conclave
