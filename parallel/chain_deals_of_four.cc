// Column deals of ranks that hold four experts of a layer.
#include <algorithm>
#include <bit>
#include <cmath>

#include "base/simd.h"
#include "parallel/chain_deals.h"
#include "parallel/gumbel_noise.h"

namespace conclave {
namespace {

constexpr int kHand = 4, kEight = 2 * kHand, kEightWays = 32, kWayChunk = 16, kWayChunks = kEightWays / kWayChunk;
// Bonds are whole numbers up to here. So no sum reaches 2^24 and floats hold all of them exactly.
constexpr float kMostEightBond = 1 << 15;
static_assert(kNoiseRun >= kEightWays);

typedef float WayFloats __attribute__((vector_size(kWayChunk * sizeof(float)), aligned(sizeof(float)), may_alias));
typedef int32_t WayInts __attribute__((vector_size(kWayChunk * sizeof(int32_t)), aligned(sizeof(int32_t)), may_alias));
typedef int16_t WayNoise __attribute__((vector_size(kWayChunk * sizeof(int16_t)), aligned(sizeof(int16_t)), may_alias));

// Ways to part eight experts into two hands of four: +1 for the hand of expert 0. Way 0 parts 0..3 from 4..7, then come the 16 ways that
// differ from it by one expert a hand, then 15 of the 18 that differ by two. The sum of eight numbers with these signs is that of the first
// four with the signs `front` (bit i: expert i + 1 is +1) plus `flip` times that of the last four with `back` (bit i: expert i + 5 has
// the sign of expert 4).
struct EightWays {
  float side[kEight][kEightWays];
  int front[kEightWays], back[kEightWays], flip[kEightWays];
};

constexpr EightWays PartEight() {
  EightWays ways{};
  int found = 0;
  for (int moved = 0; moved <= 2; ++moved) {
    for (unsigned hand = 1; hand < 256 && found < kEightWays; hand += 2) {  // bit i: expert i is +1
      const int stay = std::popcount(hand & 15u);
      if (std::popcount(hand) != kHand || std::min(kHand - stay, stay) != moved) continue;
      for (int x = 0; x < kEight; ++x) ways.side[x][found] = (hand >> x & 1) != 0 ? 1.0f : -1.0f;
      const bool same = (hand >> kHand & 1) != 0;
      ways.front[found] = static_cast<int>(hand >> 1 & 7);
      ways.back[found] = static_cast<int>((same ? hand : ~hand) >> 5 & 7);
      ways.flip[found++] = same ? 1 : -1;
    }
  }
  return ways;
}
constexpr EightWays kEightWay = PartEight();
static_assert(kEightWay.side[1][kEightWays - 1] != 0);

CONCLAVE_INLINE const WayFloats& ChunkOf(const float* x, int chunk) { return reinterpret_cast<const WayFloats*>(x)[chunk]; }

// x0 +- x1 +- x2 +- x3, bit i of the index for x[i + 1].
CONCLAVE_INLINE void SignedQuads(const WayFloats* x, WayFloats* sums) {
#pragma GCC unroll 8
  for (int c = 0; c < 8; ++c) {
    const WayFloats first = (c & 1) != 0 ? x[0] + x[1] : x[0] - x[1];
    const WayFloats last = (c >> 1 & 1) == (c >> 2) ? x[2] + x[3] : x[2] - x[3];
    sums[c] = (c & 2) != 0 ? first + last : first - last;
  }
}

struct EightStep {
  const float* bonds;    // [8, 8]: of the experts of the layer before to those of this one
  const float* before;   // [kEightWays]: value of the ways of the layer before
  const int16_t* noise;  // [kEightWays]
};

template <int chunk>
CONCLAVE_INLINE void AdvanceWays(const EightStep& in, float* value) {
  WayFloats by_expert[kEight], front[8], back[8];
  for (int x = 0; x < kEight; ++x) {
    by_expert[x] = in.bonds[x * kEight] * ChunkOf(kEightWay.side[0], chunk);
    for (int y = 1; y < kEight; ++y) by_expert[x] += in.bonds[x * kEight + y] * ChunkOf(kEightWay.side[y], chunk);
  }
  SignedQuads(by_expert, front);
  SignedQuads(by_expert + kHand, back);
  WayFloats best{};
#pragma GCC unroll 32
  for (int k = 0; k < kEightWays; ++k) {
    const WayFloats join =
        kEightWay.flip[k] > 0 ? front[kEightWay.front[k]] + back[kEightWay.back[k]] : front[kEightWay.front[k]] - back[kEightWay.back[k]];
    const WayFloats sum = in.before[k] + (join < 0 ? -join : join);
    best = k == 0 || sum > best ? sum : best;
  }
  const WayNoise noise = reinterpret_cast<const WayNoise*>(in.noise)[chunk];
  reinterpret_cast<WayFloats*>(value)[chunk] = best + __builtin_convertvector(noise, WayFloats);
}

// value[k] becomes the most that layers up to this one gain and end with way k, less that of way 0.
CONCLAVE_SIMD void AdvanceEight(const EightStep& in, float* value) {
  AdvanceWays<0>(in, value);
  AdvanceWays<1>(in, value);
  const float first = value[0];
  for (int k = 0; k < kEightWays; ++k) value[k] -= first;
}

// join[k]: what way k of one layer gains with way `next` of the layer after it over half of all transitions. Returns the way with which
// value and that are most, the first of equals.
CONCLAVE_INLINE int ChooseEightLanes(const float* bonds, const float* value, int next, float* join) {
  WayFloats sums[kWayChunks] = {}, total[kWayChunks];
  for (int x = 0; x < kEight; ++x) {
    float bond = 0;
    for (int y = 0; y < kEight; ++y) bond += kEightWay.side[y][next] * bonds[x * kEight + y];
    for (int c = 0; c < kWayChunks; ++c) sums[c] += bond * ChunkOf(kEightWay.side[x], c);
  }
  for (int c = 0; c < kWayChunks; ++c) {
    reinterpret_cast<WayFloats*>(join)[c] = sums[c];
    total[c] = ChunkOf(value, c) + (sums[c] < 0 ? -sums[c] : sums[c]);
  }
  WayFloats most = total[0];
  for (int c = 1; c < kWayChunks; ++c) most = total[c] > most ? total[c] : most;
  float best = most[0];
  for (int i = 1; i < kWayChunk; ++i) best = most[i] > best ? most[i] : best;
  int way = 0;
  while (reinterpret_cast<const float*>(total)[way] != best) ++way;
  return way;
}

CONCLAVE_SIMD int ChooseEight(const float* bonds, const float* value, int next, float* join) {
  return ChooseEightLanes(bonds, value, next, join);
}

CONCLAVE_INLINE void ScaleLanes(const int32_t* counts, float scale, float* bonds) {
  for (int c = 0; c < kEight * kEight / kWayChunk; ++c) {
    WayFloats units = scale * __builtin_convertvector(reinterpret_cast<const WayInts*>(counts)[c], WayFloats);
    units = units < kMostEightBond ? units : WayFloats{} + kMostEightBond;
    reinterpret_cast<WayFloats*>(bonds)[c] = __builtin_convertvector(__builtin_convertvector(units, WayInts), WayFloats);
  }
}

// Bonds in whole units. counts, bonds: [8, 8].
CONCLAVE_SIMD void ScaleBonds(const int32_t* counts, float scale, float* bonds) { ScaleLanes(counts, scale, bonds); }

class DealsOfFour : public ColumnDeals {
 public:
  explicit DealsOfFour(const ChainState* state) : ColumnDeals(state), deal_(state->layers()) {
    for (int j = 0; j + 1 < state->layers(); ++j) {
      most_ = std::max(most_, *std::max_element(state->Forward(j, 0), state->Forward(j, 0) + state->experts() * state->experts()));
    }
  }

