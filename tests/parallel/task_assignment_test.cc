#include "parallel/task_assignment.h"

#include <algorithm>
#include <limits>

#include <gtest/gtest.h>

#include "base/rng.h"

namespace conclave {
namespace {

using Counts = std::vector<int>;
using Loads = std::vector<int64_t>;

TEST(TaskAssignment, SpreadsRanksByLoad) {
  EXPECT_EQ(SpreadTasks(Loads{512, 256, 128, 128}, 8), (Counts{4, 2, 1, 1}));
  EXPECT_EQ(SpreadTasks(Loads{4, 1}, 5), (Counts{4, 1}));
  EXPECT_EQ(SpreadTasks(Loads{1, 1, 1}, 5), (Counts{2, 2, 1}));  // equals: the lower task
  EXPECT_EQ(SpreadTasks(Loads{7}, 3), (Counts{3}));
}

// The least largest load a rank over all ways to deal ranks out.
double BestOf(const Loads& loads, int ranks, size_t task = 0) {
  if (task + 1 == loads.size()) return static_cast<double>(loads[task]) / ranks;
  double best = 1e300;
  for (int r = 1; r <= ranks - static_cast<int>(loads.size() - task - 1); ++r) {
    best = std::min(best, std::max(static_cast<double>(loads[task]) / r, BestOf(loads, ranks - r, task + 1)));
  }
  return best;
}

TEST(TaskAssignment, SpreadingIsOptimal) {
  const RngKey key{.seed = 5, .kind = RngKind::kTest};
  for (uint64_t trial = 0; trial < 200; ++trial) {
    Loads loads;
    for (uint64_t i = 0; i < 4; ++i) loads.push_back(1 + static_cast<int64_t>(key.Below(30, trial * 4 + i)));
    for (const int ranks : {4, 7, 9}) {
      const Counts count = SpreadTasks(loads, ranks);
      double most = 0;
      int sum = 0;
      for (size_t i = 0; i < loads.size(); ++i) {
        most = std::max(most, static_cast<double>(loads[i]) / count[i]);
        sum += count[i];
      }
      EXPECT_EQ(sum, ranks);
      EXPECT_DOUBLE_EQ(most, BestOf(loads, ranks));
    }
  }
}

TEST(TaskAssignment, PacksTheHeaviestFirst) {
  EXPECT_EQ(PackTasks(Loads{5, 4, 3, 3}, 2), (Counts{0, 1, 1, 0}));
  EXPECT_EQ(PackTasks(Loads{1, 9, 2, 2}, 2), (Counts{1, 0, 1, 1}));
  EXPECT_EQ(PackTasks(Loads{3, 3, 3}, 2), (Counts{0, 1, 0}));
}

TEST(TaskAssignment, RanksTakeRunsOfWorkers) {
  const Loads workers{24, 6};
  EXPECT_EQ(*FirstWorkersOf(ParallelConfig::TASKS_BY_LOAD, workers, 4), (Counts{0, 8, 16, 24, 30}));
  EXPECT_EQ(*FirstWorkersOf(ParallelConfig::TASKS_EVENLY, workers, 4), (Counts{0, 12, 24, 27, 30}));
  EXPECT_EQ(*FirstWorkersOf(ParallelConfig::TASKS_EVENLY, workers, 3), (Counts{0, 12, 24, 30}));
  EXPECT_EQ(*FirstWorkersOf(ParallelConfig::TASKS_BY_LOAD, workers, 1), (Counts{0, 30}));
  EXPECT_EQ(*FirstWorkersOf(ParallelConfig::TASKS_BY_LOAD, Loads{9, 2, 3, 3}, 2), (Counts{0, 9, 17}));
}

// The least largest load of all ways to cut the tasks into runs.
int64_t BestCut(const Loads& loads, int ranks, size_t from = 0) {
  int64_t first = 0, best = std::numeric_limits<int64_t>::max();
  for (size_t i = from; i + static_cast<size_t>(ranks) <= loads.size(); ++i) {
    first += loads[i];
    if (ranks > 1) best = std::min(best, std::max(first, BestCut(loads, ranks - 1, i + 1)));
  }
  return ranks > 1 ? best : first;
}

TEST(TaskAssignment, PackingNeighboursIsOptimal) {
  const RngKey key{.seed = 6, .kind = RngKind::kTest};
  for (uint64_t trial = 0; trial < 100; ++trial) {
    Loads loads;
    for (uint64_t i = 0; i < 6; ++i) loads.push_back(1 + static_cast<int64_t>(key.Below(30, trial * 6 + i)));
    for (const int ranks : {1, 2, 4, 6}) {
      const Counts rank = PackNeighbours(loads, ranks);
      Loads total(ranks, 0);
      for (size_t i = 0; i < loads.size(); ++i) {
        const int before = i == 0 ? rank[0] : rank[i - 1];
        ASSERT_TRUE(rank[i] == before || rank[i] == before + 1);
        total[rank[i]] += loads[i];
      }
      EXPECT_EQ(rank.front(), 0);
      EXPECT_EQ(rank.back(), ranks - 1);
      EXPECT_EQ(*std::ranges::max_element(total), BestCut(loads, ranks));
    }
  }
}

TEST(TaskAssignment, TasksThatAreNoNeighboursStayApart) {
  EXPECT_EQ(*FirstWorkersOf(ParallelConfig::TASKS_BY_LOAD, Loads{2, 9, 2, 2}, 2), (Counts{0, 11, 15}));
  EXPECT_EQ(*FirstWorkersOf(ParallelConfig::TASKS_EVENLY, Loads{3, 3, 3, 3}, 2), (Counts{0, 6, 12}));
}

TEST(TaskAssignment, RefusesWhatLeavesARankIdle) {
  const auto idle = FirstWorkersOf(ParallelConfig::TASKS_EVENLY, Loads{4, 1}, 4);
  EXPECT_EQ(idle.status().message(),
            "parallel.assignment: task 1 has 1 workers for 2 ranks, and each rank needs one; raise trainer.workers");
}

}  // namespace
}  // namespace conclave
