#include "parallel/chain_crossover.h"

#include <numeric>
#include <vector>

#include "base/check.h"

namespace conclave {
namespace {

// Sets of cells (layer, rank) that are merged.
class CellSets {
 public:
  explicit CellSets(int cells) : parent_(cells) { std::iota(parent_.begin(), parent_.end(), 0); }
  int Of(int cell) {
    while (parent_[cell] != cell) cell = parent_[cell] = parent_[parent_[cell]];
    return cell;
  }
  void Merge(int a, int b) { parent_[Of(a)] = Of(b); }

 private:
  std::vector<int> parent_;
};

// Tokens that each rank keeps from `layer` to the next.
std::vector<int64_t> KeptByRank(const ChainState& state, const PlacementTable& table, int layer) {
  std::vector<int64_t> kept(state.ranks());
  std::vector<std::vector<int>> next(state.ranks());
  for (int y = 0; y < state.experts(); ++y) next[table[layer + 1][y]].push_back(y);
  for (int x = 0; x < state.experts(); ++x) {
    const int32_t* const row = state.Forward(layer, x);
    const int rank = table[layer][x];
    for (const int y : next[rank]) kept[rank] += row[y];
  }
  return kept;
}

}  // namespace

int64_t TakeBetterParts(const ChainState& state, const PlacementTable& other, PlacementTable* best) {
  CHECK(state.nodes() == 1);
  const int layers = state.layers(), experts = state.experts(), ranks = state.ranks();
  CellSets parts(layers * ranks);
  std::vector<char> differs(static_cast<size_t>(layers) * ranks);
  for (int j = 0; j < layers; ++j) {
    for (int x = 0; x < experts; ++x) {
      const int here = j * ranks + (*best)[j][x], there = j * ranks + other[j][x];
      if (here == there) continue;
      differs[here] = differs[there] = 1;
      parts.Merge(here, there);
    }
  }
  for (int cell = 0; cell + ranks < layers * ranks; ++cell) {
    if (differs[cell] != 0 && differs[cell + ranks] != 0) parts.Merge(cell, cell + ranks);
  }
  std::vector<int64_t> gain(differs.size());  // of a part, at the cell that stands for it
  for (int j = 0; j + 1 < layers; ++j) {
    const std::vector<int64_t> now = KeptByRank(state, *best, j), then = KeptByRank(state, other, j);
    for (int r = 0; r < ranks; ++r) {
      const int cell = j * ranks + r, owner = differs[cell] != 0 ? cell : cell + ranks;
      if (differs[owner] != 0) gain[parts.Of(owner)] += state.rank_gain() * (then[r] - now[r]);
    }
  }
  int64_t fell = 0;
  for (size_t cell = 0; cell < gain.size(); ++cell) {
    if (gain[cell] > 0) fell += gain[cell];
  }
  for (int j = 0; j < layers; ++j) {
    for (int x = 0; x < experts; ++x) {
      int& rank = (*best)[j][x];
      if (rank != other[j][x] && gain[parts.Of(j * ranks + rank)] >= 0) rank = other[j][x];
    }
  }
  return fell;
}

}  // namespace conclave
