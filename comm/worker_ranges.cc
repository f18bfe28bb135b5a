#include "comm/worker_ranges.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

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

Senders::Senders(const ExchangeContext& context, bool expert)
    : participants_(context.participants),
      ranges_(WorkersOfMembers(context, expert)),
      counts_(ranges_.size()),
      rows_(static_cast<size_t>(context.workers.workers)) {
  CHECK(participants_ == nullptr || participants_->chosen.size() == rows_.size());
  for (size_t j = 0; j < ranges_.size(); ++j) {
    counts_[j] = ranges_[j].hi - ranges_[j].lo;
  }
  std::iota(rows_.begin(), rows_.end(), 0);
  Update();
}

bool Senders::Update() {
  if (participants_ == nullptr) return false;
  for (size_t j = 0; j < ranges_.size(); ++j) {
    counts_[j] = 0;
    for (auto worker = static_cast<size_t>(ranges_[j].lo); worker < static_cast<size_t>(ranges_[j].hi); ++worker) {
      rows_[worker] = participants_->chosen[worker] != 0 ? ranges_[j].lo + counts_[j]++ : -1;
    }
  }
  return true;
}

absl::Status Senders::Check(int member, WorkerId worker, BlockId block) const {
  const TreeNode& own = range(member);
  if (worker.value < own.lo || worker.value >= own.hi) {
    return Internal("exchange: worker %d puts block %d, but workers %d to %d feed this rank", worker.value, block.value, own.lo,
                    own.hi - 1);
  }
  if (row(worker.value) < 0) return Internal("exchange: worker %d takes no part and puts block %d", worker.value, block.value);
  return absl::OkStatus();
}

bool Senders::any(const TreeNode& node) const {
  return std::any_of(rows_.begin() + node.lo, rows_.begin() + node.hi, [](int row) { return row >= 0; });
}

}  // namespace conclave
