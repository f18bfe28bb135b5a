#include "parallel/chain_search.h"

#include "base/rng.h"
#include "parallel/assignment.h"

namespace conclave {
namespace {

// The best partner for x: the lowest of equals, -1 where no swap lowers the cost.
int BestPartner(const ChainState& state, int layer, int x) {
  int64_t best = 0;
  int partner = -1;
  for (int y = 0; y < state.experts(); ++y) {
    const int64_t cost = state.SwapCost(layer, x, y);
    if (cost < best) best = cost, partner = y;
  }
  return partner;
}

bool PlaceLayer(ChainState& state, int layer) {
  const int experts = state.experts();
  std::vector<int64_t> gain(static_cast<size_t>(state.ranks()) * experts);
  for (int p = 0; p < state.ranks(); ++p) {
    for (int x = 0; x < experts; ++x) gain[p * experts + x] = state.Pull(layer, p, x);
  }
  std::vector<int> ranks(state.ranks_of(layer).begin(), state.ranks_of(layer).end());
  if (!BestBalanced(gain, state.ranks(), ranks)) return false;
  state.SetLayer(layer, ranks);
  return true;
}

}  // namespace

void PairSwaps(ChainState& state) {
  for (bool lowered = true; lowered;) {
    lowered = false;
    for (int j = 0; j < state.layers(); ++j) {
      for (int x = 0; x < state.experts(); ++x) {
        const int y = BestPartner(state, j, x);
        if (y < 0) continue;
        state.Swap(j, x, y);
        lowered = true;
      }
    }
  }
}

void Sweep(ChainState& state) {
  for (bool moved = true; moved;) {
    moved = false;
    for (int j = 0; j < state.layers(); ++j) moved |= PlaceLayer(state, j);
    for (int j = state.layers() - 1; j >= 0; --j) moved |= PlaceLayer(state, j);
  }
}

bool Realign(ChainState& state) {
  const int ranks = state.ranks();
  const int64_t before = state.cost();
  PlacementTable table;
  for (int j = 0; j + 1 < state.layers(); ++j) {
    const std::vector<int64_t> flow = state.Flow(j);
    // Renaming q of the later layers to p keeps flow[., q] where it meets p or its node.
    std::vector<int64_t> gain(flow.size());
    for (int q = 0; q < ranks; ++q) {
      for (int p = 0; p < ranks; ++p) {
        int64_t& sum = gain[q * ranks + p];
        sum = state.rank_gain() * flow[p * ranks + q];
        for (int o = 0; o < ranks; ++o) {
          if (state.SearchNode(o) == state.SearchNode(p)) sum += state.node_gain() * flow[o * ranks + q];
        }
      }
    }
    Topology search = state.topology();
    search.nodes = state.nodes();
    const std::vector<int> to = BestRenaming(gain, search);
    int64_t won = 0;
    for (int q = 0; q < ranks; ++q) won += gain[q * ranks + to[q]] - gain[q * ranks + q];
    if (won <= 0) continue;
    table = state.table();
    for (int later = j + 1; later < state.layers(); ++later) {
      for (int& rank : table[later]) rank = to[rank];
    }
    state.SetTable(table);
  }
  return state.cost() < before;
}

void Descend(ChainState& state) {
  do {
    Sweep(state);
  } while (Realign(state));
}

PlacementTable RandomTable(int layers, int experts, int ranks, uint64_t seed, uint32_t start) {
  PlacementTable table(layers, std::vector<int>(experts));
  for (int j = 0; j < layers; ++j) {
    const RngKey key{.seed = seed, .site = 2, .step = start, .worker = static_cast<uint32_t>(j), .kind = RngKind::kPlacement};
    const IndexPermutation order(key, experts);
    for (int x = 0; x < experts; ++x) table[j][order(x)] = x / (experts / ranks);
  }
  return table;
}

}  // namespace conclave
