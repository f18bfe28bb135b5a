// Whose vectors come to which member of the group that a block is summed over: ranks for replicated blocks, for expert blocks their owners,
// one a data column.
#ifndef CONCLAVE_COMM_WORKER_RANGES_H_
#define CONCLAVE_COMM_WORKER_RANGES_H_

#include <vector>

#include "comm/exchange.h"
#include "comm/reduction_tree.h"

namespace conclave {

// The workers whose vectors come to `member`: those of the rank, or of the data column. As an interval of the tree's leaves.
TreeNode WorkersOf(const WorkerMap& workers, bool expert, int member);
// Of all members.
std::vector<TreeNode> WorkersOfMembers(const ExchangeContext& context, bool expert);
// The inverse: the member to which the worker's vectors come.
int MemberOf(const WorkerMap& workers, bool expert, int worker);

}  // namespace conclave

#endif  // CONCLAVE_COMM_WORKER_RANGES_H_
