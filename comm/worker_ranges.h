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

// Whose vectors an exchange has: all workers', or those of context.participants.
class Senders {
 public:
  Senders(const ExchangeContext& context, bool expert);
  // Reads the participants; at every Begin. Whether they may be others than before.
  bool Update();

  const TreeNode& range(int member) const { return ranges_[static_cast<size_t>(member)]; }  // all workers whose vectors come there
  int count(int member) const { return counts_[static_cast<size_t>(member)]; }              // those among them that send
  // Where a worker's vector lies if those of a member lie together, from the place of its first worker on; -1: it does not send.
  int row(int worker) const { return rows_[static_cast<size_t>(worker)]; }
  bool any(const TreeNode& node) const;  // does a worker of the node send?
  // Internal for a worker of any number whose vectors do not come to this member, or that does not send.
  absl::Status Check(int member, WorkerId worker, BlockId block) const;

 private:
  const Participants* participants_;
  std::vector<TreeNode> ranges_;
  std::vector<int> counts_, rows_;
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_WORKER_RANGES_H_
