#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "base/rng.h"
#include "base/simd.h"
#include "parallel/chain_search.h"

namespace conclave {
namespace {

constexpr int kLevels = 4096;

// -ln of the middle of each of kLevels equal parts of (0, 1): Metropolis' rule accepts a cost d at temperature t if d <= -t ln(u).
const std::array<float, kLevels>& MinusLog() {
  static const std::array<float, kLevels> table = [] {
    std::array<float, kLevels> values;
    for (int i = 0; i < kLevels; ++i) values[i] = static_cast<float>(-std::log((i + 0.5) / kLevels));
    return values;
  }();
  return table;
}

// One proposal for every expert of a layer. A word of `bits` gives the partner (low 16 bits) and the level (high 12).
template <bool kNodes>
CONCLAVE_INLINE void Visit(ChainState& state, int layer, const uint32_t* bits, float temperature, const float* minus_log) {
  const int experts = state.experts();
  const int* const rank = state.ranks_of(layer).data();
  const int32_t* const pull = state.rank_pulls(layer);
  const int32_t* const node_pull = state.node_pulls(layer);
  for (int x = 0; x < experts; ++x) {
    const uint32_t word = bits[x];
    const int y = static_cast<int>(((word & 0xFFFF) * static_cast<uint32_t>(experts)) >> 16);
    const int p = rank[x], q = rank[y];
    if (p == q) continue;
    int32_t cost = pull[p * experts + x] - pull[q * experts + x] + pull[q * experts + y] - pull[p * experts + y];
    if constexpr (kNodes) {
      const int n = state.SearchNode(p), m = state.SearchNode(q);
      cost += node_pull[n * experts + x] - node_pull[m * experts + x] + node_pull[m * experts + y] - node_pull[n * experts + y];
    }
    if (static_cast<float>(cost) <= temperature * minus_log[word >> 20]) state.Swap(layer, x, y);
  }
}

// Mean absolute cost of the swaps of expert x with expert x + 1 of the same layer.
double TypicalCost(const ChainState& state) {
  double sum = 0;
  int64_t count = 0;
  for (int j = 0; j < state.layers(); ++j) {
    for (int x = 0; x + 1 < state.experts(); ++x) {
      if (state.ranks_of(j)[x] == state.ranks_of(j)[x + 1]) continue;
      sum += std::abs(static_cast<double>(state.SwapCost(j, x, x + 1)));
      ++count;
    }
  }
  return count == 0 ? 0 : sum / static_cast<double>(count);
}

}  // namespace

void Anneal(ChainState& state, const AnnealOptions& options) {
  const double typical = TypicalCost(state);
  if (typical == 0 || options.rounds < 1) return;
  double temperature = options.hot * typical;
  const double factor = std::pow(options.cold / options.hot, 1.0 / static_cast<double>(options.rounds));
  const float* const minus_log = MinusLog().data();
  const RngKey key{.seed = options.seed, .site = 1, .step = options.start, .kind = RngKind::kPlacement};
  std::vector<uint32_t> bits(static_cast<size_t>(state.layers()) * state.experts());
  for (int64_t round = 0; round < options.rounds; ++round, temperature *= factor) {
    key.FillBits(static_cast<uint64_t>(round) * bits.size(), bits);
    const float t = static_cast<float>(temperature);
    for (int j = 0; j < state.layers(); ++j) {
      const uint32_t* const words = bits.data() + static_cast<size_t>(j) * state.experts();
      if (state.nodes() > 1) {
        Visit<true>(state, j, words, t, minus_log);
      } else {
        Visit<false>(state, j, words, t, minus_log);
      }
    }
  }
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
