// The quantized exchange: the mean over workers of Q_m(v_m), Q_m an unbiased codec with a draw of its own for every worker, block, step and
// draw. No memory. It always adds by the reduction tree over workers, so its bits depend neither on ranks nor on buckets. Each block
// travels in the way that takes fewer bytes in all:
//   messages: every rank ships its workers' frames to all others and decodes all of them:      M (32 + payload) (P - 1)
//   sums: it decodes its own workers' messages and ships whole subtrees, as the exact exchange:  about 2 n (P - 1), n the dense bytes
// With an identity codec all blocks travel as sums, and the bits are those of the exact exchange. A vector that is not finite makes the
// mean NaN on every rank.
#include <vector>

#include "comm/compressors.h"
#include "comm/exchanges.h"
#include "comm/ledger.h"
#include "comm/message_bucket.h"
#include "comm/tree_bucket.h"

namespace conclave {
namespace {

// Total bytes of a block on the wire for `size` members, by either way.
bool MessagesAreFewer(const Compressor& codec, int64_t dense_bytes, int64_t workers, const std::vector<std::vector<TreeNode>>& covers) {
  const auto size = static_cast<int64_t>(covers.size());
  if (size == 1) return false;
  int64_t pieces = 0;
  for (const std::vector<TreeNode>& cover : covers) pieces += static_cast<int64_t>(cover.size());
  const int64_t messages = workers * (kFrameBytes + codec.MaxWireBytes()) * (size - 1);
  const int64_t sums = pieces * dense_bytes * (size - 1) / size + dense_bytes * (size - 1);
  return messages < sums;
}

class QuantizedExchange final : public Exchange {
 public:
  QuantizedExchange(const ExchangeContext& context, std::vector<std::unique_ptr<Compressor>> codecs)
      : context_(context), codecs_(std::move(codecs)), aggregate_(context.layout, context.dtype), places_(codecs_.size()) {
    const ParameterSet& parameters = context.layout->parameters();
    std::vector<bool> as_messages(codecs_.size()), as_sums(codecs_.size()), logical_sums(codecs_.size());
    int64_t largest_wire = 0, largest = 0;
    for (const BlockId id : context.layout->local_blocks()) {
      const bool expert = parameters[id].kind == BlockKind::kExpert;
      const int64_t bytes = parameters[id].shape.elements() * SizeOf(context.dtype);
      const Compressor& codec = *codecs_[id.value];
      as_messages[id.value] = MessagesAreFewer(codec, bytes, context.workers.workers, CoversOf(expert, false));
      as_sums[id.value] = !as_messages[id.value];
      logical_sums[id.value] = !expert && !MessagesAreFewer(codec, bytes, context.workers.workers, CoversOf(false, true));
      largest = std::max(largest, bytes);
      largest_wire = std::max(largest_wire, kFrameBytes + codec.MaxWireBytes());
    }
    scratch_wire_ = Buffer(largest_wire + 1);
    scratch_ = Buffer(largest + 1);
    AddBuckets(as_sums, false);
    AddBuckets(as_messages, true);
    PlanLogical(logical_sums, as_messages);
  }

  void Begin(uint32_t step, uint32_t draw) override {
    key_ = {.seed = context_.seed, .step = step, .draw = draw};
    for (MessageBucket* bucket : message_buckets_) bucket->SetKey(key_);
    queue_.Begin();
    encoded_bytes_ = dense_bytes_ = 0;
  }

  absl::Status Put(WorkerId worker, BlockId block, const Tensor& span, bool folded) override {
    CHECK(!folded) << "a codec needs each worker's own vector";
    const Place& place = places_[block.value];
    dense_bytes_ += span.bytes();
    if (place.messages != nullptr) {
      ASSIGN_OR_RETURN(const int64_t payload, place.messages->Put(worker, place.index, span));
      encoded_bytes_ += payload;
      return queue_.Advance();
    }
    CHECK(place.sums != nullptr) << "block " << block.value << " is not local";
    CodecKey key = key_;
    key.block = block;
    key.worker = worker;
    const std::span<std::byte> wire(scratch_wire_.data(), static_cast<size_t>(scratch_wire_.bytes()));
    const Tensor decoded(scratch_.data(), {span.elements()}, context_.dtype);
    encoded_bytes_ += EncodeFramed(*codecs_[block.value], span, key, wire);
    RETURN_IF_ERROR(DecodeFramed(*codecs_[block.value], wire, key, decoded));
    RETURN_IF_ERROR(place.sums->Put(worker, place.index, decoded, false));
    return queue_.Advance();
  }

  absl::StatusOr<Aggregate> Finish() override {
    RETURN_IF_ERROR(queue_.Finish(aggregate_));
    if (context_.world->ledger() != nullptr) {
      LogicalWire wire = logical_;
      wire.encoded_bytes = encoded_bytes_;
      wire.dense_bytes = dense_bytes_;
      context_.world->ledger()->BookLogical(wire);
    }
    return &aggregate_;
  }

  void Commit() override {}
  void Discard() override {}
  bool wants_each_worker() const override { return true; }
  void Register(StateDict&, const std::string&) override {}

 private:
  struct Place {
    TreeBucket* sums = nullptr;
    MessageBucket* messages = nullptr;
    int index = 0;
  };

