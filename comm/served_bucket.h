// One bucket of a lossy exchange whose parts have servers: the message of a part of every worker that takes part goes to the part's server,
// which decodes them, adds them by the reduction tree over workers and sends the mean back to everyone by a codec of its own. Everyone, the
// server too, goes on with the decoded mean: equal bits on every rank and for any number of ranks.
//
// Bytes sent with one worker a rank, for d coordinates: about (payload(d) up + payload(d) down) (M - 1) / M, two codings in all.
#ifndef CONCLAVE_COMM_SERVED_BUCKET_H_
#define CONCLAVE_COMM_SERVED_BUCKET_H_

#include <memory>
#include <vector>

#include "comm/block_codecs.h"
#include "comm/bucket.h"
#include "comm/ledger.h"
#include "comm/part_server.h"
#include "comm/reduction_tree.h"
#include "comm/region_exchange.h"
#include "comm/worker_ranges.h"

namespace conclave {

class ServedBucket final : public Bucket {
 public:
  // codecs outlive the bucket.
  ServedBucket(const ExchangeContext& context, const BucketPlan& plan, const BlockCodecs& codecs);

  // Names the messages that follow: block, part and worker are filled in.
  void SetKey(const CodecKey& key) { key_ = key; }
  // server: null where means go down as they came up.
  void SetServer(PartServer* server) { server_ = server; }
  // block: index in the plan. decoded: where not null, receives what the server decodes. Returns the payloads' bytes. Errors: Internal for
  // a vector that came already, or is of another rank's worker or of one that takes no part.
  absl::StatusOr<int64_t> Put(WorkerId worker, int block, const Tensor& x, const Tensor* decoded);

  void Begin() override;
  bool full() const override { return puts_ == static_cast<int64_t>(blocks_.size()) * senders_.count(me_); }
  absl::Status Start() override;
  absl::Status Poll() override { return runs_.up.Poll(); }
  absl::Status FinishSums() override;
  absl::Status Deliver(const FlatVector& aggregate) override;

  // After Deliver: the logical bytes up, down and of headers, and the messages.
  const LogicalWire& logical() const { return now_; }

 private:
  struct Part {
    PartId id;
    int64_t elements = 0;
    const Compressor* up = nullptr;
    const Compressor* down = nullptr;
    int server = 0;  // member of the group
    int server_worker = 0;
    int64_t up_offset = 0, up_bytes = 0;  // of its frame among one worker's messages to that member
    int64_t down_offset = 0, down_bytes = 0;
  };
  void PlanParts(const ExchangeContext& context, const BucketPlan& plan, const BlockCodecs& codecs);
  void PlanLogical();
  // What `member` sends for `workers` workers.
  void AddLogical(int member, int64_t workers);
  int LogicalMembers() const { return expert_ ? group_->size() : workers_; }
  int LogicalServer(const Part& part) const { return expert_ ? part.server : part.server_worker; }
  CodecKey KeyOf(WorkerId worker, const Part& part) const;
  std::span<std::byte> Message(int worker, const Part& part) const;  // of an own worker, before gaps are closed
  void CloseGaps();
  absl::Status FindMessages();  // of all workers, for the parts served here
  absl::Status Serve(size_t index, std::span<std::byte> message);

  const int workers_;
  const DType dtype_;
  const bool expert_;
  Communicator* const group_;
  const int me_;
  Senders senders_;
  TreeNode own_;                    // the workers whose vectors come to this rank
  std::vector<BlockId> blocks_;     // the plan's
  std::vector<size_t> first_part_;  // by block, one more at the end
  std::vector<Part> parts_;
  std::vector<int64_t> stride_, down_size_;  // by member: bytes of one worker's messages to it, and of its means
  bool fixed_up_ = true, fixed_down_ = true;
  ServedRuns runs_;
  std::vector<std::span<const std::byte>> found_;  // [parts served here, workers]
  std::vector<size_t> served_;                     // parts served here
  std::vector<bool> present_;                      // [own workers, blocks]
  Buffer decoded_, sums_;                          // one vector; the tree's partial ones
  std::vector<TreeAccumulator> trees_;             // by part served here
  PartServer* server_ = nullptr;
  int64_t own_means_ = 0;                              // bytes of the means' messages made here
  std::vector<std::span<const std::byte>> next_mean_;  // by member
  std::vector<bool> receives_;                         // by member, logically; scratch
  LogicalWire logical_, now_;
  CodecKey key_;
  int64_t puts_ = 0;
  bool started_ = false;
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_SERVED_BUCKET_H_
