// The exact exchange: the mean over workers, nothing lost. WORLD_SIZE_INVARIANT: by the reduction tree over workers, so the bits do not
// depend on ranks, transport or buckets. FIXED_MESH: each rank folds its vectors from left to right, then the tree over ranks. Bytes sent
// by each of P ranks for a bucket of n bytes: pieces * n (P - 1) / P to the chunks' owners (one piece with FIXED_MESH, else the rank's
// nodes of the tree, mostly one), n (P - 1) / P back. Where the context has two levels, FIXED_MESH adds up inside nodes first: so much
// between their ranks, and n (N - 1) / N each way between N nodes. With to_canonical the chunks are blocks, and what comes back are updated
// blocks.
#include <algorithm>
#include <vector>

#include "base/trace.h"
#include "comm/exchange.h"
#include "comm/node_bucket.h"
#include "comm/tree_bucket.h"

namespace conclave {
namespace {

// The same homes, with storage only for the blocks that this rank is canonical for.
Layout CanonicalPart(const Layout& layout) {
  std::vector<BlockHome> homes;
  for (int i = 0; i < layout.parameters().size(); ++i) {
    BlockHome& home = homes.emplace_back(layout.home({i}));
    if (!layout.is_canonical({i})) std::erase(home.owners, layout.rank());
  }
  return Layout(&layout.parameters(), layout.rank(), std::move(homes));
}

class ExactExchange final : public Exchange {
 public:
  explicit ExactExchange(const ExchangeContext& context)
      : world_size_invariant_(context.world_size_invariant),
        held_(context.to_canonical ? CanonicalPart(*context.layout) : *context.layout),
        aggregate_(&held_, context.dtype),
        overlap_(context.overlap),
        places_(context.layout->parameters().size()),
        queue_(context.overlap) {
    const std::vector<bool> all(context.layout->parameters().size(), true);
    for (BucketPlan& plan : PlanBuckets(context, all)) {
      if (context.to_canonical) {
        std::ranges::stable_sort(plan.blocks, {}, [&](BlockId id) { return context.layout->home(id).canonical; });
      }
      const std::vector<BlockId> blocks = plan.blocks;
      std::unique_ptr<VectorBucket> bucket = MakeBucket(context, std::move(plan));
      buckets_.push_back(bucket.get());
      for (size_t i = 0; i < blocks.size(); ++i) places_[blocks[i].value] = {bucket.get(), static_cast<int>(i)};
      queue_.Add(std::move(bucket));
    }
  }

  void Begin(uint32_t, uint32_t) override { queue_.Begin(); }

  absl::Status Put(WorkerId worker, BlockId block, const Tensor& span, bool folded) override {
    const TraceSpan trace("exchange put");
    const InBucket place = places_[block.value];
    CHECK(place.bucket != nullptr) << "block " << block.value << " is not local";
    RETURN_IF_ERROR(place.bucket->FinishSharing());
    RETURN_IF_ERROR(place.bucket->Put(worker, place.index, span, folded));
    return queue_.Advance();
  }

  Tensor Place(BlockId block) const override {
    const auto& [bucket, index] = places_[block.value];
    return bucket == nullptr ? Tensor() : bucket->Place(index);
  }

  absl::StatusOr<Aggregate> Finish() override {
    RETURN_IF_ERROR(FinishSharing());
    RETURN_IF_ERROR(queue_.Finish(aggregate_));
    return &aggregate_;
  }

  // Buckets fill as backward goes; the next forward pass needs them in the opposite order.
  absl::Status StartSharing(const FlatVector& point) override {
    for (size_t i = buckets_.size(); i-- > 0;) RETURN_IF_ERROR(buckets_[i]->StartSharing(point));
    return overlap_ ? absl::OkStatus() : FinishSharing();
  }

  absl::Status AwaitShared(BlockId block) override {
    VectorBucket* const bucket = places_[block.value].bucket;
    if (bucket != nullptr) RETURN_IF_ERROR(bucket->FinishSharing());
    for (size_t i = buckets_.size(); i-- > 0;) {
      if (buckets_[i]->sharing()) return buckets_[i]->Poll();  // all that are on their way move on
    }
    return absl::OkStatus();
  }

  absl::Status FinishSharing() override {
    for (size_t i = buckets_.size(); i-- > 0;) RETURN_IF_ERROR(buckets_[i]->FinishSharing());
    return absl::OkStatus();
  }

  void Commit() override {}
  void Discard() override {}
  bool wants_each_worker() const override { return world_size_invariant_; }
  void Register(StateDict&, const std::string&) override {}

 private:
  struct InBucket {
    VectorBucket* bucket = nullptr;
    int index = 0;
  };
  std::unique_ptr<VectorBucket> MakeBucket(const ExchangeContext& context, BucketPlan plan) const {
    if (!plan.expert && NodeBucket::Serves(context)) return std::make_unique<NodeBucket>(context, plan);
    return std::make_unique<TreeBucket>(context, std::move(plan),
                                        TreeBucketOptions{.fold = !world_size_invariant_, .aggregate = &aggregate_});
  }

  const bool world_size_invariant_;
  const Layout held_;  // of the aggregate
  FlatVector aggregate_;
  const bool overlap_;
  std::vector<InBucket> places_;  // by block id
  BucketQueue queue_;
  std::vector<VectorBucket*> buckets_;  // the queue's
};

}  // namespace

absl::Status Exchange::StartSharing(const FlatVector&) { return absl::UnimplementedError("this exchange gives every owner the mean"); }

std::unique_ptr<Exchange> MakeExactExchange(const ExchangeContext& context) { return std::make_unique<ExactExchange>(context); }

}  // namespace conclave