  // The pieces each member would ship; `logical`: with one worker a rank.
  std::vector<std::vector<TreeNode>> CoversOf(bool expert, bool logical) const {
    const WorkerMap& w = context_.workers;
    std::vector<std::vector<TreeNode>> covers;
    if (logical) {
      for (int m = 0; m < w.workers; ++m) covers.push_back({{m, m + 1}});
      return covers;
    }
    const int size = expert ? context_.data->size() : context_.world->size();
    for (int j = 0; j < size; ++j) {
      const int lo = expert ? w.ColumnFirst(j) : w.First(j), count = expert ? w.ColumnCount(j) : w.Count(j);
      covers.push_back(Cover(lo, lo + count, w.workers));
    }
    return covers;
  }

  void AddBuckets(const std::vector<bool>& take, bool as_messages) {
    for (const BucketPlan& plan : PlanBuckets(context_, take)) {
      TreeBucket* sums = nullptr;
      MessageBucket* messages = nullptr;
      if (as_messages) {
        std::vector<const Compressor*> codecs;
        for (const BlockId id : plan.blocks) codecs.push_back(codecs_[id.value].get());
        auto bucket = std::make_unique<MessageBucket>(context_, plan, std::move(codecs));
        message_buckets_.push_back(messages = bucket.get());
        queue_.Add(std::move(bucket));
      } else {
        auto bucket = std::make_unique<TreeBucket>(context_, plan, TreeBucketOptions{.book = false});
        sums = bucket.get();
        queue_.Add(std::move(bucket));
      }
      for (size_t i = 0; i < plan.blocks.size(); ++i) places_[plan.blocks[i].value] = {sums, messages, static_cast<int>(i)};
    }
  }

  // What the workers of this rank would send with one worker a rank, each block in its cheaper way there; expert blocks: what the owner
  // really sends.
  void PlanLogical(const std::vector<bool>& replicated_sums, const std::vector<bool>& as_messages) {
    const WorkerMap& w = context_.workers;
    const ParameterSet& parameters = context_.layout->parameters();
    const int me = context_.world->rank();
    const auto add_messages = [&](const Compressor& codec, int64_t count) {
      logical_.uplink_bytes += count * (kFrameBytes + codec.MaxWireBytes());
      logical_.header_bytes += count * kFrameBytes;
    };
    for (const BucketPlan& plan : PlanBuckets(context_, replicated_sums)) {
      int64_t elements = 0;
      for (const BlockId id : plan.blocks) elements += parameters[id].shape.elements();
      for (int m = w.First(me); m < w.First(me + 1); ++m) {
        AddMeanOf({.elements = elements, .width = SizeOf(context_.dtype), .parts = w.workers, .part = m}, logical_);
      }
    }
    std::vector<bool> replicated_messages(codecs_.size()), expert_sums(codecs_.size()), expert_messages(codecs_.size());
    for (const BlockId id : context_.layout->local_blocks()) {
      const bool expert = parameters[id].kind == BlockKind::kExpert;
      replicated_messages[id.value] = !expert && !replicated_sums[id.value];
      expert_messages[id.value] = expert && as_messages[id.value];
      expert_sums[id.value] = expert && !as_messages[id.value];
    }
    for (const BucketPlan& plan : PlanBuckets(context_, replicated_messages)) {
      for (const BlockId id : plan.blocks) add_messages(*codecs_[id.value], int64_t{w.Count(me)} * (w.workers - 1));
      logical_.messages += int64_t{w.Count(me)} * (w.workers - 1);
    }
    const int members = context_.data != nullptr ? context_.data->size() : 1, column = context_.data != nullptr ? context_.data->rank() : 0;
    for (const BucketPlan& plan : PlanBuckets(context_, expert_messages)) {
      for (const BlockId id : plan.blocks) add_messages(*codecs_[id.value], int64_t{w.ColumnCount(column)} * (members - 1));
      logical_.messages += members - 1;
    }
    for (const BucketPlan& plan : PlanBuckets(context_, expert_sums)) {
      int64_t elements = 0;
      for (const BlockId id : plan.blocks) elements += parameters[id].shape.elements();
      const auto pieces = static_cast<int64_t>(CoversOf(true, false)[column].size());
      AddMeanOf({.elements = elements, .width = SizeOf(context_.dtype), .parts = members, .part = column, .pieces = pieces}, logical_);
    }
  }

  const ExchangeContext context_;
  const std::vector<std::unique_ptr<Compressor>> codecs_;  // by block id
  FlatVector aggregate_;
  std::vector<Place> places_;  // by block id
  BucketQueue queue_;
  std::vector<MessageBucket*> message_buckets_;
  Buffer scratch_wire_, scratch_;
  LogicalWire logical_;
  CodecKey key_;
  int64_t encoded_bytes_ = 0, dense_bytes_ = 0;
};

}  // namespace

ExchangeOr MakeQuantizedExchange(const QuantizedExchangeConfig& config, const ExchangeContext& context) {
  const ParameterSet& parameters = context.layout->parameters();
  std::vector<std::unique_ptr<Compressor>> codecs;
  for (const BlockSpec& spec : parameters.blocks()) {
    auto codec = MakeCompressor(config.codec(), {.shape = spec.shape, .dtype = context.dtype, .workers = context.workers.workers});
    if (!codec.ok()) return Annotate(codec.status(), absl::StrFormat("quantized exchange, block %s", spec.name));
    if (!(*codec)->Contract().unbiased) {
      return InvalidArgument(
          "quantized exchange: the codec of block %s is biased, and there is no error memory here; choose an unbiased codec", spec.name);
    }
    codecs.push_back(*std::move(codec));
  }
  return std::make_unique<QuantizedExchange>(context, std::move(codecs));
}

}  // namespace conclave
