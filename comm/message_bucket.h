// One bucket of a lossy exchange in which every rank gets the message of every worker that takes part, decodes them all and adds them by
// the reduction tree over workers: equal bits on every rank and for any number of ranks. Where all codecs have fixed sizes the messages lie
// at fixed places; else each rank first tells the others how long its own are (8 bytes), and they travel without gaps.
#ifndef CONCLAVE_COMM_MESSAGE_BUCKET_H_
#define CONCLAVE_COMM_MESSAGE_BUCKET_H_

#include <memory>
#include <vector>

#include "comm/bucket.h"
#include "comm/compressor.h"
#include "comm/framed_codec.h"
#include "comm/reduction_tree.h"
#include "comm/region_exchange.h"
#include "comm/worker_ranges.h"

namespace conclave {

class MessageBucket final : public Bucket {
 public:
  // codecs: of the plan's blocks, in its order; they outlive the bucket.
  MessageBucket(const ExchangeContext& context, BucketPlan plan, std::vector<const Compressor*> codecs);

  // Names the messages that follow: block and worker are filled in.
  void SetKey(const CodecKey& key) { key_ = key; }
  // block: index in the plan. Returns the payload's bytes. Errors: Internal for a vector that came already, or is of another rank's worker
  // or of one that takes no part.
  absl::StatusOr<int64_t> Put(WorkerId worker, int block, const Tensor& span);
  // After Put and before Start: what every rank will decode it to. x: [elements].
  absl::Status DecodeOwn(WorkerId worker, int block, const Tensor& x) const;

  void Begin() override;
  bool full() const override { return puts_ == static_cast<int64_t>(blocks_.size()) * senders_.count(group_->rank()); }
  absl::Status Start() override;
  absl::Status Poll() override { return messages_exchange_.Poll(); }
  absl::Status FinishSums() override { return messages_exchange_.Post(); }
  absl::Status Deliver(const FlatVector& aggregate) override;

 private:
  struct Block {
    BlockId id;
    const Compressor* codec = nullptr;
    int64_t elements = 0;
    int64_t offset = 0, bytes = 0;  // of its frame, inside one worker's messages
  };
  // Its place until gaps are closed.
  std::span<std::byte> Message(int worker, const Block& block) const {
    return {messages_.data() + senders_.row(worker) * stride_ + block.offset, static_cast<size_t>(block.bytes)};
  }
  CodecKey KeyOf(int worker, const Block& block) const;
  void PlanExchange();
  // Without fixed sizes.
  int64_t CloseGaps();  // between own messages; returns their bytes
  absl::Status FindMessages();

  const int workers_;
  const DType dtype_;
  const bool expert_;
  Communicator* const group_;
  Senders senders_;
  TreeNode own_;  // the workers whose vectors come to this rank
  std::vector<Block> blocks_;
  int64_t stride_ = 0;         // bytes of all of one worker's messages
  Buffer messages_;            // [workers, stride]: rows of those that send
  std::vector<bool> present_;  // [own workers, blocks]
  bool fixed_sizes_ = true;
  RegionExchange messages_exchange_;
  int64_t own_bytes_ = 0;                          // without fixed sizes: of the own messages
  std::vector<std::span<const std::byte>> found_;  // likewise [workers, blocks]: where messages lie
  Buffer decoded_, sums_;                          // one vector; the tree's partial ones
  std::vector<TreeAccumulator> trees_;
  CodecKey key_;
  int64_t puts_ = 0;
  bool started_ = false;
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_MESSAGE_BUCKET_H_
