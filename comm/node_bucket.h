// One bucket of an exact exchange in two levels: ranks of a node add up their vectors before anything leaves the node, and what comes back
// to a node is spread inside of it. The additions are those of the reduction tree over ranks: the bits of a TreeBucket that folds.
//
// Bytes sent between nodes, for a bucket of n bytes on N nodes: 2 n (N - 1) / N a node, however many ranks it has.
#ifndef CONCLAVE_COMM_NODE_BUCKET_H_
#define CONCLAVE_COMM_NODE_BUCKET_H_

#include <vector>

#include "comm/bucket.h"
#include "comm/ledger.h"
#include "comm/reduction_tree.h"

namespace conclave {

// Of replicated blocks, FIXED_MESH. All memory is taken at construction: the bucket, and what one rank receives.
class NodeBucket final : public VectorBucket {
 public:
  // Whether this kind can serve the context: FIXED_MESH, all workers, and nodes with a power of two of ranks, more than
  // one.
  static bool Serves(const ExchangeContext& context);

  NodeBucket(const ExchangeContext& context, const BucketPlan& plan);

  void Begin() override;
  absl::Status Put(WorkerId worker, int block, const Tensor& span, bool folded) override;
  bool full() const override { return full_blocks_ == static_cast<int>(blocks_.size()); }
  absl::Status Start() override;
  absl::Status Poll() override;
  absl::StatusOr<bool> SumsArrived() override;
  absl::Status FinishSums() override;
  absl::Status Deliver(const FlatVector& aggregate) override;

 private:
  struct Block {
    BlockId id;
    int64_t offset = 0, elements = 0;  // in the bucket
    int puts = 0;
  };
  // One all-to-all of parts of the bucket.
  struct Hop {
    std::vector<int64_t> send_bytes, send_offsets, recv_bytes, recv_offsets;
    Request request;
  };
  // The bucket is cut into parts by (local rank, node): those of one local rank lie together.
  int64_t PartBegin(int local, int node) const {
    return elements_ * (int64_t{local} * nodes_ + node) / (int64_t{locals_} * nodes_) * width_;
  }
  int64_t RegionBegin(int local) const { return PartBegin(local, 0); }
  int64_t RegionBytes(int local) const { return RegionBegin(local + 1) - RegionBegin(local); }
  int64_t PartBytes(int node) const { return PartBegin(local_, node + 1) - PartBegin(local_, node); }
  void PlanHops();
  // From memory_.
  absl::Status Post(Communicator& group, Hop& hop, std::string_view label, int stream, Buffer* to);
  absl::Status AddInside();   // what came from this node; then the sums go to the nodes that own them
  absl::Status AddBetween();  // what came from the others

  const WorkerMap workers_;
  const DType dtype_;
  const int64_t width_;
  Communicator *const inside_, *const between_;
  const int locals_, local_, nodes_, node_, world_rank_;
  std::vector<Block> blocks_;
  int64_t elements_ = 0;
  Buffer memory_, received_;
  Hop in_, out_, back_out_, back_in_;
  LogicalWire logical_;
  Ledger* ledger_;
  std::vector<Partial> partials_;
  int full_blocks_ = 0;
  bool added_inside_ = false;
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_NODE_BUCKET_H_
