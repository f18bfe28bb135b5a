// Replication: the published example, its laws, and the best there is on tiny cases.
#include "parallel/expert_replicas.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "base/rng.h"
#include "parallel/expert_placement.h"

namespace conclave {
namespace {

// The example of the balancer's own documentation: 12 experts, 16 slots, 4 groups, 2 nodes, 8 ranks.
TEST(Replicas, PublishedExample) {
  const ReplicaShape shape{.slots = 16, .groups = 4, .nodes = 2, .ranks = 8};
  const std::vector<double> first{90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86};
  const std::vector<double> second{20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27};
  EXPECT_EQ(PlanReplicas(first, shape)->expert_of, (std::vector<int>{5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1}));
  EXPECT_EQ(PlanReplicas(second, shape)->expert_of, (std::vector<int>{7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1}));
}

std::vector<double> RandomLoad(int experts, uint64_t seed) {
  const RngKey key{.seed = seed};
  std::vector<double> load(experts);
  for (int e = 0; e < experts; ++e) load[e] = static_cast<double>(1 + key.Below(100, e) * key.Below(10, 100 + e));
  return load;
}

TEST(Replicas, EveryExpertHasASlotAndEveryRankItsShare) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    for (const ReplicaShape& shape : {ReplicaShape{.slots = 12, .ranks = 4},
                                      {.slots = 16, .groups = 6, .nodes = 2, .ranks = 4},
                                      {.slots = 24, .groups = 4, .nodes = 4, .ranks = 8},
                                      {.slots = 16, .groups = 3, .nodes = 2, .ranks = 2}}) {
      const std::vector<double> load = RandomLoad(12, seed);
      const auto table = PlanReplicas(load, shape);
      ASSERT_TRUE(table.ok()) << table.status();
      ASSERT_EQ(static_cast<int>(table->expert_of.size()), shape.slots);
      size_t slots = 0;
      for (int e = 0; e < 12; ++e) {
        ASSERT_FALSE(table->slots_of[e].empty()) << e;
        slots += table->slots_of[e].size();
        for (const int slot : table->slots_of[e]) EXPECT_EQ(table->expert_of[slot], e);
      }
      EXPECT_EQ(slots, table->expert_of.size());
      EXPECT_EQ(PlanReplicas(load, shape)->expert_of, table->expert_of);
      // A replica never hurts: no rank carries more than with the same packing of whole experts would the hottest expert alone.
      const double mean = std::accumulate(load.begin(), load.end(), 0.0) / shape.ranks;
      EXPECT_GE(table->MaxRankLoad(load, shape.ranks), mean * (1 - 1e-12));
    }
  }
}

// 4 experts in 6 slots on 2 or 3 ranks, against every way to fill the slots. Greedy is no optimum; longest-first packing of independent
// items is within 4/3 of it, and replicas chosen largest-first keep that here.
TEST(Replicas, CloseToTheBestOfTinyCases) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    const std::vector<double> load = RandomLoad(4, seed);
    for (const int ranks : {2, 3}) {
      ReplicaTable trial{.expert_of = std::vector<int>(6), .slots_of = {}};
      double best = 1e300;
      for (int code = 0; code < 4096; ++code) {
        trial.slots_of.assign(4, {});
        for (int s = 0, rest = code; s < 6; ++s, rest /= 4) {
          trial.expert_of[s] = rest % 4;
          trial.slots_of[rest % 4].push_back(s);
        }
        if (std::any_of(trial.slots_of.begin(), trial.slots_of.end(), [](const auto& slots) { return slots.empty(); })) continue;
        best = std::min(best, trial.MaxRankLoad(load, ranks));
      }
      const double got = PlanReplicas(load, {.slots = 6, .ranks = ranks})->MaxRankLoad(load, ranks);
      EXPECT_GE(got, best * (1 - 1e-12));
      EXPECT_LE(got, best * 4 / 3) << seed << " on " << ranks;
    }
  }
}

