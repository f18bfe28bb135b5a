// Column deals of ranks that hold two experts of a layer.
#include <algorithm>
#include <cstdlib>

#include "base/simd.h"
#include "parallel/chain_deals.h"
#include "parallel/gumbel_noise.h"

namespace conclave {
namespace {

constexpr int kSlots = 2, kDealt = 2 * kSlots, kWays = 3, kLanes = 16;
constexpr float kMostJoin = 1 << 27;
static_assert(kNoiseRun >= kWays * kLanes);

// Dynamic programming from one layer to the next, a pair of ranks in every lane.
struct DealStep {
  const int32_t* counts;  // transitions, [experts, experts]
  int experts;
  const int32_t *from, *to;  // [4, kLanes]: experts of p, of p, of q and of q, of either layer
  float scale;               // units a token that stays
  const int32_t* before;     // [kWays, kLanes]: value of the ways of the layer before
  const int16_t* noise;      // [kWays, kLanes]
};

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

// Way k puts the first expert together with expert k + 1. join[k, k', lane] becomes what ways k and k' gain over half of all transitions
// (lose where one of the layers changes over), in units, at most 2^27; value[k', lane] the most that layers up to this one gain and end
// with k', less that of way 0.
CONCLAVE_SIMD void AdvanceDeals(const DealStep& in, int32_t* join, int32_t* value) {
  AdvanceLanes(in, reinterpret_cast<DealLanes*>(join), reinterpret_cast<DealLanes*>(value));
}

class DealsOfTwo : public ColumnDeals {
 public:
  explicit DealsOfTwo(const ChainState* state) : ColumnDeals(state), deal_(state->layers()) {}

  int most_pairs() const override { return kLanes; }
  void Deal(std::span<const RankPair> pairs, float temperature, std::span<const uint32_t> words) override;

 private:
  // The deal of one layer, a pair of ranks in every lane.
  struct Layer {
    int32_t experts[kDealt][kLanes];
    int32_t join[kWays][kWays][kLanes];  // with the layer before
    int32_t value[kWays][kLanes];
    int way[kLanes];
    bool over[kLanes];  // the first pair of experts is q's
  };
  void Gather(std::span<const RankPair> pairs, int layer);
  void Choose(int pairs, float temperature, std::span<const uint32_t> words);
  void Settle(std::span<const RankPair> pairs);

  std::vector<Layer> deal_;  // [layers]
};

// Lanes without a pair repeat the last one.
void DealsOfTwo::Gather(std::span<const RankPair> pairs, int layer) {
  Layer& at = deal_[layer];
  for (int i = 0; i < kLanes; ++i) {
    const RankPair pair = pairs[std::min<size_t>(i, pairs.size() - 1)];
    for (int s = 0; s < kSlots; ++s) {
      at.experts[s][i] = HeldBy(layer, pair.p)[s];
      at.experts[kSlots + s][i] = HeldBy(layer, pair.q)[s];
    }
  }
}

// Back from the last layer.
void DealsOfTwo::Choose(int pairs, float temperature, std::span<const uint32_t> words) {
  const int layers = state_->layers();
  for (int j = layers - 1; j >= 0; --j) {
    Layer& at = deal_[j];
    const int16_t* const noise = temperature > 0 ? GumbelNoise(words[j] >> 18) : NoNoise();
    for (int i = 0; i < pairs; ++i) {
      const bool last = j + 1 == layers;
      int best = -1, join = 0;
      int64_t most = 0;
      for (int k = 0; k < kWays; ++k) {
        const int gained = last ? 0 : deal_[j + 1].join[k][deal_[j + 1].way[i]][i];
        const int64_t value = int64_t{at.value[k][i]} + std::abs(gained);
        if (best < 0 || value > most) best = k, most = value, join = gained;
      }
      at.way[i] = best;
      at.over[i] = !last && deal_[j + 1].over[i] != (2 * join + noise[i] - noise[kLanes + i] < 0);
    }
  }
}

void DealsOfTwo::Settle(std::span<const RankPair> pairs) {
  static constexpr int kOthers[kWays][kSlots] = {{2, 3}, {1, 3}, {1, 2}};
  for (size_t i = 0; i < pairs.size(); ++i) {
    int stay = 0;  // layers that stay as they are less layers that change over; ways but the first move as many experts either way
    for (const Layer& at : deal_) stay += at.way[i] != 0 ? 0 : at.over[i] ? -1 : 1;
    for (int j = 0; j < state_->layers(); ++j) {
      const Layer& at = deal_[j];
      const bool over = at.over[i] != (stay < 0);
      int *const first = HeldBy(j, over ? pairs[i].q : pairs[i].p), *const second = HeldBy(j, over ? pairs[i].p : pairs[i].q);
      first[0] = at.experts[0][i];
      first[1] = at.experts[at.way[i] + 1][i];
      second[0] = at.experts[kOthers[at.way[i]][0]][i];
      second[1] = at.experts[kOthers[at.way[i]][1]][i];
    }
  }
}

void DealsOfTwo::Deal(std::span<const RankPair> pairs, float temperature, std::span<const uint32_t> words) {
  // Tokens kept by two layers are half of (all + join).
  const float tokens = static_cast<float>(state_->rank_gain());
  const float scale = temperature > 0 ? 0.5f * kNoiseUnits * tokens / temperature : tokens;
  for (int j = 0; j < state_->layers(); ++j) {
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
  Choose(static_cast<int>(pairs.size()), temperature, words);
  Settle(pairs);
}

}  // namespace

std::unique_ptr<ColumnDeals> MakeDealsOfTwo(const ChainState* state) { return std::make_unique<DealsOfTwo>(state); }

}  // namespace conclave