  int most_pairs() const override { return 1; }
  void Deal(std::span<const RankPair> pairs, float temperature, std::span<const uint32_t> words) override;

 private:
  struct Layer {
    int experts[kEight];           // of p and then of q
    float bonds[kEight * kEight];  // to the next layer
    float value[kEightWays];
    int way;
    bool over;  // the hand of expert 0 is q's
  };
  void ReadBonds(int layer, float scale);
  void Choose(float temperature, std::span<const uint32_t> words);
  void Settle(RankPair pair);

  int32_t most_ = 1;         // the heaviest transition
  std::vector<Layer> deal_;  // [layers]
};

void DealsOfFour::ReadBonds(int layer, float scale) {
  Layer& at = deal_[layer];
  const int* const to = deal_[layer + 1].experts;
  const int32_t* const rows = state_->Forward(layer, 0);
  const int experts = state_->experts();
  int32_t counts[kEight * kEight];
  for (int x = 0; x < kEight; ++x) {
    const int32_t* const row = rows + at.experts[x] * experts;
    for (int y = 0; y < kEight; ++y) counts[x * kEight + y] = row[to[y]];
  }
  ScaleBonds(counts, scale, at.bonds);
}

// Back from the last layer.
void DealsOfFour::Choose(float temperature, std::span<const uint32_t> words) {
  const int layers = state_->layers();
  for (int j = layers - 1; j >= 0; --j) {
    Layer& at = deal_[j];
    const bool last = j + 1 == layers;
    float join[kEightWays];
    at.way = last ? static_cast<int>(std::max_element(at.value, at.value + kEightWays) - at.value)
                  : ChooseEight(at.bonds, at.value, deal_[j + 1].way, join);
    const int16_t* const noise = temperature > 0 ? GumbelNoise(words[j] >> 18) : NoNoise();
    at.over = !last && deal_[j + 1].over != (2 * join[at.way] + static_cast<float>(noise[0] - noise[1]) < 0);
  }
}

void DealsOfFour::Settle(RankPair pair) {
  int stay = 0;
  for (const Layer& at : deal_) {
    for (int x = 0; x < kHand; ++x) stay += (kEightWay.side[x][at.way] > 0) != at.over ? 1 : -1;
  }
  for (int j = 0; j < state_->layers(); ++j) {
    const Layer& at = deal_[j];
    const bool over = at.over != (stay < 0);
    int *first = HeldBy(j, over ? pair.q : pair.p), *second = HeldBy(j, over ? pair.p : pair.q);
    for (int x = 0; x < kEight; ++x) *(kEightWay.side[x][at.way] > 0 ? first : second)++ = at.experts[x];
  }
}

void DealsOfFour::Deal(std::span<const RankPair> pairs, float temperature, std::span<const uint32_t> words) {
  const RankPair pair = pairs[0];
  // Tokens kept by two layers are half of (all + join). Where nothing is random, a unit is a token, or more where bonds would end.
  const float tokens = static_cast<float>(state_->rank_gain());
  const float scale =
      temperature > 0 ? 0.5f * kNoiseUnits * tokens / temperature : std::min(1.0f, kMostEightBond / static_cast<float>(most_));
  for (int j = 0; j < state_->layers(); ++j) {
    Layer& at = deal_[j];
    // Which three ways are left out changes with the order of the experts.
    for (int s = 0; s < kHand; ++s) {
      at.experts[s] = HeldBy(j, pair.p)[(s + (words[j] >> 14)) % kHand];
      at.experts[kHand + s] = HeldBy(j, pair.q)[(s + (words[j] >> 16)) % kHand];
    }
    const int16_t* const noise = temperature > 0 ? GumbelNoise(words[j]) : NoNoise();
    if (j == 0) {
      for (int k = 0; k < kEightWays; ++k) at.value[k] = noise[k];
      continue;
    }
    ReadBonds(j - 1, scale);
    AdvanceEight({.bonds = deal_[j - 1].bonds, .before = deal_[j - 1].value, .noise = noise}, at.value);
  }
  Choose(temperature, words);
  Settle(pair);
}

}  // namespace

std::unique_ptr<ColumnDeals> MakeDealsOfFour(const ChainState* state) { return std::make_unique<DealsOfFour>(state); }

}  // namespace conclave
