#include "comm/worker_ranges.h"

namespace conclave {

TreeNode WorkersOf(const WorkerMap& workers, bool expert, int member) {
  if (!expert) return {workers.First(member), workers.First(member + 1)};
  return {workers.ColumnFirst(member), workers.ColumnFirst(member) + workers.ColumnCount(member)};
}

std::vector<TreeNode> WorkersOfMembers(const ExchangeContext& context, bool expert) {
  std::vector<TreeNode> ranges;
  const int members = (expert ? context.data : context.world)->size();
  for (int j = 0; j < members; ++j) ranges.push_back(WorkersOf(context.workers, expert, j));
  return ranges;
}

int MemberOf(const WorkerMap& workers, bool expert, int worker) {
  int member = 0;
  while (worker >= WorkersOf(workers, expert, member).hi) ++member;
  return member;
}

}  // namespace conclave
