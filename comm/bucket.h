// Bucket: blocks whose vectors travel together. BucketQueue starts buckets in a fixed order, the same on all ranks, so that no rank's
// collectives overtake another's.
#ifndef CONCLAVE_COMM_BUCKET_H_
#define CONCLAVE_COMM_BUCKET_H_

#include <memory>
#include <vector>

#include "base/status.h"
#include "comm/exchange.h"

namespace conclave {

// Blocks of one kind: all replicated (summed over the world) or all of experts (over `data`).
struct BucketPlan {
  bool expert = false;
  std::vector<BlockId> blocks;  // descending: the order in which backward finishes them
};

// Cuts the local blocks for which `take` (by id) holds into buckets of about context.bucket_bytes. Every rank of a group gets the same ones
// in the same order.
std::vector<BucketPlan> PlanBuckets(const ExchangeContext& context, const std::vector<bool>& take);

// All ranks of the group call Begin, Start, FinishSums and Deliver alike. Put is each kind's own.
class Bucket {
 public:
  virtual ~Bucket() = default;
  virtual void Begin() = 0;
  virtual bool full() const = 0;                                  // every expected vector was put
  virtual absl::Status Start() = 0;                               // what never came is +0; posts the first messages
  virtual absl::Status Poll() = 0;                                // makes progress
  virtual absl::Status FinishSums() = 0;                          // waits for them; posts the next, if any
  virtual absl::Status Deliver(const FlatVector& aggregate) = 0;  // waits for those; writes the means
  // After Start: FinishSums would not wait, and may be called at any time relative to other buckets' Start (what it posts travels in a
  // stream of its own). Makes progress. A bucket that never says so is finished at the end.
  virtual absl::StatusOr<bool> SumsArrived() { return false; }
};

// A bucket that takes vectors as they are.
class VectorBucket : public Bucket {
 public:
  // block: index in the plan; folded: see Exchange::Put. Errors: Internal for a vector that came already.
  virtual absl::Status Put(WorkerId worker, int block, const Tensor& span, bool folded) = 0;
  // Of block `block` of the plan, see Exchange::Place.
  virtual Tensor Place(int) const { return {}; }
  // With to_canonical: the canonical blocks of `point` go out, the others' come in; done when FinishSharing returns, which does nothing if
  // nothing was started. Between the two calls other buckets may do the same; vectors may not be put.
  virtual absl::Status StartSharing(const FlatVector& point);
  virtual absl::Status FinishSharing() { return absl::OkStatus(); }
  virtual bool sharing() const { return false; }
};

class BucketQueue {
 public:
  // overlap: buckets travel as soon as they can; else all at the end. The same bits either way.
  explicit BucketQueue(bool overlap = true) : overlap_(overlap) {}
  void Add(std::unique_ptr<Bucket> bucket) { buckets_.push_back(std::move(bucket)); }
  void Begin();
  // Starts whatever is full and has its turn, sends sums on their way back once they are complete, and makes progress. Call after each Put.
  absl::Status Advance();
  // Starts the rest and completes all.
  absl::Status Finish(const FlatVector& aggregate);

 private:
  std::vector<std::unique_ptr<Bucket>> buckets_;
  bool overlap_;
  size_t next_ = 0;    // the bucket whose turn it is
  size_t summed_ = 0;  // the first bucket whose FinishSums is still to come
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_BUCKET_H_
