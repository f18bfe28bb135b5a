#include "parallel/chain_columns.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "parallel/gumbel_noise.h"
#include "parallel/swap_program.h"

namespace conclave {
namespace {

constexpr int kMost = ColumnMoves::kMostCandidates;
// A unit of the program is a unit of noise: bonds end at 256 temperatures, prices at 500.
constexpr float kUnits = kNoiseUnits;
static_assert(kNoiseRun > kMostLanes);

// Units a token. Where nothing is random, a unit is a token.
float ScaleAt(float temperature) { return temperature > 0 ? kUnits / temperature : 1; }

int16_t InUnits(int32_t price, float scale) {
  return static_cast<int16_t>(std::clamp(scale * static_cast<float>(price), -1.0f * kMostPrice, 1.0f * kMostPrice));
}

}  // namespace

ColumnMoves::ColumnMoves(ChainState* state)
    : state_(state),
      layers_(state->layers()),
      slots_(state->experts() / state->ranks()),
      candidates_(static_cast<int>(std::bit_floor(static_cast<uint32_t>(std::min(slots_, kMostCandidates))))),
      held_(static_cast<size_t>(layers_) * state->experts()),
      value_(static_cast<size_t>(layers_) * candidates_ * candidates_),
      stay_(layers_),
      cross_(static_cast<size_t>(layers_) * 2),
      joint_(layers_),
      changed_(layers_),
      chosen_(static_cast<size_t>(layers_) * 2 * candidates_),
      link_(value_.size() * 4 + kLinkPadding) {
  for (int j = 0; j < layers_; ++j) {
    std::vector<int> used(state->ranks());
    for (int x = 0; x < state->experts(); ++x) {
      const int rank = state->ranks_of(j)[x];
      held_[(static_cast<size_t>(j) * state->ranks() + rank) * slots_ + used[rank]++] = x;
    }
  }
}

// What a move sees of one layer.
struct ColumnMoves::Layer {
  int layer, p, q;
  int *at_p, *at_q;  // [slots]
  int* chosen;       // [2 * candidates]
  int16_t *value, *link;
};

ColumnMoves::Layer ColumnMoves::At(int layer, int p, int q) {
  const size_t square = static_cast<size_t>(candidates_) * candidates_;
  int* const held = held_.data() + static_cast<size_t>(layer) * state_->experts();
  return {layer,
          p,
          q,
          held + p * slots_,
          held + q * slots_,
          chosen_.data() + layer * 2 * candidates_,
          value_.data() + layer * square,
          link_.data() + layer * square * 4};
}

// Chooses the candidates; the experts of a rank take turns where they are more.
void ColumnMoves::Choose(const Layer& at, uint32_t word) {
  const int n = candidates_;
  if (slots_ > n) {
    // Rotations by other amounts: every expert takes its turn beside every other.
    std::rotate(at.at_p, at.at_p + 1 + (word & 0xFF) % (slots_ - 1), at.at_p + slots_);
    std::swap(at.at_q[word % n], at.at_q[n + (word >> 8) % (slots_ - n)]);
    std::rotate(at.at_q, at.at_q + 1 + (word >> 8 & 0xFF) % (slots_ - 1), at.at_q + slots_);
  }
  std::copy_n(at.at_p, n, at.chosen);
  std::copy_n(at.at_q, n, at.chosen + n);
}

// Prices the candidates' swaps with everything else in place, and joins them with the layers before.
void ColumnMoves::Advance(const Layer& at, float temperature, float gain, uint32_t word) {
  const int n = candidates_, j = at.layer;
  const float scale = ScaleAt(temperature);
  int16_t prices[kMostLanes] = {};
  for (int i = 0; i < n; ++i) {
    prices[i] = InUnits(state_->Pull(j, at.p, at.at_p[i]) - state_->Pull(j, at.q, at.at_p[i]), scale);
    prices[n + i] = InUnits(state_->Pull(j, at.q, at.at_q[i]) - state_->Pull(j, at.p, at.at_q[i]), scale);
  }
  const int16_t* const noise = temperature > 0 ? GumbelNoise(word >> 18) : NoNoise();
  SwapLayer layer{.experts = state_->experts(), .to = at.chosen, .bond_scale = gain * scale, .prices = prices, .noise = noise};
  if (j > 0) {
    const Layer before = At(j - 1, at.p, at.q);
    layer.counts = state_->Forward(j - 1, 0);
    layer.from = before.chosen;
    layer.value_before = before.value;
    layer.stay_before = stay_[j - 1];
  }
  stay_[j] = static_cast<int16_t>(-noise[n * n]);
  AdvanceSwaps(n, layer, at.link, at.value, &stay_[j]);
}

// The best swap of a layer, x * n + y, or -1 for none, given that of the layer behind.
int ColumnMoves::Pick(int layer, int p, int q, int behind) {
  const int n = candidates_;
  if (behind < 0 && stay_[layer] == 0) return -1;  // nothing is less
  int a[kMost] = {}, b[kMost] = {};
  if (behind >= 0) {
    const int16_t* const link = At(layer + 1, p, q).link;
    const int x = behind / n, y = n + behind % n;
    for (int i = 0; i < n; ++i) a[i] = 2 * (link[i * 2 * n + y] - link[i * 2 * n + x]);
    for (int i = 0; i < n; ++i) b[i] = 2 * (link[(n + i) * 2 * n + x] - link[(n + i) * 2 * n + y]);
  }
  const int16_t* const value = At(layer, p, q).value;
  int best = stay_[layer], swap = -1;
  for (int x = 0; x < n; ++x) {
    int least = value[x * n] + b[0];
    for (int y = 1; y < n; ++y) least = std::min(least, value[x * n + y] + b[y]);
    if (least + a[x] >= best) continue;
    best = least + a[x];
    swap = x * n;
    while (value[swap] + b[swap - x * n] != least) ++swap;
  }
  return swap;
}

void ColumnMoves::Move(int p, int q, float temperature, std::span<const uint32_t> words) {
  const bool apart = state_->SearchNode(p) != state_->SearchNode(q);
  const float gain = static_cast<float>(state_->rank_gain() + (apart ? state_->node_gain() : 0));
  for (int j = 0; j < layers_; ++j) {
    const Layer at = At(j, p, q);
    Choose(at, words[j]);
    Advance(at, temperature, gain, words[j]);
  }
  int swap = -1;
  for (int j = layers_ - 1; j >= 0; --j) {
    swap = Pick(j, p, q, swap);
    // Layers before read the links alone, so this one may change at once.
    if (swap < 0) continue;
    const Layer at = At(j, p, q);
    int *const x = at.at_p + swap / candidates_, *const y = at.at_q + swap % candidates_;
    state_->Swap(j, *x, *y);
    std::swap(*x, *y);
  }
}

void ColumnMoves::Cross(int p, int q, float temperature, std::span<const uint32_t> words) {
  const bool apart = state_->SearchNode(p) != state_->SearchNode(q);
  const int64_t gain = state_->rank_gain() + (apart ? state_->node_gain() : 0);
  for (int j = 0; j < layers_; ++j) {
    const Layer at = At(j, p, q);
    int64_t alone = 0;  // cost of changing this layer and no other
    for (int i = 0; i < slots_; ++i) {
      alone += state_->Pull(j, p, at.at_p[i]) - state_->Pull(j, q, at.at_p[i]);
      alone += state_->Pull(j, q, at.at_q[i]) - state_->Pull(j, p, at.at_q[i]);
    }
    const int16_t* const noise = GumbelNoise(words[j] >> 18);
    const float unit = temperature / kUnits;
    float kept = -unit * noise[0], changed = static_cast<float>(alone) - unit * noise[1];
    if (j > 0) {
      const Layer before = At(j - 1, p, q);
      int64_t joined = 0;
      for (int i = 0; i < slots_; ++i) {
        const int32_t *const to_p = state_->Backward(j - 1, at.at_p[i]), *const to_q = state_->Backward(j - 1, at.at_q[i]);
        for (int k = 0; k < slots_; ++k)
          joined += to_p[before.at_p[k]] - to_p[before.at_q[k]] + to_q[before.at_q[k]] - to_q[before.at_p[k]];
      }
      joint_[j] = static_cast<float>(2 * gain * joined);
      const float was_kept = cross_[2 * j - 2], was_changed = cross_[2 * j - 1];
      kept += std::min(was_kept, was_changed);
      changed += std::min(was_kept, was_changed - joint_[j]);
    }
    cross_[2 * j] = kept, cross_[2 * j + 1] = changed;
  }
  // Back from the last layer. Inside a node two ranks have no names: then whichever of the two outcomes changes fewer layers.
  bool change = cross_[2 * layers_ - 1] < cross_[2 * layers_ - 2];
  int changes = 0;
  for (int j = layers_ - 1; j >= 0; --j) {
    changed_[j] = change;
    changes += change;
    if (j > 0) change = cross_[2 * j - 1] - (change ? joint_[j] : 0) < cross_[2 * j - 2];
  }
  const char wanted = apart || 2 * changes <= layers_;
  for (int j = 0; j < layers_; ++j) {
    if (changed_[j] != wanted) continue;
    const Layer at = At(j, p, q);
    for (int i = 0; i < slots_; ++i) {
      state_->Swap(j, at.at_p[i], at.at_q[i]);
      std::swap(at.at_p[i], at.at_q[i]);
    }
  }
}

}  // namespace conclave
