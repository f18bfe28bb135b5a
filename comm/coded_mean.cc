#include "comm/coded_mean.h"

#include <algorithm>

#include "base/check.h"

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

constexpr int64_t kLengthBytes = sizeof(int64_t);

absl::Status CheckContract(const CodecContract& contract, CodecNeed need, std::string_view exchange, const BlockSpec& spec) {
  if (need == CodecNeed::kUnbiased && !contract.unbiased) {
    return InvalidArgument(
        "%s exchange: the codec of block %s is biased, and nothing here makes up for it; choose an unbiased codec (identity, "
        "rand_k, natural, qsgd, block_int { rounding: STOCHASTIC }, perm_k, ternary, random_block)",
        exchange, spec.name);
  }
  if (need == CodecNeed::kContractive && !contract.contractive()) {
    return InvalidArgument(
        "%s exchange: the codec of block %s is not contractive (unbiased with q = %g, must be below 2), so its error memory "
        "would grow; choose a contractive codec (top_k, block_int { rounding: NEAREST }, scaled_sign, bf16, fp8)",
        exchange, spec.name, contract.q);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<BlockCodecs> MakeBlockCodecs(const CodecConfig& config, CodecNeed need, const ExchangeContext& context,
                                            std::string_view exchange) {
  const ParameterSet& parameters = context.layout->parameters();
  BlockCodecs codecs;
  for (const BlockSpec& spec : parameters.blocks()) {
    CompressorOr codec =
        MakeCompressor(config, {.shape = spec.shape, .dtype = context.dtype, .workers = context.workers.workers, .name = spec.name});
    if (!codec.ok()) return Annotate(codec.status(), absl::StrFormat("%s exchange, block %s", exchange, spec.name));
    RETURN_IF_ERROR(CheckContract((*codec)->Contract(), need, exchange, spec));
    codecs.push_back(*std::move(codec));
  }
  return codecs;
}

BlockCodecs IdentityCodecs(const ExchangeContext& context) {
  CodecConfig identity;
  identity.mutable_identity();
  absl::StatusOr<BlockCodecs> codecs = MakeBlockCodecs(identity, CodecNeed::kUnbiased, context, "exact");
  CHECK_OK(codecs.status());
  return *std::move(codecs);
}

CodedMean::CodedMean(const ExchangeContext& context, BlockCodecs codecs)
    : context_(context),
      codecs_(std::move(codecs)),
      lossless_(codecs_.size()),
      aggregate_(context.layout, context.dtype),
      places_(codecs_.size()),
      copies_(codecs_.size()) {
  const ParameterSet& parameters = context.layout->parameters();
  for (int i = 0; i < parameters.size(); ++i) {
    if (!context.layout->is_local({i})) codecs_[i] = nullptr;
  }
  std::vector<bool> as_messages(codecs_.size()), as_sums(codecs_.size()), logical_sums(codecs_.size());
  int64_t largest_wire = 0, largest = 0;
  for (const BlockId id : context.layout->local_blocks()) {
    const bool expert = parameters[id].kind == BlockKind::kExpert;
    const int64_t bytes = parameters[id].shape.elements() * SizeOf(context.dtype);
    const Compressor& codec = *codecs_[id.value];
    lossless_[id.value] = codec.Contract().lossless;
    as_messages[id.value] = !lossless_[id.value] && MessagesAreFewer(codec, bytes, context.workers.workers, CoversOf(expert, false));
    as_sums[id.value] = !as_messages[id.value];
    logical_sums[id.value] =
        !expert && (lossless_[id.value] || !MessagesAreFewer(codec, bytes, context.workers.workers, CoversOf(false, true)));
    largest = std::max(largest, bytes);
    largest_wire = std::max(largest_wire, kFrameBytes + codec.MaxWireBytes());
  }
  scratch_wire_ = Buffer(largest_wire + 1);
  scratch_ = Buffer(largest + 1);
  AddBuckets(as_sums, false);
  AddBuckets(as_messages, true);
  PlanLogical(logical_sums, as_messages);
}

void CodedMean::Begin(uint32_t step, uint32_t draw) {
  key_ = {.seed = context_.seed, .step = step, .draw = draw};
  for (MessageBucket* bucket : message_buckets_) bucket->SetKey(key_);
  queue_.Begin();
  now_ = logical_;
}

absl::Status CodedMean::Put(WorkerId worker, BlockId block, const Tensor& x, const Tensor* decoded) {
  const Place& place = places_[block.value];
  int64_t payload = 0;
  if (place.messages != nullptr) {
    ASSIGN_OR_RETURN(payload, place.messages->Put(worker, place.index, x));
    if (decoded != nullptr) RETURN_IF_ERROR(place.messages->DecodeOwn(worker, place.index, *decoded));
  } else {
    CHECK(place.sums != nullptr) << "block " << block.value << " is not local";
    CodecKey key = key_;
    key.block = block;
    key.worker = worker;
    const std::span<std::byte> wire(scratch_wire_.data(), static_cast<size_t>(scratch_wire_.bytes()));
    const Tensor own(scratch_.data(), {x.elements()}, context_.dtype);
    const Tensor& sent = decoded != nullptr ? *decoded : own;
    payload = EncodeFramed(*codecs_[block.value], x, key, wire);
    RETURN_IF_ERROR(DecodeFramed(*codecs_[block.value], wire, key, sent));
    RETURN_IF_ERROR(place.sums->Put(worker, place.index, sent, false));
  }
  now_.dense_bytes += x.bytes();
  now_.encoded_bytes += payload;
  now_.uplink_bytes += copies_[block.value] * payload;
  return queue_.Advance();
}

absl::StatusOr<Aggregate> CodedMean::Finish() {
  RETURN_IF_ERROR(queue_.Finish(aggregate_));
  if (context_.world->ledger() != nullptr) context_.world->ledger()->BookLogical(now_);
  return &aggregate_;
}

std::vector<std::vector<TreeNode>> CodedMean::CoversOf(bool expert, bool logical) const {
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

void CodedMean::AddBuckets(const std::vector<bool>& take, bool as_messages) {
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

// Buckets of messages of `workers` workers, each of which goes to `others`; `others` times workers is 0 where nothing is sent.
void CodedMean::AddLogicalMessages(const std::vector<bool>& take, int64_t workers, int64_t others) {
  for (const BucketPlan& plan : PlanBuckets(context_, take)) {
    bool fixed_sizes = true;
    for (const BlockId id : plan.blocks) fixed_sizes = fixed_sizes && codecs_[id.value]->Contract().fixed_size;
    for (const BlockId id : plan.blocks) {
      logical_.header_bytes += workers * others * kFrameBytes;
      logical_.uplink_bytes += workers * others * (kFrameBytes + (fixed_sizes ? codecs_[id.value]->MaxWireBytes() : 0));
      copies_[id.value] = fixed_sizes ? 0 : others;
    }
    const bool expert = plan.expert;
    logical_.messages += (expert ? 1 : workers) * others;
    if (fixed_sizes) continue;
    logical_.messages += (expert ? 1 : workers) * others;
    logical_.header_bytes += (expert ? 1 : workers) * others * kLengthBytes;
    logical_.uplink_bytes += (expert ? 1 : workers) * others * kLengthBytes;
  }
}

// What the workers of this rank would send with one worker a rank, each block in its cheaper way there; expert blocks: what the owner
// really sends.
void CodedMean::PlanLogical(const std::vector<bool>& replicated_sums, const std::vector<bool>& as_messages) {
  const WorkerMap& w = context_.workers;
  const ParameterSet& parameters = context_.layout->parameters();
  const int me = context_.world->rank();
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
  const int members = context_.data != nullptr ? context_.data->size() : 1, column = context_.data != nullptr ? context_.data->rank() : 0;
  AddLogicalMessages(replicated_messages, w.Count(me), w.workers - 1);
  AddLogicalMessages(expert_messages, w.ColumnCount(column), members - 1);
  for (const BucketPlan& plan : PlanBuckets(context_, expert_sums)) {
    int64_t elements = 0;
    for (const BlockId id : plan.blocks) elements += parameters[id].shape.elements();
    const auto pieces = static_cast<int64_t>(CoversOf(true, false)[column].size());
    AddMeanOf({.elements = elements, .width = SizeOf(context_.dtype), .parts = members, .part = column, .pieces = pieces}, logical_);
  }
}

}  // namespace conclave
