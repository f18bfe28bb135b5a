// The 16-bit dynamic program of column moves against its definition, and what keeps its sums within 16 bits.
#include "parallel/swap_program.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "base/rng.h"

namespace conclave {
namespace {

struct SwapCase {
  SwapCase(int n, uint64_t seed, int most_count, int most_price)
      : n(n), counts(experts * experts), noise(kMostLanes + 1), prices(kMostLanes) {
    const RngKey key{.seed = seed};
    uint64_t drawn = 0;
    const auto draw = [&](int bound) { return static_cast<int>(key.Below(bound, drawn++)); };
    for (int32_t& count : counts) count = draw(most_count);
    for (int16_t& draw_of : noise) draw_of = static_cast<int16_t>(draw(60) - 10);
    for (int i = 0; i < 2 * n; ++i) prices[i] = static_cast<int16_t>(draw(2 * most_price + 1) - most_price);
    for (int s = 0; s < n * n; ++s) before.push_back(static_cast<int16_t>(draw(kMostValue)));
    stay_before = static_cast<int16_t>(draw(200));
    before[draw(n * n)] = 0;
    from.resize(2 * n);
    std::iota(from.rbegin(), from.rend(), 3);
    to.resize(2 * n);
    for (int i = 0; i < 2 * n; ++i) to[i] = (7 * i + 2) % experts;  // all different: 7 and 32 share no factor
  }
  int Bond(int i, int k) const { return std::min(kMostBond, 3 * counts[from[i] * experts + to[k]]); }
  // By definition, with the least at 0; the last number is that of no swap.
  std::vector<int> Expected() const {
    std::vector<int> all;
    for (int x2 = 0; x2 < n; ++x2) {
      for (int y2 = 0; y2 < n; ++y2) {
        int best = std::min<int>(stay_before, kMostValue);
        for (int x = 0; x < n; ++x) {
          for (int y = 0; y < n; ++y) {
            const int of_x = Bond(x, n + y2) - Bond(x, x2), of_y = Bond(n + y, x2) - Bond(n + y, n + y2);
            best = std::min(best, before[x * n + y] + 2 * of_x + 2 * of_y);
          }
        }
        all.push_back(best + prices[x2] + prices[n + y2] - noise[x2 * n + y2]);
      }
    }
    all.push_back(-noise[n * n]);
    const int least = *std::min_element(all.begin(), all.end());
    for (int& cost : all) cost -= least;
    for (int s = 0; s < n * n; ++s) all[s] = std::min(all[s], kMostValue);
    return all;
  }

  static constexpr int experts = 32;
  int n;
  std::vector<int32_t> counts;
  std::vector<int16_t> noise, prices, before;
  std::vector<int> from, to;
  int16_t stay_before;
};

void ExpectTheDefinition(const SwapCase& given) {
  const int n = given.n;
  std::vector<int16_t> link(4 * n * n + kLinkPadding), value(n * n);
  int16_t stay = static_cast<int16_t>(-given.noise[n * n]);
  const SwapLayer layer{.counts = given.counts.data(),
                        .experts = SwapCase::experts,
                        .from = given.from.data(),
                        .value_before = given.before.data(),
                        .stay_before = given.stay_before,
                        .to = given.to.data(),
                        .bond_scale = 3,
                        .prices = given.prices.data(),
                        .noise = given.noise.data()};
  AdvanceSwaps(n, layer, link.data(), value.data(), &stay);
  const std::vector<int> expected = given.Expected();
  for (int s = 0; s < n * n; ++s) ASSERT_EQ(value[s], expected[s]) << n << " candidates, swap " << s;
  ASSERT_EQ(stay, expected[n * n]);
  for (int i = 0; i < 2 * n; ++i) {
    for (int k = 0; k < 2 * n; ++k) ASSERT_EQ(link[i * 2 * n + k], given.Bond(i, k));
  }
}

TEST(SwapProgram, IsTheLeastOverTheLayerBefore) {
  for (const int n : {1, 2, 4, 8}) {
    for (uint64_t seed = 0; seed < 20; ++seed) ExpectTheDefinition(SwapCase(n, seed, 300, 500));
  }
}

// The largest bonds and prices there may be: nothing leaves 16 bits.
TEST(SwapProgram, NeverOverflows) {
  for (const int n : {1, 2, 4, 8}) {
    for (uint64_t seed = 0; seed < 20; ++seed) {
      SwapCase given(n, seed, 2, kMostPrice);
      for (int32_t& count : given.counts) count *= 1'000'000;
      for (int i = 0; i < 2 * n; ++i) given.prices[i] = given.prices[i] < 0 ? -kMostPrice : kMostPrice;
      ExpectTheDefinition(given);
    }
  }
}

}  // namespace
}  // namespace conclave
