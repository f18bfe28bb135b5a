// CodedMean: the mean over workers of Q_m(x_m), what every lossy exchange rests on. Each block travels in the way that takes fewer bytes in
// all:
//   messages: every rank ships its workers' frames to all others and decodes all of them:      M (32 + payload) (P - 1)
//   sums: it decodes its own workers' messages and ships whole subtrees, as the exact exchange:  about 2 n (P - 1), n the dense bytes
// or, where the config gives the way back a codec of its own, by servers (comm/served_bucket.h):  about 2 M (32 + payload)
// It always adds by the reduction tree over workers, so its bits depend neither on ranks nor on buckets. Blocks with an identity codec
// travel as sums, and their bits are those of the exact exchange. With context.participants M is the number of those that take part, but
// for the way back of sums and of served parts. A vector that is not finite makes the mean NaN on every rank.
#ifndef CONCLAVE_COMM_CODED_MEAN_H_
#define CONCLAVE_COMM_CODED_MEAN_H_

#include <memory>
#include <optional>
#include <vector>

#include "comm/block_codecs.h"
#include "comm/bucket.h"
#include "comm/exchange.h"
#include "comm/ledger.h"
#include "comm/message_bucket.h"
#include "comm/served_bucket.h"
#include "comm/tree_bucket.h"
#include "comm/worker_ranges.h"

namespace conclave {

// Used by all ranks alike: Begin, any number of Put, Finish. The vectors of one source rank come in the order of its workers.
class CodedMean {
 public:
  // Drops the codecs of blocks that are not local. The ways are planned with every decision of context.decisions, if there are any.
  CodedMean(const ExchangeContext& context, BlockCodecs codecs);
  CodedMean(const CodedMean&) = delete;
  CodedMean& operator=(const CodedMean&) = delete;

  // Whether the block's codec loses nothing.
  bool lossless(BlockId block) const { return lossless_[block.value]; }
  const BlockCodecs& codecs() const { return codecs_; }
  // From the first decision on: whether the block's vectors go as they are.
  bool exact(BlockId block) const { return exact_[block.value]; }
  // Called for every part served here, for lossy blocks; outlives the object. Without it means go down as they came up.
  void SetServer(PartServer* server);

  void Begin(uint32_t step, uint32_t draw);
  // Encodes and ships worker m's vector; what never comes counts as +0. decoded: where not null, receives Q_m(x): [elements].
  absl::Status Put(WorkerId worker, BlockId block, const Tensor& x, const Tensor* decoded = nullptr);
  // Books the logical bytes. The mean is valid until the next Begin.
  absl::StatusOr<Aggregate> Finish();
  // The lowest worker's lowest block that this rank sent as poison since Begin; null: none.
  const PoisonCause* poison() const { return cause_.index < 0 ? nullptr : &cause_; }

 private:
  // Buckets as the logical book has them: what goes to `others` as messages, or as sums.
  struct LogicalBucket {
    bool expert = false, sums = false, fixed_sizes = true;
    int64_t elements = 0;  // sums
    int64_t blocks = 0;    // messages
    int64_t bytes = 0;     // messages: of one worker, frames included, payloads of varying size left out
    int64_t others = 0;    // messages: to how many they go
  };
  struct Place {
    TreeBucket* sums = nullptr;
    MessageBucket* messages = nullptr;
    ServedBucket* served = nullptr;
    int index = 0;
  };
  void PlanWays();
  absl::Status CheckWork();
  // The pieces each member would ship; `logical`: with one worker a rank.
  std::vector<std::vector<TreeNode>> CoversOf(bool expert, bool logical) const;
  void AddSums(const std::vector<bool>& take);
  void AddMessages(const std::vector<bool>& take);
  void AddServed(const std::vector<bool>& take);
  void PlanLogical(const std::vector<bool>& replicated_sums, const std::vector<bool>& as_messages, const std::vector<bool>& served);
  absl::StatusOr<int64_t> PutSum(WorkerId worker, BlockId block, const Tensor& x, const Tensor* decoded);
  void PlanLogicalMessages(const std::vector<bool>& take, int64_t others);
  void CountLogical();  // for the workers that take part

  const ExchangeContext context_;
  BlockCodecs codecs_;
  std::vector<bool> lossless_;  // by block id
  std::vector<bool> exact_;     // likewise: lossless, or its codec was declined
  FlatVector aggregate_;
  std::vector<Place> places_;  // by block id
  BucketQueue queue_;
  std::vector<MessageBucket*> message_buckets_;
  std::vector<ServedBucket*> served_buckets_;
  PartServer* server_ = nullptr;
  Buffer scratch_wire_, scratch_;
  std::vector<LogicalBucket> logical_buckets_;
  Senders workers_;                   // of replicated blocks
  std::optional<Senders> owners_;     // of expert blocks, where there are any
  std::vector<TreeNode> own_pieces_;  // of expert blocks
  LogicalWire logical_, now_;
  std::vector<int64_t> copies_;  // by block id: to how many others a message of varying size goes, logically
  CodecKey key_;
  PoisonCause cause_;
  int64_t taken_ = 0;                // exchanges, up to the check
  int64_t encoded_ = 0, dense_ = 0;  // bytes of blocks that are not exact, in those
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_CODED_MEAN_H_
