#include "parallel/chain_deals.h"

#include <algorithm>
#include <cstdlib>

#include "base/check.h"
#include "base/simd.h"
#include "parallel/gumbel_noise.h"

namespace conclave {
namespace {

constexpr int kDealt = 2 * ColumnDeals::kSlots, kWays = ColumnDeals::kWays, kLanes = ColumnDeals::kLanes;
constexpr float kMostJoin = 1 << 27;
static_assert(kNoiseRun >= kWays * kLanes);

typedef int32_t DealLanes __attribute__((vector_size(kLanes * sizeof(int32_t)), aligned(sizeof(int32_t)), may_alias));
typedef float DealFloats __attribute__((vector_size(kLanes * sizeof(float))));

// Sums over the experts of a layer, signed by which pair they are in: one for each way. x: [kDealt].
CONCLAVE_INLINE void SignedSums(const DealLanes* x, DealLanes* sums) {
  const DealLanes outer = x[0] - x[3], inner = x[1] - x[2];
  sums[0] = outer + inner;
  sums[1] = outer - inner;
  sums[2] = x[0] + x[3] - x[1] - x[2];
}

CONCLAVE_INLINE void ReadNoise(const int16_t* noise, DealLanes* out) {
  int32_t wide[kLanes];
  for (int i = 0; i < kLanes; ++i) wide[i] = noise[i];
  *out = *reinterpret_cast<const DealLanes*>(wide);
}

CONCLAVE_INLINE void DealUnits(float scale, DealLanes* tokens) {
  DealFloats units = scale * __builtin_convertvector(*tokens, DealFloats);
  units = units < kMostJoin ? units : DealFloats{} + kMostJoin;
  units = units > -kMostJoin ? units : DealFloats{} - kMostJoin;
  *tokens = __builtin_convertvector(units, DealLanes);
}

CONCLAVE_INLINE void AdvanceLanes(const DealStep& in, DealLanes* join, DealLanes* value) {
  DealLanes by_expert[kWays][kDealt];  // of every expert of the layer before, to the ways of this one
  for (int x = 0; x < kDealt; ++x) {
    int32_t count[kDealt][kLanes];
    for (int y = 0; y < kDealt; ++y) {
      for (int i = 0; i < kLanes; ++i) count[y][i] = in.counts[in.from[x * kLanes + i] * in.experts + in.to[y * kLanes + i]];
    }
    DealLanes sums[kWays];
    SignedSums(reinterpret_cast<const DealLanes*>(count), sums);
    for (int k = 0; k < kWays; ++k) by_expert[k][x] = sums[k];
  }
  const DealLanes* const before = reinterpret_cast<const DealLanes*>(in.before);
  for (int next = 0; next < kWays; ++next) {
    DealLanes sums[kWays], best, noise;
    SignedSums(by_expert[next], sums);
    for (int k = 0; k < kWays; ++k) {
      DealUnits(in.scale, &sums[k]);
      join[k * kWays + next] = sums[k];
      const DealLanes sum = before[k] + (sums[k] < 0 ? -sums[k] : sums[k]);
      best = k == 0 || sum > best ? sum : best;
    }
    ReadNoise(in.noise + next * kLanes, &noise);
    value[next] = best + noise;
  }
  for (int k = kWays - 1; k >= 0; --k) value[k] -= value[0];
}

}  // namespace

CONCLAVE_SIMD void AdvanceDeals(const DealStep& in, int32_t* join, int32_t* value) {
  AdvanceLanes(in, reinterpret_cast<DealLanes*>(join), reinterpret_cast<DealLanes*>(value));
}

bool ColumnDeals::Serves(const ChainState& state) {
  return state.ranks() > 1 && state.experts() == kSlots * state.ranks() && state.nodes() == 1;
}

ColumnDeals::ColumnDeals(const ChainState* state)
    : state_(state), held_(static_cast<size_t>(state->layers()) * state->experts()), deal_(state->layers()) {
  CHECK(Serves(*state));
  for (int j = 0; j < state->layers(); ++j) {
    std::vector<int> used(state->ranks());
    for (int x = 0; x < state->experts(); ++x) {
      const int rank = state->ranks_of(j)[x];
      held_[static_cast<size_t>(j) * state->experts() + rank * kSlots + used[rank]++] = x;
    }
  }
  ceiling_ = state->cost() - cost();
}

// Lanes without a pair repeat the last one.
void ColumnDeals::Gather(std::span<const RankPair> pairs, int layer) {
  const int* const held = held_.data() + static_cast<size_t>(layer) * state_->experts();
  Layer& at = deal_[layer];
  for (int i = 0; i < kLanes; ++i) {
    const RankPair pair = pairs[std::min<size_t>(i, pairs.size() - 1)];
    for (int s = 0; s < kSlots; ++s) {
      at.experts[s][i] = held[pair.p * kSlots + s];
      at.experts[kSlots + s][i] = held[pair.q * kSlots + s];
    }
  }
}

void ColumnDeals::Settle(std::span<const RankPair> pairs, int layer, const int* way, const bool* over) {
  static constexpr int kOthers[kWays][kSlots] = {{2, 3}, {1, 3}, {1, 2}};
  int* const held = held_.data() + static_cast<size_t>(layer) * state_->experts();
  const Layer& at = deal_[layer];
  for (size_t i = 0; i < pairs.size(); ++i) {
    const int first = (over[i] ? pairs[i].q : pairs[i].p) * kSlots, second = (over[i] ? pairs[i].p : pairs[i].q) * kSlots;
    held[first] = at.experts[0][i];
    held[first + 1] = at.experts[way[i] + 1][i];
    held[second] = at.experts[kOthers[way[i]][0]][i];
    held[second + 1] = at.experts[kOthers[way[i]][1]][i];
  }
}

void ColumnDeals::Deal(std::span<const RankPair> pairs, float temperature, std::span<const uint32_t> words) {
  const int layers = state_->layers();
  // Tokens kept by two layers are half of (all + join).
  const float tokens = static_cast<float>(state_->rank_gain());
  const float scale = temperature > 0 ? 0.5f * kNoiseUnits * tokens / temperature : tokens;
  for (int j = 0; j < layers; ++j) {
    Gather(pairs, j);
    Layer& at = deal_[j];
    const int16_t* const noise = temperature > 0 ? GumbelNoise(words[j]) : NoNoise();
    if (j == 0) {
      for (int k = 0; k < kWays; ++k) {
        for (int i = 0; i < kLanes; ++i) at.value[k][i] = noise[k * kLanes + i];
      }
      continue;
    }
    const Layer& before = deal_[j - 1];
    const DealStep step{.counts = state_->Forward(j - 1, 0),
                        .experts = state_->experts(),
                        .from = before.experts[0],
                        .to = at.experts[0],
                        .scale = scale,
                        .before = before.value[0],
                        .noise = noise};
    AdvanceDeals(step, at.join[0][0], at.value[0]);
  }
  int way[kLanes] = {};
  bool over[kLanes] = {};
  for (int j = layers - 1; j >= 0; --j) {
    const Layer& at = deal_[j];
    const int16_t* const noise = temperature > 0 ? GumbelNoise(words[j] >> 18) : NoNoise();
    for (size_t i = 0; i < pairs.size(); ++i) {
      int best = -1, join = 0;
      int64_t most = 0;
      for (int k = 0; k < kWays; ++k) {
        const int gained = j + 1 < layers ? deal_[j + 1].join[k][way[i]][i] : 0;
        const int64_t value = int64_t{at.value[k][i]} + std::abs(gained);
        if (best < 0 || value > most) best = k, most = value, join = gained;
      }
      way[i] = best;
      if (j + 1 < layers) over[i] ^= 2 * join + noise[i] - noise[kLanes + i] < 0;
    }
    Settle(pairs, j, way, over);
  }
}

int64_t ColumnDeals::cost() const {
  int64_t kept = 0;
  const int experts = state_->experts();
  for (int j = 0; j + 1 < state_->layers(); ++j) {
    const int *const from = held_.data() + static_cast<size_t>(j) * experts, *const to = from + experts;
    for (int s = 0; s < experts; ++s) {
      const int32_t* const row = state_->Forward(j, from[s]);
      for (int t = s / kSlots * kSlots; t < s / kSlots * kSlots + kSlots; ++t) kept += row[to[t]];
    }
  }
  return ceiling_ - state_->rank_gain() * kept;
}

PlacementTable ColumnDeals::table() const {
  PlacementTable table(state_->layers(), std::vector<int>(state_->experts()));
  for (int j = 0; j < state_->layers(); ++j) {
    for (int s = 0; s < state_->experts(); ++s) table[j][held_[static_cast<size_t>(j) * state_->experts() + s]] = s / kSlots;
  }
  return table;
}

}  // namespace conclave
