#include "parallel/task_assignment.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "base/check.h"

namespace conclave {
namespace {

std::vector<int> TasksInEqualParts(int tasks, int ranks) {
  std::vector<int> count(tasks);
  for (int i = 0; i < tasks; ++i) count[i] = (ranks - i + tasks - 1) / tasks;
  return count;
}

// Whether a rank's tasks are neighbours and ranks ascend, so that each has workers of consecutive ids.
bool InRuns(const std::vector<int>& rank) {
  for (size_t i = 1; i < rank.size(); ++i) {
    if (rank[i] != rank[i - 1] && rank[i] != rank[i - 1] + 1) return false;
  }
  return true;
}

std::vector<int> FirstWorkersOfRuns(std::span<const int64_t> workers, const std::vector<int>& rank) {
  std::vector<int> firsts;
  int64_t next = 0;
  for (size_t i = 0; i < rank.size(); ++i) {
    if (i == 0 || rank[i] != rank[i - 1]) firsts.push_back(static_cast<int>(next));
    next += workers[i];
  }
  firsts.push_back(static_cast<int>(next));
  return firsts;
}

}  // namespace

std::vector<int> SpreadTasks(std::span<const int64_t> loads, int ranks) {
  const int tasks = static_cast<int>(loads.size());
  CHECK(tasks > 0 && ranks >= tasks) << ranks << " ranks, " << tasks << " tasks";
  std::vector<int> count(tasks, 1);
  for (int left = ranks - tasks; left > 0; --left) {
    int most = 0;
    for (int i = 1; i < tasks; ++i) {
      if (loads[i] * count[most] > loads[most] * count[i]) most = i;
    }
    ++count[most];
  }
  return count;
}

std::vector<int> PackTasks(std::span<const int64_t> loads, int ranks) {
  std::vector<int> order(loads.size()), rank(loads.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](int a, int b) { return loads[a] > loads[b]; });
  std::vector<int64_t> total(ranks, 0);
  for (const int task : order) {
    rank[task] = static_cast<int>(std::ranges::min_element(total) - total.begin());
    total[rank[task]] += loads[task];
  }
  return rank;
}

std::vector<int> PackNeighbours(std::span<const int64_t> loads, int ranks) {
  const int tasks = static_cast<int>(loads.size());
  std::vector<int64_t> before(tasks + 1, 0);
  for (int i = 0; i < tasks; ++i) before[i + 1] = before[i] + loads[i];
  // best[i]: the least largest load with the first i tasks on the ranks so far; cut[r][i]: where the last of them begins.
  std::vector<int64_t> best(before);
  std::vector<std::vector<int>> cut(ranks, std::vector<int>(tasks + 1, 0));
  for (int r = 1; r < ranks; ++r) {
    std::vector<int64_t> next(tasks + 1, std::numeric_limits<int64_t>::max());
    for (int i = r + 1; i <= tasks; ++i) {
      for (int j = r; j < i; ++j) {
        const int64_t most = std::max(best[j], before[i] - before[j]);
        if (most < next[i]) next[i] = most, cut[r][i] = j;
      }
    }
    best = std::move(next);
  }
  std::vector<int> rank(tasks);
  for (int r = ranks - 1, end = tasks; r >= 0; --r) {
    std::fill(rank.begin() + cut[r][end], rank.begin() + end, r);
    end = cut[r][end];
  }
  return rank;
}

absl::StatusOr<std::vector<int>> FirstWorkersOf(ParallelConfig::Assignment assignment, std::span<const int64_t> workers, int ranks) {
  const int tasks = static_cast<int>(workers.size());
  if (ranks < tasks) {
    const std::vector<int> packed = PackTasks(workers, ranks);
    return FirstWorkersOfRuns(workers, InRuns(packed) ? packed : PackNeighbours(workers, ranks));
  }
  const std::vector<int> count =
      assignment == ParallelConfig::TASKS_BY_LOAD ? SpreadTasks(workers, ranks) : TasksInEqualParts(tasks, ranks);
  std::vector<int> firsts;
  int64_t begin = 0;
  for (int i = 0; i < tasks; ++i) {
    if (workers[i] < count[i]) {
      return InvalidArgument("parallel.assignment: task %d has %d workers for %d ranks, and each rank needs one; raise trainer.workers", i,
                             workers[i], count[i]);
    }
    for (int j = 0; j < count[i]; ++j) firsts.push_back(static_cast<int>(begin + workers[i] * j / count[i]));
    begin += workers[i];
  }
  firsts.push_back(static_cast<int>(begin));
  return firsts;
}

}  // namespace conclave
