#include "parallel/chain_state.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "base/simd.h"

namespace conclave {
namespace {

CONCLAVE_SIMD void AddScaled(const int32_t* __restrict x, int32_t scale, int n, int32_t* __restrict out) {
  for (int i = 0; i < n; ++i) out[i] += scale * x[i];
}

// One swap as a neighbouring layer sees it: `leaves` moves from row p to row q, `comes` from q to p.
CONCLAVE_SIMD void ExchangePulls(const int32_t* __restrict leaves, const int32_t* __restrict comes, int32_t scale, int n,
                                 int32_t* __restrict p, int32_t* __restrict q) {
  for (int i = 0; i < n; ++i) {
    const int32_t change = scale * (comes[i] - leaves[i]);
    p[i] += change;
    q[i] -= change;
  }
}

}  // namespace

ChainState::ChainState(const PlacementProblem& problem, const PlacementTable& table)
    : topology_(problem.topology),
      layers_(problem.counts->layers()),
      experts_(problem.counts->experts()),
      ranks_(problem.topology.ranks),
      nodes_(problem.topology.nodes == problem.topology.ranks ? 1 : problem.topology.nodes),
      rank_gain_(static_cast<int32_t>(problem.topology.nodes == problem.topology.ranks ? problem.topology.inter_cost
                                                                                       : problem.topology.intra_cost)),
      node_gain_(nodes_ == 1 ? 0 : static_cast<int32_t>(problem.topology.inter_cost - problem.topology.intra_cost)) {
  node_of_.resize(ranks_);
  for (int r = 0; r < ranks_; ++r) node_of_[r] = r / (ranks_ / nodes_);
  const size_t square = static_cast<size_t>(experts_) * experts_;
  forward_.resize(square * (layers_ - 1));
  backward_.resize(forward_.size());
  for (int j = 0; j + 1 < layers_; ++j) {
    const std::span<const int64_t> w = problem.counts->transitions(j);
    for (int i = 0; i < experts_; ++i) {
      for (int p = 0; p < experts_; ++p) {
        const int32_t count = static_cast<int32_t>(w[i * experts_ + p]);
        forward_[j * square + i * experts_ + p] = count;
        backward_[j * square + p * experts_ + i] = count;
        ceiling_ += int64_t{rank_gain_ + node_gain_} * count;
      }
    }
  }
  rank_.resize(static_cast<size_t>(layers_) * experts_);
  rank_pull_.resize(rank_.size() * ranks_);
  node_pull_.resize(rank_.size() * nodes_);
  SetTable(table);
}

PlacementTable ChainState::table() const {
  PlacementTable table(layers_);
  for (int j = 0; j < layers_; ++j) table[j].assign(ranks_of(j).begin(), ranks_of(j).end());
  return table;
}

void ChainState::SetTable(const PlacementTable& table) {
  for (int j = 0; j < layers_; ++j) std::copy(table[j].begin(), table[j].end(), rank_.begin() + static_cast<size_t>(j) * experts_);
  Rebuild();
}

void ChainState::AddPulls(int layer, const int32_t* weights, int rank, int32_t sign) {
  AddScaled(weights, sign * rank_gain_, experts_, Pulls(rank_pull_, layer, ranks_) + static_cast<size_t>(rank) * experts_);
  if (nodes_ > 1) {
    AddScaled(weights, sign * node_gain_, experts_, Pulls(node_pull_, layer, nodes_) + static_cast<size_t>(node_of_[rank]) * experts_);
  }
}

void ChainState::RebuildPulls(int layer) {
  std::fill_n(Pulls(rank_pull_, layer, ranks_), static_cast<size_t>(ranks_) * experts_, 0);
  std::fill_n(Pulls(node_pull_, layer, nodes_), static_cast<size_t>(nodes_) * experts_, 0);
  for (int x = 0; x < experts_; ++x) {
    if (layer > 0) AddPulls(layer, Forward(layer - 1, x), ranks_of(layer - 1)[x], 1);
    if (layer + 1 < layers_) AddPulls(layer, Backward(layer, x), ranks_of(layer + 1)[x], 1);
  }
}

void ChainState::Rebuild() {
  for (int j = 0; j < layers_; ++j) RebuildPulls(j);
  int64_t kept_twice = 0;  // every transition pulls at both its ends
  for (int j = 0; j < layers_; ++j) {
    for (int x = 0; x < experts_; ++x) kept_twice += Pull(j, ranks_of(j)[x], x);
  }
  cost_ = ceiling_ - kept_twice / 2;
}

void ChainState::Swap(int layer, int x, int y) {
  int* const ranks = rank_.data() + static_cast<size_t>(layer) * experts_;
  const int p = ranks[x], q = ranks[y];
  if (p == q) return;
  cost_ += SwapCost(layer, x, y);
  std::swap(ranks[x], ranks[y]);
  const auto tell = [&](int neighbour, const int32_t* wx, const int32_t* wy) {
    int32_t* const pulls = Pulls(rank_pull_, neighbour, ranks_);
    ExchangePulls(wx, wy, rank_gain_, experts_, pulls + static_cast<size_t>(p) * experts_, pulls + static_cast<size_t>(q) * experts_);
    const int n = node_of_[p], m = node_of_[q];
    if (n == m) return;
    int32_t* const node_pulls = Pulls(node_pull_, neighbour, nodes_);
    ExchangePulls(wx, wy, node_gain_, experts_, node_pulls + static_cast<size_t>(n) * experts_,
                  node_pulls + static_cast<size_t>(m) * experts_);
  };
  if (layer > 0) tell(layer - 1, Backward(layer - 1, x), Backward(layer - 1, y));
  if (layer + 1 < layers_) tell(layer + 1, Forward(layer, x), Forward(layer, y));
}

void ChainState::SetLayer(int layer, std::span<const int> ranks) {
  int* const now = rank_.data() + static_cast<size_t>(layer) * experts_;
  for (int x = 0; x < experts_; ++x) {
    if (now[x] == ranks[x]) continue;
    cost_ += int64_t{Pull(layer, now[x], x)} - Pull(layer, ranks[x], x);
    if (layer > 0) {
      AddPulls(layer - 1, Backward(layer - 1, x), now[x], -1);
      AddPulls(layer - 1, Backward(layer - 1, x), ranks[x], 1);
    }
    if (layer + 1 < layers_) {
      AddPulls(layer + 1, Forward(layer, x), now[x], -1);
      AddPulls(layer + 1, Forward(layer, x), ranks[x], 1);
    }
    now[x] = ranks[x];
  }
}

std::vector<int64_t> ChainState::Flow(int layer) const {
  std::vector<int64_t> flow(static_cast<size_t>(ranks_) * ranks_);
  for (int x = 0; x < experts_; ++x) {
    const int32_t* const w = Forward(layer, x);
    for (int y = 0; y < experts_; ++y) flow[ranks_of(layer)[x] * ranks_ + ranks_of(layer + 1)[y]] += w[y];
  }
  return flow;
}

}  // namespace conclave
