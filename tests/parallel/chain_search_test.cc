// The search's bookkeeping against recounting, and that its steps only descend.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <span>

#include "base/rng.h"
#include "parallel/assignment.h"
#include "parallel/chain_annealing.h"
#include "parallel/chain_columns.h"
#include "parallel/chain_crossover.h"
#include "parallel/chain_deals.h"
#include "parallel/chain_search.h"
#include "parallel/markov_trace.h"
#include "tests/parallel/placement_case.h"

namespace conclave {
namespace {

const Topology kTopologies[] = {{.ranks = 4}, {.ranks = 4, .nodes = 2, .intra_cost = 2, .inter_cost = 7}, {.ranks = 4, .nodes = 4}};

int64_t Recount(const RoutingCounts& counts, const ChainState& state) {
  return CountCrossings(counts, state.table(), state.topology()).Cost(state.topology());
}

TEST(ChainState, CostsAreExact) {
  const RoutingCounts counts = RoutingCounts::Of(UniformTrace(5, 12, 500, 1));
  for (const Topology& topology : kTopologies) {
    ChainState state({.counts = &counts, .topology = topology, .current = {}}, RandomTable(5, 12, 4, 1));
    EXPECT_EQ(state.cost(), Recount(counts, state));
    const RngKey key{.seed = 2};
    for (uint64_t i = 0; i < 200; ++i) {
      const int layer = static_cast<int>(key.Below(5, 3 * i)), x = static_cast<int>(key.Below(12, 3 * i + 1));
      const int y = static_cast<int>(key.Below(12, 3 * i + 2));
      const int64_t expected = state.cost() + state.SwapCost(layer, x, y);
      state.Swap(layer, x, y);
      ASSERT_EQ(state.cost(), expected);
      ASSERT_EQ(state.cost(), Recount(counts, state));
    }
    for (int layer = 0; layer < 5; ++layer) {
      state.SetLayer(layer, RandomTable(5, 12, 4, 9)[layer]);
      ASSERT_EQ(state.cost(), Recount(counts, state));
    }
    // The pulls are as if built anew.
    const ChainState fresh({.counts = &counts, .topology = topology, .current = {}}, state.table());
    for (int layer = 0; layer < 5; ++layer) {
      for (int x = 0; x < 12; ++x) {
        for (int p = 0; p < 4; ++p) ASSERT_EQ(state.Pull(layer, p, x), fresh.Pull(layer, p, x));
      }
    }
  }
}

TEST(ChainSearch, StepsOnlyDescend) {
  const RoutingCounts counts = MarkovCounts({.layers = 5, .experts = 16, .tokens = 100'000});
  for (const Topology& topology : kTopologies) {
    for (uint32_t start = 0; start < 4; ++start) {
      ChainState state({.counts = &counts, .topology = topology, .current = {}}, RandomTable(5, 16, 4, 1, start));
      for (void (*step)(ChainState&) : {PairSwaps, Sweep, Descend}) {
        const int64_t before = state.cost();
        step(state);
        EXPECT_LE(state.cost(), before);
        EXPECT_EQ(state.cost(), Recount(counts, state));
        EXPECT_TRUE(IsBalanced(state.table(), 4));
      }
      const PlacementTable end = state.table();
      Descend(state);
      EXPECT_EQ(state.table(), end);  // idempotent
      PairSwaps(state);
      EXPECT_EQ(state.table(), end);  // the end of sweeps is one for swaps
      Anneal(state, {.start = start, .passes = 20});
      EXPECT_EQ(state.cost(), Recount(counts, state));
      EXPECT_TRUE(IsBalanced(state.table(), 4));
    }
  }
}

// A move at temperature 0 is the best of all combinations of a swap or none in each layer: 3 layers, ranks of 2 experts, 5^3 combinations.
TEST(ColumnMoves, EqualBruteForce) {
  const std::vector<uint32_t> words(3, 0);
  for (uint32_t start = 0; start < 20; ++start) {
    for (const Topology& topology : kTopologies) {
      const RoutingCounts counts = RoutingCounts::Of(UniformTrace(3, 8, 200, start));
      const PlacementTable before = RandomTable(3, 8, 4, 3, start);
      const PlacementProblem problem{.counts = &counts, .topology = topology, .current = {}};
      int64_t best = std::numeric_limits<int64_t>::max();
      for (int code = 0; code < 125; ++code) {
        ChainState state(problem, before);
        for (int j = 0, rest = code; j < 3; ++j, rest /= 5) {
          if (rest % 5 == 0) continue;
          std::vector<int> of[4];
          for (int x = 0; x < 8; ++x) of[before[j][x]].push_back(x);
          state.Swap(j, of[1][(rest % 5 - 1) / 2], of[2][(rest % 5 - 1) % 2]);
        }
        best = std::min(best, state.cost());
      }
      ChainState state(problem, before);
      ColumnMoves moves(&state);
      moves.Move(1, 2, 0, words);
      ASSERT_EQ(state.cost(), best) << start;
      ASSERT_EQ(state.cost(), Recount(counts, state));
      moves.Move(3, 0, 0, words);  // its lists followed the first move
      ASSERT_EQ(state.cost(), Recount(counts, state));
      ASSERT_LE(state.cost(), best);
    }
  }
}

// Of all 2^4 choices of layers in which two ranks change everything, the best; in all topologies.
TEST(ColumnMoves, CrossEqualsBruteForce) {
  const std::vector<uint32_t> words(4, 0);
  for (uint32_t start = 0; start < 20; ++start) {
    for (const Topology& topology : kTopologies) {
      const RoutingCounts counts = RoutingCounts::Of(UniformTrace(4, 12, 200, start));
      const PlacementTable before = RandomTable(4, 12, 4, 3, start);
      const PlacementProblem problem{.counts = &counts, .topology = topology, .current = {}};
      int64_t best = std::numeric_limits<int64_t>::max();
      for (int code = 0; code < 16; ++code) {
        PlacementTable table = before;
        for (int j = 0; j < 4; ++j) {
          for (int& rank : table[j]) {
            if ((code >> j & 1) != 0 && (rank == 1 || rank == 2)) rank = 3 - rank;
          }
        }
        best = std::min(best, ChainState(problem, table).cost());
      }
      ChainState state(problem, before);
      ColumnMoves moves(&state);
      moves.Cross(1, 2, 0, words);
      ASSERT_EQ(state.cost(), best) << start;
      moves.Move(1, 2, 0, words);  // its lists followed
      ASSERT_EQ(state.cost(), Recount(counts, state));
      ASSERT_LE(state.cost(), best);
    }
  }
}

// The cost of every way to deal what ranks 1 and 2 of `before` hold, 6 a layer, tried out: the least.
int64_t LeastOfDeals(const PlacementProblem& problem, const PlacementTable& before) {
  constexpr int kPairs[6][2] = {{0, 1}, {0, 2}, {0, 3}, {1, 2}, {1, 3}, {2, 3}};
  int64_t best = std::numeric_limits<int64_t>::max();
  for (int code = 0; code < 6 * 6 * 6; ++code) {
    PlacementTable table = before;
    for (int j = 0, rest = code; j < 3; ++j, rest /= 6) {
      std::vector<int> dealt;
      for (int x = 0; x < static_cast<int>(table[j].size()); ++x) {
        if (before[j][x] == 1 || before[j][x] == 2) dealt.push_back(x);
      }
      for (const int x : dealt) table[j][x] = 2;
      for (const int x : kPairs[rest % 6]) table[j][dealt[x]] = 1;
    }
    best = std::min(best, CountCrossings(*problem.counts, table, problem.topology).Cost(problem.topology));
  }
  return best;
}

// A deal at temperature 0 is the best of all; the two other pairs of ranks beside it come to theirs at the same time.
TEST(ColumnDeals, EqualBruteForce) {
  const std::vector<uint32_t> words(3, 0);
  for (uint32_t start = 0; start < 20; ++start) {
    const RoutingCounts counts = RoutingCounts::Of(UniformTrace(3, 12, 300, start));
    const PlacementTable before = RandomTable(3, 12, 6, 3, start);
    const PlacementProblem problem{.counts = &counts, .topology = {.ranks = 6}, .current = {}};
    const ChainState state(problem, before);
    const std::unique_ptr<ColumnDeals> alone = MakeColumnDeals(&state), together = MakeColumnDeals(&state);
    EXPECT_EQ(alone->cost(), state.cost());
    const RankPair pairs[] = {{1, 2}, {0, 4}, {5, 3}};
    alone->Deal(std::span(pairs).first(1), 0, words);
    ASSERT_EQ(alone->cost(), LeastOfDeals(problem, before)) << start;
    ASSERT_EQ(alone->cost(), ChainState(problem, alone->table()).cost());
    alone->Deal(std::span(pairs).subspan(1), 0, words);
    together->Deal(pairs, 0, words);
    EXPECT_EQ(together->table(), alone->table());
    EXPECT_TRUE(IsBalanced(together->table(), 6));
  }
}

// Of two layers with four experts a rank, all 70 * 70 deals tried out. One deal leaves three ways of a layer out, others at every word: it
// never loses, and deals with several words come to the best.
TEST(ColumnDeals, OfFourEqualBruteForce) {
  for (uint32_t start = 0; start < 10; ++start) {
    const RoutingCounts counts = RoutingCounts::Of(UniformTrace(2, 12, 300, start));
    const PlacementTable before = RandomTable(2, 12, 3, 3, start);
    const PlacementProblem problem{.counts = &counts, .topology = {.ranks = 3}, .current = {}};
    const ChainState state(problem, before);
    int64_t best = state.cost();
    PlacementTable table = before;
    const auto deal = [&](int layer, unsigned hand) {  // bit i: rank 1 gets the i-th expert of ranks 1 and 2
      for (int x = 0, i = 0; x < 12; ++x) {
        if (before[layer][x] != 0) table[layer][x] = (hand >> i++ & 1) != 0 ? 1 : 2;
      }
    };
    for (unsigned first = 0; first < 256; ++first) {
      if (std::popcount(first) != 4) continue;
      deal(0, first);
      for (unsigned second = 0; second < 256; ++second) {
        if (std::popcount(second) != 4) continue;
        deal(1, second);
        best = std::min(best, CountCrossings(counts, table, problem.topology).rank);
      }
    }
    const std::unique_ptr<ColumnDeals> deals = MakeColumnDeals(&state);
    const RankPair pair{1, 2};
    std::vector<uint32_t> words(2);
    int64_t cost = state.cost();
    for (uint64_t i = 0; i < 16; ++i) {
      RngKey{.seed = start}.FillBits(2 * i, words);
      deals->Deal(std::span(&pair, 1), 0, words);
      ASSERT_LE(deals->cost(), cost);
      cost = deals->cost();
      ASSERT_EQ(cost, ChainState(problem, deals->table()).cost());
    }
    EXPECT_EQ(cost, best) << start;
    for (int layer = 0; layer < 2; ++layer) {
      for (int x = 0; x < 12; ++x) EXPECT_EQ(deals->table()[layer][x] == 0, before[layer][x] == 0);  // rank 0 keeps what it held
    }
  }
}

// Two layers whose experts come in the same pairs keep all tokens or none: drawn again and again, in Boltzmann's shares.
TEST(ColumnDeals, ChangeOverInBoltzmannsShares) {
  for (const int slots : {2, 4}) {
    const int experts = 2 * slots, tokens = 20 / slots;
    RoutingCounts counts(2, experts);
    for (int x = 0; x < experts; ++x) counts.transitions(0)[x * experts + x] = tokens;
    const ChainState state({.counts = &counts, .topology = {.ranks = 2}, .current = {}}, ContiguousTable(2, experts, 2));
    const std::unique_ptr<ColumnDeals> deals = MakeColumnDeals(&state);
    const RankPair pair{0, 1};
    const RngKey key{.seed = 5};
    std::vector<uint32_t> words(2);
    int kept = 0, lost = 0, between = 0;
    for (int i = 0; i < 40'000; ++i) {
      key.FillBits(2 * i, words);
      deals->Deal(std::span(&pair, 1), 20, words);
      ++(deals->cost() == 0 ? kept : deals->cost() == 40 ? lost : between);
    }
    EXPECT_GT(between, 1000);
    EXPECT_NEAR(static_cast<double>(kept) / (kept + lost), 1 / (1 + std::exp(-40.0 / 20)), 0.02) << slots;
  }
}

// Three changes that do not touch (two in one layer, one further on): the best of all eight choices, whatever the other two are worth.
TEST(ChainCrossover, TakesTheBestOfAllParts) {
  int taken = 0;
  for (uint32_t start = 0; start < 20; ++start) {
    const RoutingCounts counts = RoutingCounts::Of(UniformTrace(5, 12, 300, start));
    const PlacementTable from = RandomTable(5, 12, 4, 3, start);
    const PlacementProblem problem{.counts = &counts, .topology = {.ranks = 4, .intra_cost = 3, .inter_cost = 3}, .current = {}};
    const auto changed = [&](unsigned parts) {
      PlacementTable table = from;
      const auto exchange = [&](int layer, int p, int q) {  // the first expert of either rank
        const auto x = std::find(from[layer].begin(), from[layer].end(), p), y = std::find(from[layer].begin(), from[layer].end(), q);
        table[layer][x - from[layer].begin()] = q;
        table[layer][y - from[layer].begin()] = p;
      };
      if ((parts & 1) != 0) exchange(1, 0, 1);
      if ((parts & 2) != 0) exchange(1, 2, 3);
      if ((parts & 4) != 0) exchange(3, 0, 2);
      return table;
    };
    int64_t least = std::numeric_limits<int64_t>::max();
    for (unsigned parts = 0; parts < 8; ++parts) least = std::min(least, ChainState(problem, changed(parts)).cost());
    PlacementTable best = from;
    const ChainState state(problem, from);
    const int64_t fell = TakeBetterParts(state, changed(7), &best);
    EXPECT_EQ(ChainState(problem, best).cost(), least) << start;
    EXPECT_EQ(state.cost() - fell, least) << start;
    taken += best != from && best != changed(7) ? 1 : 0;
  }
  EXPECT_GT(taken, 5);  // often neither all nor nothing
}

// Of ranks with more experts than take part in a move, all come to take part: from the worst start annealing finds planted columns of 24.
TEST(ColumnMoves, RotateThroughManyExperts) {
  const PlacementTable planted = RandomTable(4, 48, 2, 1);
  const RoutingCounts counts = RoutingCounts::Of(PlantedTrace(planted, 2, 20'000, 1));
  ChainState state({.counts = &counts, .topology = {.ranks = 2}, .current = {}}, RandomTable(4, 48, 2, 2));
  Anneal(state, {.passes = 300});
  EXPECT_EQ(state.cost(), 0);
}

// Changes that touch are one part: what is said to have fallen did, and neither table is cheaper.
TEST(ChainCrossover, CountsTouchingChangesTogether) {
  for (uint32_t start = 0; start < 30; ++start) {
    const RoutingCounts counts = RoutingCounts::Of(UniformTrace(6, 12, 300, start));
    const PlacementTable from = RandomTable(6, 12, 6, 3, start);
    const PlacementProblem problem{.counts = &counts, .topology = {.ranks = 6}, .current = {}};
    const ChainState state(problem, from);
    ChainState other(problem, from);
    const RngKey key{.seed = start};
    for (uint64_t i = 0; i < 8; ++i) {
      const int layer = static_cast<int>(key.Below(6, 3 * i));
      other.Swap(layer, static_cast<int>(key.Below(12, 3 * i + 1)), static_cast<int>(key.Below(12, 3 * i + 2)));
    }
    PlacementTable best = from;
    const int64_t fell = TakeBetterParts(state, other.table(), &best);
    EXPECT_TRUE(IsBalanced(best, 6));
    EXPECT_EQ(ChainState(problem, best).cost(), state.cost() - fell);
    EXPECT_LE(state.cost() - fell, std::min(state.cost(), other.cost()));
  }
}

// Behind a cut the ranks have other names: swaps would have to pass through worse placements, a renaming repairs it at once.
TEST(ChainSearch, RealignFindsTheRenaming) {
  const PlacementTable planted = ContiguousTable(6, 16, 4);
  const RoutingCounts counts = RoutingCounts::Of(PlantedTrace(planted, 4, 2000, 1));
  PlacementTable cut = planted;
  for (int j = 3; j < 6; ++j) {
    for (int& rank : cut[j]) rank = 3 - rank;
  }
  for (const int nodes : {1, 2}) {
    ChainState state({.counts = &counts, .topology = {.ranks = 4, .nodes = nodes}, .current = {}}, cut);
    EXPECT_EQ(state.cost(), 2000 * (nodes == 1 ? 1 : 2));
    EXPECT_TRUE(Realign(state));
    EXPECT_EQ(state.cost(), 0);
    EXPECT_FALSE(Realign(state));
  }
}

// Both assignment solvers against all permutations.
TEST(Assignment, EqualsBruteForce) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    const RngKey key{.seed = seed};
    constexpr int kItems = 6, kRanks = 3;
    std::vector<int64_t> gain(kItems * kItems);
    for (size_t i = 0; i < gain.size(); ++i) gain[i] = static_cast<int64_t>(key.Below(20, i)) - 10;
    std::vector<int> order(kItems);
    std::iota(order.begin(), order.end(), 0);
    int64_t best = -1000, best_balanced = -1000;
    do {
      int64_t sum = 0, balanced = 0;
      for (int i = 0; i < kItems; ++i) {
        sum += gain[i * kItems + order[i]];
        balanced += gain[order[i] % kRanks * kItems + i];
      }
      best = std::max(best, sum);
      best_balanced = std::max(best_balanced, balanced);
    } while (std::next_permutation(order.begin(), order.end()));
    const std::vector<int> to = BestPermutation(gain, kItems);
    int64_t sum = 0, balanced = 0;
    for (int i = 0; i < kItems; ++i) sum += gain[i * kItems + to[i]];
    EXPECT_EQ(sum, best);
    std::vector<int> ranks{0, 0, 1, 1, 2, 2};
    BestBalanced(std::span(gain).first(kRanks * kItems), kRanks, ranks);
    for (int i = 0; i < kItems; ++i) balanced += gain[ranks[i] * kItems + i];
    EXPECT_EQ(balanced, best_balanced);
    EXPECT_TRUE(IsBalanced({ranks}, kRanks));
    EXPECT_FALSE(BestBalanced(std::span(gain).first(kRanks * kItems), kRanks, ranks));
  }
}

}  // namespace
}  // namespace conclave
