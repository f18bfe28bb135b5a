#include "comm/bucket.h"

#include <utility>

namespace conclave {

std::vector<BucketPlan> PlanBuckets(const ExchangeContext& context, const std::vector<bool>& take) {
  const Layout& layout = *context.layout;
  std::vector<BucketPlan> plans;
  BucketPlan open[2] = {{.expert = false}, {.expert = true}};
  int64_t bytes[2] = {0, 0};
  const std::span<const BlockId> local = layout.local_blocks();
  for (auto it = local.rbegin(); it != local.rend(); ++it) {
    if (!take[it->value]) continue;
    const BlockSpec& spec = layout.parameters()[*it];
    const int kind = spec.kind == BlockKind::kExpert ? 1 : 0;
    open[kind].blocks.push_back(*it);
    bytes[kind] += spec.shape.elements() * SizeOf(context.dtype);
    if (bytes[kind] < context.bucket_bytes) continue;
    plans.push_back(open[kind]);
    open[kind].blocks.clear();
    bytes[kind] = 0;
  }
  // Of the two that stay open, the one that backward fills first goes first.
  if (!open[0].blocks.empty() && !open[1].blocks.empty() && open[1].blocks.back().value > open[0].blocks.back().value) {
    std::swap(open[0], open[1]);
  }
  for (const BucketPlan& rest : open) {
    if (!rest.blocks.empty()) plans.push_back(rest);
  }
  return plans;
}

absl::Status VectorBucket::StartSharing(const FlatVector&) { return Internal("this bucket gives every owner the mean"); }

void BucketQueue::Begin() {
  next_ = summed_ = 0;
  for (auto& bucket : buckets_) bucket->Begin();
}

absl::Status BucketQueue::Advance() {
  if (!overlap_) return absl::OkStatus();
  while (next_ < buckets_.size() && buckets_[next_]->full()) RETURN_IF_ERROR(buckets_[next_++]->Start());
  while (summed_ < next_) {
    ASSIGN_OR_RETURN(const bool arrived, buckets_[summed_]->SumsArrived());
    if (!arrived) break;
    RETURN_IF_ERROR(buckets_[summed_++]->FinishSums());
  }
  return next_ > 0 ? buckets_[next_ - 1]->Poll() : absl::OkStatus();
}

absl::Status BucketQueue::Finish(const FlatVector& aggregate) {
  while (next_ < buckets_.size()) RETURN_IF_ERROR(buckets_[next_++]->Start());
  while (summed_ < buckets_.size()) RETURN_IF_ERROR(buckets_[summed_++]->FinishSums());
  for (auto& bucket : buckets_) RETURN_IF_ERROR(bucket->Deliver(aggregate));
  return absl::OkStatus();
}

}  // namespace conclave