TEST(Replicas, Errors) {
  const std::vector<double> load(8, 1.0);
  const auto message = [&](const ReplicaShape& shape) { return std::string(PlanReplicas(load, shape).status().message()); };
  EXPECT_NE(message({.slots = 7}).find("7 slots for 8 experts"), std::string::npos);
  EXPECT_NE(message({.slots = 9, .ranks = 2}).find("9 slots cannot be split evenly over 2 ranks"), std::string::npos);
  EXPECT_NE(message({.slots = 9, .nodes = 2, .ranks = 3}).find("3 ranks cannot be split evenly over 2 nodes"), std::string::npos);
  EXPECT_NE(message({.slots = 8, .groups = 3}).find("8 experts cannot be split evenly into 3 groups"), std::string::npos);
}

TEST(PackEvenly, HeaviestFirstToTheLightest) {
  const std::vector<double> weights{1, 5, 3, 3};
  const Packing packing = PackEvenly(weights, 2);
  EXPECT_EQ(packing.pack, (std::vector<int>{0, 0, 1, 1}));
  EXPECT_EQ(packing.place, (std::vector<int>{1, 0, 0, 1}));
  EXPECT_EQ(PackEvenly(weights, 4).pack, (std::vector<int>{0, 1, 2, 3}));  // one a pack: in order
}

double LargestLoad(const std::vector<double>& load, const std::vector<int>& owners, const std::vector<std::vector<int>>& copies,
                   int ranks) {
  std::vector<double> sum(ranks);
  for (size_t e = 0; e < load.size(); ++e) {
    std::vector<int> hosts = copies[e];
    hosts.insert(std::ranges::upper_bound(hosts, owners[e]), owners[e]);
    const std::vector<double> shares = HostShares(hosts, ranks, {});
    for (int r = 0; r < ranks; ++r) sum[r] += load[e] * shares[r];
  }
  return *std::ranges::max_element(sum);
}

TEST(CopiesOfLayer, GoWhereTheyLevelTheLoad) {
  // One hot expert: a copy on every other rank, and nothing is left to gain from the rest of the room.
  const std::vector<double> hot = {12, 0, 0, 0};
  const std::vector<int> owners = {0, 1, 2, 3};
  EXPECT_EQ(PlanCopiesOfLayer({.load = hot, .owners = owners, .ranks = 4, .per_rank = 2}),
            (std::vector<std::vector<int>>{{1, 2, 3}, {}, {}, {}}));
  // Level already: none.
  const std::vector<double> level = {3, 3, 3, 3};
  EXPECT_EQ(PlanCopiesOfLayer({.load = level, .owners = owners, .ranks = 4, .per_rank = 2}), std::vector<std::vector<int>>(4));
}

TEST(CopiesOfLayer, StayInTheBudgetAndNeverMakeItWorse) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const RngKey key{.seed = seed, .site = 3, .kind = RngKind::kTest};
    std::vector<double> load;
    std::vector<int> owners;
    for (int e = 0; e < 16; ++e) {
      load.push_back(static_cast<double>(key.Below(1000, e)) * (e % 5 == 0 ? 4 : 1));
      owners.push_back(e % 4);
    }
    double before = LargestLoad(load, owners, std::vector<std::vector<int>>(16), 4);
    for (int budget = 0; budget <= 3; ++budget) {
      const auto copies = PlanCopiesOfLayer({.load = load, .owners = owners, .ranks = 4, .per_rank = budget});
      EXPECT_EQ(copies, PlanCopiesOfLayer({.load = load, .owners = owners, .ranks = 4, .per_rank = budget}));
      std::vector<int> held(4);
      for (size_t e = 0; e < copies.size(); ++e) {
        EXPECT_TRUE(std::ranges::is_sorted(copies[e]));
        for (const int rank : copies[e]) {
          EXPECT_NE(rank, owners[e]);
          ++held[rank];
        }
      }
      for (const int count : held) EXPECT_LE(count, budget);
      const double after = LargestLoad(load, owners, copies, 4);
      EXPECT_LE(after, before * (1 + 1e-12)) << "seed " << seed << ", " << budget << " a rank";
      before = after;
    }
  }
}

}  // namespace
}  // namespace conclave
