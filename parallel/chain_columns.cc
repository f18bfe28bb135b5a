#include "parallel/chain_columns.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/rng.h"
#include "base/simd.h"

namespace conclave {
namespace {

constexpr int kMost = ColumnMoves::kMostCandidates, kNoiseLength = 1 << 14;

// Independent draws of Gumbel's distribution, -ln(-ln u); a move reads a run of them at a random place.
const std::vector<float>& GumbelNoise() {
  static const std::vector<float> noise = [] {
    std::vector<float> values(kNoiseLength + kMost * kMost + 1);
    const RngKey key{.seed = 0, .site = 3, .kind = RngKind::kPlacement};
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(-std::log(-std::log(key.UniformDouble(i) + 0x1p-60)));
    return values;
  }();
  return noise;
}

// Both layers swapped, the transitions x -> x' and y -> y' stay kept, x -> y' and y -> x' stay lost, where the costs of the two swaps alone
// count all four as changed, at both ends: a[x] + b[y] takes that back. link: [2n, 2n], rows of the layer behind.
CONCLAVE_INLINE void Corrections(const float* __restrict link, int n, int swap, float gain, float* __restrict a, float* __restrict b) {
  const float* const to_x = link + static_cast<size_t>(swap / n) * 2 * n;
  const float* const to_y = link + static_cast<size_t>(n + swap % n) * 2 * n;
  for (int i = 0; i < n; ++i) a[i] = gain * (to_y[i] - to_x[i]);
  for (int i = 0; i < n; ++i) b[i] = gain * (to_x[n + i] - to_y[n + i]);
}

// n floats in one register.
template <int n>
struct Lanes {
  typedef float Vector __attribute__((vector_size(n * sizeof(float)), aligned(sizeof(float)), may_alias));
};

// One step of the dynamic program: adds to next[x', y'] and *next_stay the least cost of a prefix that leads there. value: [n, n] of the
// layer before. Lanes run over y', so that nothing is reduced across a register: the cost of meeting (x', y') is
// value[x, y] + (of x', x and y) + (of y', x) + (of y', y).
template <int n>
CONCLAVE_INLINE void Step(const float* link, const float* value, float stay, float gain, float* next, float* next_stay) {
  using Vector = typename Lanes<n>::Vector;
  float meet_x[n * n], meet_y[n * n];  // [x, y'] and [y, y']
  for (int y2 = 0; y2 < n; ++y2) {
    for (int i = 0; i < n; ++i) meet_x[i * n + y2] = gain * link[(n + y2) * 2 * n + i];
    for (int i = 0; i < n; ++i) meet_y[i * n + y2] = -gain * link[(n + y2) * 2 * n + n + i];
  }
  const Vector* const of_x = reinterpret_cast<const Vector*>(meet_x);
  const Vector* const of_y = reinterpret_cast<const Vector*>(meet_y);
  for (int x2 = 0; x2 < n; ++x2) {
    const float* const to_x = link + x2 * 2 * n;
    float cost[n * n];
    for (int x = 0; x < n; ++x) {
      for (int y = 0; y < n; ++y) cost[x * n + y] = value[x * n + y] + gain * (to_x[n + y] - to_x[x]);
    }
    Vector best = Vector{} + stay;
    for (int x = 0; x < n; ++x) {
      Vector inner = cost[x * n] + of_y[0];
      for (int y = 1; y < n; ++y) {
        const Vector sum = cost[x * n + y] + of_y[y];
        inner = sum < inner ? sum : inner;
      }
      inner += of_x[x];
      best = inner < best ? inner : best;
    }
    *reinterpret_cast<Vector*>(next + x2 * n) += best;
  }
  float best = stay;
  for (int swap = 0; swap < n * n; ++swap) best = std::min(best, value[swap]);
  *next_stay += best;
}

CONCLAVE_SIMD void StepOf(const float* link, const float* value, float stay, int candidates, float gain, float* next, float* next_stay) {
  switch (candidates) {
    case 1:
      return Step<1>(link, value, stay, gain, next, next_stay);
    case 2:
      return Step<2>(link, value, stay, gain, next, next_stay);
    case 4:
      return Step<4>(link, value, stay, gain, next, next_stay);
    default:
      return Step<8>(link, value, stay, gain, next, next_stay);
  }
}

CONCLAVE_SIMD void Gather(const int32_t* __restrict from, const int* __restrict index, int n, float* __restrict out) {
  for (int i = 0; i < n; ++i) out[i] = static_cast<float>(from[index[i]]);
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
      link_(value_.size() * 4) {
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
  float *value, *link;
};

ColumnMoves::Layer ColumnMoves::At(int layer, int p, int q) {
  const size_t square = static_cast<size_t>(candidates_) * candidates_;
  int* const held = held_.data() + static_cast<size_t>(layer) * state_->experts();
  return {layer, p, q, held + p * slots_, held + q * slots_, value_.data() + layer * square, link_.data() + layer * square * 4};
}

// Chooses the candidates, prices their swaps with everything else in place, and reads the transitions from the layer before.
void ColumnMoves::Prepare(const Layer& at, float temperature, uint32_t word) {
  const int n = candidates_, j = at.layer;
  if (slots_ > n) {
    // Rotations by other amounts: every expert takes its turn beside every other.
    std::rotate(at.at_p, at.at_p + 1 + (word & 0xFF) % (slots_ - 1), at.at_p + slots_);
    std::swap(at.at_q[word % n], at.at_q[n + (word >> 8) % (slots_ - n)]);
    std::rotate(at.at_q, at.at_q + 1 + (word >> 8 & 0xFF) % (slots_ - 1), at.at_q + slots_);
  }
  float price_p[kMost], price_q[kMost];
  for (int i = 0; i < n; ++i) {
    price_p[i] = static_cast<float>(state_->Pull(j, at.p, at.at_p[i]) - state_->Pull(j, at.q, at.at_p[i]));
    price_q[i] = static_cast<float>(state_->Pull(j, at.q, at.at_q[i]) - state_->Pull(j, at.p, at.at_q[i]));
  }
  const float* const noise = GumbelNoise().data() + (word >> 18);
  for (int x = 0; x < n; ++x) {
    for (int y = 0; y < n; ++y) at.value[x * n + y] = price_p[x] + price_q[y] - temperature * noise[x * n + y];
  }
  stay_[j] = -temperature * noise[n * n];
  if (j == 0) return;
  const Layer before = At(j - 1, at.p, at.q);
  int index[2 * kMost];
  std::copy_n(before.at_p, n, index);
  std::copy_n(before.at_q, n, index + n);
  for (int i = 0; i < 2 * n; ++i) Gather(state_->Backward(j - 1, i < n ? at.at_p[i] : at.at_q[i - n]), index, 2 * n, at.link + i * 2 * n);
}

void ColumnMoves::Apply(int p, int q, float gain) {
  const int n = candidates_;
  int behind = -1;  // the swap of the layer behind; -1: none
  for (int j = layers_ - 1; j >= 0; --j) {
    const Layer at = At(j, p, q);
    float a[kMost] = {}, b[kMost] = {};
    if (behind >= 0) Corrections(At(j + 1, p, q).link, n, behind, gain, a, b);
    float best = stay_[j];
    int swap = -1;
    for (int s = 0; s < n * n; ++s) {
      const float value = at.value[s] + a[s / n] + b[s % n];
      if (value < best) best = value, swap = s;
    }
    behind = swap;
    // The corrections of the layers before read `link` alone, so this layer may change at once.
    if (swap < 0) continue;
    state_->Swap(j, at.at_p[swap / n], at.at_q[swap % n]);
    std::swap(at.at_p[swap / n], at.at_q[swap % n]);
  }
}

void ColumnMoves::Move(int p, int q, float temperature, std::span<const uint32_t> words) {
  const bool apart = state_->SearchNode(p) != state_->SearchNode(q);
  const float gain = static_cast<float>(2 * (state_->rank_gain() + (apart ? state_->node_gain() : 0)));
  for (int j = 0; j < layers_; ++j) {
    const Layer at = At(j, p, q);
    Prepare(at, temperature, words[j]);
    if (j == 0) continue;
    StepOf(at.link, At(j - 1, p, q).value, stay_[j - 1], candidates_, gain, at.value, &stay_[j]);
    // Only differences count; small numbers keep their digits.
    for (int s = 0; s < candidates_ * candidates_; ++s) at.value[s] -= stay_[j];
    stay_[j] = 0;
  }
  Apply(p, q, gain);
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
    const float* const noise = GumbelNoise().data() + (words[j] >> 18);
    float kept = -temperature * noise[0], changed = static_cast<float>(alone) - temperature * noise[1];
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
