#include "parallel/task_assignment.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace conclave {
namespace {

std::vector<int> TasksInEqualParts(int tasks, int ranks) {
  std::vector<int> count(tasks);
  for (int i = 0; i < tasks; ++i) count[i] = (ranks - i + tasks - 1) / tasks;
  return count;
}

// Tasks in runs, one run a rank.
absl::StatusOr<std::vector<int>> FirstWorkersOfPacks(std::span<const int64_t> workers, int ranks) {
  const std::vector<int> rank = PackTasks(workers, ranks);
  std::vector<int> firsts;
  int64_t next = 0;
  for (size_t i = 0; i < rank.size(); ++i) {
    if (i == 0 || rank[i] != rank[i - 1]) firsts.push_back(static_cast<int>(next));
    next += workers[i];
  }
  firsts.push_back(static_cast<int>(next));
  if (static_cast<int>(firsts.size()) == ranks + 1) return firsts;
  std::string order;
  for (int r = 0; r < ranks; ++r) {
    for (size_t i = 0; i < rank.size(); ++i) {
      if (rank[i] == r) absl::StrAppendFormat(&order, "%s%d", order.empty() ? "" : ", ", i);
    }
  }
  return InvalidArgument(
      "parallel.assignment: TASKS_BY_LOAD: %d ranks for %d tasks put tasks together that are not neighbours in data.sources; list the "
      "sources "
      "in the order %s, start %d ranks or more, or set WORKERS",
      ranks, workers.size(), order, workers.size());
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

absl::StatusOr<std::vector<int>> FirstWorkersOf(ParallelConfig::Assignment assignment, std::span<const int64_t> workers, int ranks) {
  const int tasks = static_cast<int>(workers.size());
  if (ranks < tasks) return FirstWorkersOfPacks(workers, ranks);
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
