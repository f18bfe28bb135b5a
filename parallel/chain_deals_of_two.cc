// Column deals of ranks that hold two experts of a layer.
#include <algorithm>

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
  const int32_t* counts;  // [4, 4, kLanes]: transitions from experts of p, of p, of q and of q to those of the next layer
  float scale;            // units a token that stays
  const int32_t* before;  // [kWays, kLanes]: value of the ways of the layer before
  const int16_t* noise;   // [kWays, kLanes]
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
    DealLanes sums[kWays];
    SignedSums(reinterpret_cast<const DealLanes*>(in.counts) + x * kDealt, sums);
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

// One layer on the way back from the last.
struct ChoiceStep {
  const int32_t* value;                        // [kWays, kLanes]
  const int32_t *join, *next_way, *next_over;  // with the layer behind, [kWays, kWays, kLanes], and its choice; null in the last layer
  const int16_t* noise;                        // [2, kLanes]
};

CONCLAVE_INLINE void ChooseWays(const ChoiceStep& in, DealLanes* way, DealLanes* over) {
  const DealLanes* const value = reinterpret_cast<const DealLanes*>(in.value);
  DealLanes gained[kWays] = {}, noise[2];
  if (in.join != nullptr) {
    const DealLanes* const join = reinterpret_cast<const DealLanes*>(in.join);
    const DealLanes next = *reinterpret_cast<const DealLanes*>(in.next_way);
    for (int k = 0; k < kWays; ++k) gained[k] = next == 0 ? join[k * kWays] : next == 1 ? join[k * kWays + 1] : join[k * kWays + 2];
  }
  DealLanes most = value[0] + (gained[0] < 0 ? -gained[0] : gained[0]), best{}, chosen = gained[0];
  for (int k = 1; k < kWays; ++k) {
    const DealLanes sum = value[k] + (gained[k] < 0 ? -gained[k] : gained[k]);
    const DealLanes better = sum > most;
    most = better ? sum : most;
    best = better ? DealLanes{} + k : best;
    chosen = better ? gained[k] : chosen;
  }
  *way = best;
  *over = DealLanes{};
  if (in.join == nullptr) return;
  ReadNoise(in.noise, &noise[0]);
  ReadNoise(in.noise + kLanes, &noise[1]);
  *over = *reinterpret_cast<const DealLanes*>(in.next_over) ^ (2 * chosen + noise[0] - noise[1] < 0);
}

// way: the way with which the most is gained, the first of equals; over: -1 where the first pair of experts is q's, else 0.
CONCLAVE_SIMD void ChooseDeals(const ChoiceStep& in, int32_t* way, int32_t* over) {
  ChooseWays(in, reinterpret_cast<DealLanes*>(way), reinterpret_cast<DealLanes*>(over));
}

CONCLAVE_INLINE void HandOutLanes(const DealLanes* experts, DealLanes way, DealLanes over, DealLanes* hands) {
  const DealLanes first[kSlots] = {experts[0], way == 0 ? experts[1] : way == 1 ? experts[2] : experts[3]};
  const DealLanes second[kSlots] = {way == 0 ? experts[2] : experts[1], way == 2 ? experts[2] : experts[3]};
  for (int s = 0; s < kSlots; ++s) {
    hands[s] = over != 0 ? second[s] : first[s];
    hands[kSlots + s] = over != 0 ? first[s] : second[s];
  }
}

// hands, experts: [kDealt, kLanes], what p and q hold after the deal and before it.
CONCLAVE_SIMD void HandOut(const int32_t* experts, const int32_t* way, const int32_t* over, int32_t* hands) {
  HandOutLanes(reinterpret_cast<const DealLanes*>(experts), *reinterpret_cast<const DealLanes*>(way),
               *reinterpret_cast<const DealLanes*>(over), reinterpret_cast<DealLanes*>(hands));
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
    int32_t way[kLanes], over[kLanes];
  };
  void Gather(std::span<const RankPair> pairs, int layer);
  void ReadCounts(int layer);
  void Choose(float temperature, std::span<const uint32_t> words);
  void Settle(std::span<const RankPair> pairs);

  int32_t counts_[kDealt][kDealt][kLanes];  // from the layer before to the one at hand
  std::vector<Layer> deal_;                 // [layers]
};

// One lane after the other: left to itself the compiler takes three times as long to put vectors together.
void DealsOfTwo::ReadCounts(int layer) {
  const Layer &before = deal_[layer - 1], &at = deal_[layer];
  const int32_t* const counts = state_->Forward(layer - 1, 0);
  const int experts = state_->experts();
  for (int i = 0; i < kLanes; ++i) {
    for (int x = 0; x < kDealt; ++x) {
      const int32_t* const row = counts + before.experts[x][i] * experts;
      for (int y = 0; y < kDealt; ++y) counts_[x][y][i] = row[at.experts[y][i]];
    }
  }
}

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
void DealsOfTwo::Choose(float temperature, std::span<const uint32_t> words) {
  const int layers = state_->layers();
  for (int j = layers - 1; j >= 0; --j) {
    const Layer* const next = j + 1 < layers ? &deal_[j + 1] : nullptr;
    const ChoiceStep step{.value = deal_[j].value[0],
                          .join = next == nullptr ? nullptr : next->join[0][0],
                          .next_way = next == nullptr ? nullptr : next->way,
                          .next_over = next == nullptr ? nullptr : next->over,
                          .noise = temperature > 0 ? GumbelNoise(words[j] >> 18) : NoNoise()};
    ChooseDeals(step, deal_[j].way, deal_[j].over);
  }
}

void DealsOfTwo::Settle(std::span<const RankPair> pairs) {
  // Layers that stay as they are less layers that change over; ways but the first move as many experts either way.
  int32_t stay[kLanes] = {};
  for (const Layer& at : deal_) {
    for (int i = 0; i < kLanes; ++i) stay[i] += at.way[i] == 0 ? 1 + 2 * at.over[i] : 0;
  }
  for (int j = 0; j < state_->layers(); ++j) {
    Layer& at = deal_[j];
    int32_t hands[kDealt][kLanes];
    for (int i = 0; i < kLanes; ++i) at.over[i] ^= stay[i] < 0 ? -1 : 0;
    HandOut(at.experts[0], at.way, at.over, hands[0]);
    for (size_t i = 0; i < pairs.size(); ++i) {
      int *const p = HeldBy(j, pairs[i].p), *const q = HeldBy(j, pairs[i].q);
      for (int s = 0; s < kSlots; ++s) p[s] = hands[s][i], q[s] = hands[kSlots + s][i];
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
    ReadCounts(j);
    const DealStep step{.counts = counts_[0][0], .scale = scale, .before = before.value[0], .noise = noise};
    AdvanceDeals(step, at.join[0][0], at.value[0]);
  }
  Choose(temperature, words);
  Settle(pairs);
}

}  // namespace

std::unique_ptr<ColumnDeals> MakeDealsOfTwo(const ChainState* state) { return std::make_unique<DealsOfTwo>(state); }

}  // namespace conclave
