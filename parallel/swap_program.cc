#include "parallel/swap_program.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "base/simd.h"

namespace conclave {
namespace {

// The swaps (x, y) of n by n candidates as 16-bit lanes, x slowest.
template <int n>
struct SwapLanes {
  static constexpr int kChunks = n == 8 ? 2 : 1, kLanes = std::max(2 * n, n*n / kChunks);
  typedef int16_t Vector __attribute__((vector_size(kLanes * sizeof(int16_t)), aligned(sizeof(int16_t)), may_alias));

  // row: [2n], one number for every x and then one for every y. Lanes (x, y) of a chunk.
  template <int chunk, int... lane>
  CONCLAVE_INLINE static void Spread(const int16_t* row, std::integer_sequence<int, lane...>, Vector* of_x, Vector* of_y) {
    const Vector numbers = *reinterpret_cast<const Vector*>(row);
    *of_x = __builtin_shufflevector(numbers, numbers, ((chunk * kLanes + lane) / n % n)...);
    *of_y = __builtin_shufflevector(numbers, numbers, (n + lane % n)...);
  }
  template <int chunk>
  CONCLAVE_INLINE static void Spread(const int16_t* row, Vector* of_x, Vector* of_y) {
    Spread<chunk>(row, std::make_integer_sequence<int, kLanes>(), of_x, of_y);
  }
};

// One step of the dynamic program: next[x', y'] becomes the least cost of a prefix that leads there. Both layers swapped, the transitions
// x -> x' and y -> y' stay kept, x -> y' and y -> x' stay lost, where the prices of the two swaps alone count all four as changed, at both
// ends. Taking that back splits into a term of x and one of y. value: [n, n] of the layer before; link: [2n, 2n], rows of that layer.
template <int n, int chunk>
CONCLAVE_INLINE void Step(const int16_t* link, const int16_t* value, int16_t stay, typename SwapLanes<n>::Vector* least) {
  using Vector = typename SwapLanes<n>::Vector;
  // Twice (bond to x') - (bond to y') of every y; of every x the other way round.
  Vector of_y[n], to_x, to_y;
  for (int y = 0; y < n; ++y) {
    SwapLanes<n>::template Spread<chunk>(link + (n + y) * 2 * n, &to_x, &to_y);
    of_y[y] = to_x - to_y + to_x - to_y;
  }
  Vector best = Vector{} + stay;
  for (int x = 0; x < n; ++x) {
    Vector inner = value[x * n] + of_y[0];
    for (int y = 1; y < n; ++y) {
      const Vector sum = value[x * n + y] + of_y[y];
      inner = sum < inner ? sum : inner;
    }
    SwapLanes<n>::template Spread<chunk>(link + x * 2 * n, &to_x, &to_y);
    inner += to_y - to_x + to_y - to_x;
    best = inner < best ? inner : best;
  }
  const Vector most = Vector{} + static_cast<int16_t>(kMostValue);
  *least = best < most ? best : most;
}

// The bonds of the experts `from` of one layer to the experts `to` of the next. counts: that layer's transitions, [experts, experts].
template <int n>
CONCLAVE_INLINE void ReadLinks(const int32_t* counts, int experts, const int* from, const int* to, float scale, int16_t* link) {
  for (int i = 0; i < 2 * n; ++i) {
    const int32_t* const row = counts + static_cast<size_t>(from[i]) * experts;
    for (int k = 0; k < 2 * n; ++k) {
      const float bond = scale * static_cast<float>(row[to[k]]);
      link[i * 2 * n + k] = static_cast<int16_t>(static_cast<int32_t>(bond < kMostBond ? bond : kMostBond));
    }
  }
}

template <int n, int chunk>
CONCLAVE_INLINE void AdvanceChunk(const SwapLayer& in, const int16_t* link, int16_t* value) {
  using Vector = typename SwapLanes<n>::Vector;
  Vector way{}, price_x, price_y;
  if (in.value_before != nullptr) Step<n, chunk>(link, in.value_before, in.stay_before, &way);
  SwapLanes<n>::template Spread<chunk>(in.prices, &price_x, &price_y);
  const int lane = chunk * SwapLanes<n>::kLanes;
  *reinterpret_cast<Vector*>(value + lane) = way + price_x + price_y - *reinterpret_cast<const Vector*>(in.noise + lane);
}

template <int n>
CONCLAVE_INLINE void Advance(const SwapLayer& in, int16_t* link, int16_t* value, int16_t* stay) {
  alignas(64) int16_t sum[kMostSwapCandidates * kMostSwapCandidates];
  if (in.value_before != nullptr) ReadLinks<n>(in.counts, in.experts, in.from, in.to, in.bond_scale, link);
  AdvanceChunk<n, 0>(in, link, sum);
  if constexpr (SwapLanes<n>::kChunks == 2) AdvanceChunk<n, 1>(in, link, sum);
  int16_t least = *stay;
  for (int s = 0; s < n * n; ++s) least = std::min(least, sum[s]);
  const int16_t most = static_cast<int16_t>(least + kMostValue);
  for (int s = 0; s < n * n; ++s) value[s] = static_cast<int16_t>(std::min(sum[s], most) - least);
  *stay = static_cast<int16_t>(*stay - least);
}

}  // namespace

CONCLAVE_SIMD void AdvanceSwaps(int candidates, const SwapLayer& in, int16_t* link, int16_t* value, int16_t* stay) {
  switch (candidates) {
    case 1:
      return Advance<1>(in, link, value, stay);
    case 2:
      return Advance<2>(in, link, value, stay);
    case 4:
      return Advance<4>(in, link, value, stay);
    default:
      return Advance<8>(in, link, value, stay);
  }
}

}  // namespace conclave
