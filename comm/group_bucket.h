// One bucket of blocks on its way through groups of workers: every group's vectors are added up at its leader, something is done with the
// groups' means between the leaders, and the outcome goes back to those who lead none.
#ifndef CONCLAVE_COMM_GROUP_BUCKET_H_
#define CONCLAVE_COMM_GROUP_BUCKET_H_

#include <functional>
#include <vector>

#include "comm/bucket.h"
#include "comm/exchange.h"
#include "comm/ledger.h"
#include "comm/reduction_tree.h"

namespace conclave {

// Workers 0 .. size - 1 are group 0, and so on. Members are ranks for replicated blocks, data columns for expert blocks. Where there are at
// least as many members as groups a group's leader hosts its first worker, so that no member leads two; else its last one, so that every
// member leads as WorkerMap hosts.
struct WorkerGroups {
  int size = 1;    // workers of a group
  int groups = 1;  // M / size
  int LeaderOf(const WorkerMap& workers, bool expert, int group) const;
};

// Used by all members alike: Begin, Put (each lane's workers in order), Start, FinishSums, StartBack, Deliver. Memory: as many vectors as
// the reduction trees of the own workers' groups need, and the sums received. The trees stand over the workers of a group, so the means'
// bits depend on no rank.
class GroupBucket {
 public:
  using Take = std::function<absl::Status(int group, BlockId block, const Tensor& mean)>;
  GroupBucket(const ExchangeContext& context, BucketPlan plan, const WorkerGroups& groups);

  void Begin();
  // block: index in the plan. Errors: Internal for a vector that came already, after a later one, or is of another rank's worker.
  absl::Status Put(WorkerId worker, int block, const Tensor& span);
  bool full() const { return puts_ == expected_; }
  absl::Status Start();                        // what never came is +0; posts the sums for other leaders
  absl::Status FinishSums(const Take& take);   // waits; take is called with the mean of every group led here, by group and block
  absl::Status StartBack(const FlatVector*);   // the outcome, where this member leads
  absl::Status Deliver(const FlatVector& to);  // waits for it
  bool leads() const { return !led_.empty(); }
  // Of the way to the leaders and back: with one worker a rank for replicated blocks, what this rank really sends for expert blocks.
  const LogicalWire& logical() const { return logical_; }

 private:
  // Workers of one source and one group, whose vectors arrive in order.
  struct Lane {
    int first = 0, last = 0;  // worker ids first .. last - 1
    int group = 0;
    int first_slot = 0;
    std::vector<TreeAccumulator> sums;  // by block
  };
  // A run of partial sums of one group, from one member.
  struct Pieces {
    int group = 0, member = 0;
    std::vector<TreeNode> nodes;
    int64_t offset = 0;  // in sent_ or received_, bytes; own ones that stay here: unused
  };
  void PlanLanes(const ExchangeContext& context);
  void PlanUp(const ExchangeContext& context);
  void PlanBack(const ExchangeContext& context);
  void PlanLogical(const ExchangeContext& context);
  Pieces PiecesOf(const ExchangeContext& context, int member, int group) const;
  void ClosePartials();
  std::byte* Slot(int slot) const { return memory_.data() + slot * slot_bytes_; }

  const WorkerGroups groups_;
  const DType dtype_;
  const bool expert_;
  Communicator* const group_;
  std::vector<BlockId> blocks_;
  std::vector<int64_t> offsets_, sizes_;  // by block, bytes in a slot and elements
  int64_t elements_ = 0, bytes_ = 0, slot_bytes_ = 0;
  std::vector<Lane> lanes_;
  Buffer memory_, sent_, received_, outcome_;
  std::vector<std::vector<Partial>> own_;  // by own group, from own_first_ on
  int own_first_ = 0;
  std::vector<Pieces> going_, coming_;  // to other leaders; from other members
  std::vector<int> led_;                // groups
  std::vector<int64_t> send_bytes_, send_offsets_, recv_bytes_, recv_offsets_;
  std::vector<int64_t> back_send_, back_recv_, back_offsets_;
  std::vector<Partial> merged_;
  Request request_;
  LogicalWire logical_;
  int64_t puts_ = 0, expected_ = 0;
  bool started_ = false;
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_GROUP_BUCKET_H_
