// How ranks are dealt out to the tasks of a multi-task training whose tasks bring batches of unequal size. Source: Shen et al., 2022
// (SE-MoE), elastic multi-task training.
#ifndef CONCLAVE_PARALLEL_TASK_ASSIGNMENT_H_
#define CONCLAVE_PARALLEL_TASK_ASSIGNMENT_H_

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "proto/parallel.pb.h"

namespace conclave {

// At least as many ranks as tasks: how many ranks each gets, so that the largest load a rank is least. One each, then one more at a time to
// the task with the most load a rank (the lower task among equals), which is optimal. loads: positive.
std::vector<int> SpreadTasks(std::span<const int64_t> loads, int ranks);

// Fewer ranks than tasks: the rank of each task. The heaviest first, each to the rank with the least load so far; the lower task and the
// lower rank among equals. At most 4/3 - 1/(3 ranks) of the least possible largest load (Graham, 1969).
std::vector<int> PackTasks(std::span<const int64_t> loads, int ranks);

// The same with neighbours only, ranks ascending, each with a task at least: the least largest load of all such. Cost: ranks * tasks^2.
std::vector<int> PackNeighbours(std::span<const int64_t> loads, int ranks);

// The first worker of every rank, and the number of workers last, where task i has the next workers[i] of all workers in the order of ids:
// TASKS_EVENLY: tasks take turns in having one rank more; TASKS_BY_LOAD: SpreadTasks. With fewer ranks than tasks both are PackTasks, or
// PackNeighbours where that puts tasks together that are no neighbours, since a rank has workers of consecutive ids. A task's workers are
// dealt evenly to its ranks. Errors: InvalidArgument where a rank would have no worker.
absl::StatusOr<std::vector<int>> FirstWorkersOf(ParallelConfig::Assignment assignment, std::span<const int64_t> workers, int ranks);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_TASK_ASSIGNMENT_H_
