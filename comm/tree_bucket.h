// One bucket of an exact exchange: local sums, the pieces' way to the owners of chunks, the rest of the reduction tree, and the sums' way
// back.
#ifndef CONCLAVE_COMM_TREE_BUCKET_H_
#define CONCLAVE_COMM_TREE_BUCKET_H_

#include <string_view>
#include <vector>

#include "base/status.h"
#include "comm/bucket.h"
#include "comm/exchange.h"
#include "comm/ledger.h"
#include "comm/reduction_tree.h"
#include "comm/worker_ranges.h"

namespace conclave {

// What participant `part` of `parts` sends when their vectors are summed chunk by chunk: `pieces` vectors without its own chunk up to the
// owners of chunks, the sum of its own chunk down to everyone. Adds bytes and messages to `wire`.
struct MeanShare {
  int64_t elements = 0, width = 4;  // width: bytes of an element
  int parts = 1, part = 0;
  int64_t pieces = 1;
};
void AddMeanOf(const MeanShare& share, LogicalWire& wire);

struct TreeBucketOptions {
  bool fold = false;  // add a rank's vectors from left to right, ranks are the tree's leaves; otherwise workers are
  bool book = true;   // book the logical bytes
  // Where the means will be delivered. With `fold` and a group of one rank they are formed there, and the bucket has no memory of its own.
  const FlatVector* aggregate = nullptr;
};

// All memory is taken at construction: SlotsNeeded vectors per source rank (one with `fold`), and the received pieces of one chunk.
class TreeBucket final : public VectorBucket {
 public:
  TreeBucket(const ExchangeContext& context, BucketPlan plan, const TreeBucketOptions& options);

  void Begin() override;
  absl::Status Put(WorkerId worker, int block, const Tensor& span, bool folded) override;
  Tensor Place(int block) const override { return direct_ == nullptr ? Tensor() : direct_->block(blocks_[block].id); }
  bool full() const override { return full_blocks_ == static_cast<int>(blocks_.size()); }
  absl::Status Start() override;
  absl::Status Poll() override;
  absl::Status FinishSums() override;
  absl::Status Deliver(const FlatVector& aggregate) override;
  absl::StatusOr<bool> SumsArrived() override;

  absl::Status StartSharing(const FlatVector& point) override;
  absl::Status FinishSharing() override;
  bool sharing() const override { return shared_ != nullptr; }

 private:
  // The workers of one rank that feed this one; their vectors arrive in order.
  struct Lane {
    TreeNode workers;
    int first_slot = 0;
  };
  struct Block {
    BlockId id;
    bool mine = true;                   // this rank is to have the mean
    int64_t offset = 0, elements = 0;   // in the bucket
    std::vector<TreeAccumulator> sums;  // by lane; without fold
    int puts = 0, folded_puts = 0;
  };
  // One all-to-all: the k-th piece of every rank.
  struct Round {
    std::vector<int64_t> send_bytes, send_offsets, recv_bytes, recv_offsets;
    Request request;
  };

  void PlanLanes();
  void PlanChunks(const Layout& layout);
  absl::Status StartWayBack(std::string_view label);
  void PlanBlocks(const Layout& layout, const std::vector<BlockId>& ids);
  void PlanRounds();
  void PlanLogical();
  void ChooseSends();  // of the rounds
  // Whether a vector of the member's piece was put by anyone.
  bool Sends(int member, const TreeNode& piece) const { return fold_ ? senders_.count(member) > 0 : senders_.any(piece); }
  std::byte* Slot(int slot) const { return memory_.data() + slot * slot_bytes_; }
  int64_t ChunkBegin(int member) const { return chunks_[member] * width_; }  // bytes
  int64_t ChunkBytes(int member) const { return ChunkBegin(member + 1) - ChunkBegin(member); }
  void ClosePartials();
  std::byte* SumOf(const Block& block) const;
  void Fold(Block& block, const Tensor& span, bool last);

  const WorkerMap workers_;
  const DType dtype_;
  const int64_t width_;
  const bool expert_, fold_, book_, to_canonical_;
  Communicator* const group_;
  const FlatVector* const direct_;  // the aggregate, where sums are formed in it
  Senders senders_;

  int leaves_ = 0;
  std::vector<Lane> lanes_;
  int slots_ = 0;
  std::vector<Block> blocks_;
  int64_t elements_ = 0, slot_bytes_ = 0;
  std::vector<int64_t> chunks_;  // [members + 1]: where each member's chunk begins, in elements
  Buffer memory_, received_;
  std::vector<std::vector<TreeNode>> covers_;  // the pieces each member ships
  std::vector<Round> rounds_;
  Round means_;
  LogicalWire logical_;

  std::vector<Partial> partials_, pieces_;  // own; all members' of the own chunk
  int full_blocks_ = 0;
  bool started_ = false;
  const FlatVector* shared_ = nullptr;  // the point on its way
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_TREE_BUCKET_H_
