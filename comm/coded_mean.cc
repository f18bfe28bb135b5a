#include "comm/coded_mean.h"

#include <algorithm>

#include "base/check.h"
#include "comm/codec_decisions.h"
#include "comm/sums.h"

namespace conclave {
namespace {

// After so many exchanges codecs must have saved something.
constexpr int64_t kExchangesUntilCheck = 10;

// Total bytes of a block on the wire for `size` members, by either way. senders: workers that take part.
bool MessagesAreFewer(const Compressor& codec, int64_t dense_bytes, int64_t senders, const std::vector<std::vector<TreeNode>>& covers) {
  const auto size = static_cast<int64_t>(covers.size());
  if (size == 1) return false;
  int64_t pieces = 0;
  for (const std::vector<TreeNode>& cover : covers) pieces += static_cast<int64_t>(cover.size());
  pieces = std::min(pieces, senders);
  const int64_t messages = senders * (kFrameBytes + codec.MaxWireBytes()) * (size - 1);
  const int64_t sums = pieces * dense_bytes * (size - 1) / size + dense_bytes * (size - 1);
  return messages < sums;
}

}  // namespace

CodedMean::CodedMean(const ExchangeContext& context, BlockCodecs codecs)
    : context_(context),
      codecs_(std::move(codecs)),
      lossless_(codecs_.size()),
      exact_(codecs_.size()),
      aggregate_(context.layout, context.dtype),
      places_(codecs_.size()),
      workers_(context, false),
      copies_(codecs_.size()) {
  if (context.data != nullptr) {
    owners_.emplace(context, true);
    own_pieces_ = CoversOf(true, false)[static_cast<size_t>(context.data->rank())];
  }
  const ParameterSet& parameters = context.layout->parameters();
  for (int i = 0; i < parameters.size(); ++i) {
    if (!context.layout->is_local({i})) codecs_.Drop({i});
  }
  for (const BlockId id : context.layout->local_blocks()) lossless_[id.value] = codecs_.lossless(id);
  if (context.decisions == nullptr) {
    PlanWays();
  } else {
    context.decisions->OnDecision([this] { PlanWays(); });
  }
}

void CodedMean::PlanWays() {
  queue_ = BucketQueue();
  message_buckets_.clear(), served_buckets_.clear();
  std::ranges::fill(places_, Place());
  std::ranges::fill(copies_, 0);
  const ParameterSet& parameters = context_.layout->parameters();
  const int64_t senders = context_.participants == nullptr ? context_.workers.workers : context_.participants->count;
  std::vector<bool> as_messages(codecs_.size()), as_sums(codecs_.size()), served(codecs_.size()), logical_sums(codecs_.size());
  int64_t largest_wire = 0, largest = 0;
  for (const BlockId id : context_.layout->local_blocks()) {
    const bool expert = parameters[id].kind == BlockKind::kExpert;
    const int64_t bytes = parameters[id].shape.elements() * SizeOf(context_.dtype);
    exact_[id.value] = lossless_[id.value] || (context_.decisions != nullptr && context_.decisions->Declines(id));
    if (!exact_[id.value] && codecs_.served()) {
      served[id.value] = true;
      continue;
    }
    const auto few = [&](const std::vector<std::vector<TreeNode>>& covers) {
      return !exact_[id.value] && MessagesAreFewer(*codecs_[id][0].up, bytes, senders, covers);
    };
    as_messages[id.value] = few(CoversOf(expert, false));
    as_sums[id.value] = !as_messages[id.value];
    logical_sums[id.value] = !expert && !few(CoversOf(false, true));
    largest = std::max(largest, bytes);
    for (const CodedPiece& piece : codecs_[id]) largest_wire = std::max(largest_wire, kFrameBytes + piece.up->MaxWireBytes());
  }
  scratch_wire_ = Buffer(largest_wire + 1);
  scratch_ = Buffer(largest + 1);
  AddSums(as_sums);
  AddMessages(as_messages);
  AddServed(served);
  PlanLogical(logical_sums, as_messages, served);
  SetServer(server_);
}

void CodedMean::SetServer(PartServer* server) {
  server_ = server;
  for (ServedBucket* bucket : served_buckets_) bucket->SetServer(server);
}

void CodedMean::Begin(uint32_t step, uint32_t draw) {
  cause_ = PoisonCause();
  key_ = {.seed = context_.seed, .step = step, .draw = draw, .cause = &cause_};
  for (MessageBucket* bucket : message_buckets_) bucket->SetKey(key_);
  for (ServedBucket* bucket : served_buckets_) bucket->SetKey(key_);
  queue_.Begin();
  const bool others = workers_.Update();
  if (owners_) owners_->Update();
  if (others) CountLogical();
  now_ = logical_;
}

absl::Status CodedMean::Put(WorkerId worker, BlockId block, const Tensor& x, const Tensor* decoded) {
  const Place& place = places_[block.value];
  int64_t payload = 0;
  if (place.served != nullptr) {
    ASSIGN_OR_RETURN(payload, place.served->Put(worker, place.index, x, decoded));
  } else if (place.messages != nullptr) {
    ASSIGN_OR_RETURN(payload, place.messages->Put(worker, place.index, x));
    if (decoded != nullptr) RETURN_IF_ERROR(place.messages->DecodeOwn(worker, place.index, *decoded));
  } else {
    CHECK(place.sums != nullptr) << "block " << block.value << " is not local";
    ASSIGN_OR_RETURN(payload, PutSum(worker, block, x, decoded));
  }
  now_.dense_bytes += x.bytes();
  now_.encoded_bytes += payload;
  now_.uplink_bytes += copies_[block.value] * payload;
  if (taken_ < kExchangesUntilCheck && !exact_[block.value] && !codecs_[block][0].up->Contract().lossless) {
    encoded_ += payload, dense_ += x.bytes();
  }
  return queue_.Advance();
}

// Every piece goes through its codecs, the block as a whole into a sum. Lossless blocks that have servers elsewhere come here too.
absl::StatusOr<int64_t> CodedMean::PutSum(WorkerId worker, BlockId block, const Tensor& x, const Tensor* decoded) {
  const Place& place = places_[block.value];
  const Tensor own(scratch_.data(), {x.elements()}, context_.dtype);
  const Tensor& sent = decoded != nullptr ? *decoded : own;
  int64_t payload = 0;
  const bool declined = exact_[block.value] && !lossless_[block.value];
  if (declined) {
    sent.CopyFrom(x.Flat());
    AddZero(sent.dtype(), sent.raw(), sent.elements());
    payload = x.bytes();
  }
  for (size_t i = 0; !declined && i < codecs_[block].size(); ++i) {
    const CodedPiece& piece = codecs_[block][i];
    CodecKey key = key_;
    key.block = block;
    key.worker = worker;
    key.first = piece.range.first;
    const std::span<std::byte> wire(scratch_wire_.data(), static_cast<size_t>(scratch_wire_.bytes()));
    const int64_t first = piece.range.first, elements = piece.range.elements;
    payload += EncodeFramed(*piece.up, x.Flat().Slice(first, elements), key, wire);
    RETURN_IF_ERROR(DecodeFramed(*piece.up, wire, key, sent.Flat().Slice(first, elements)));
  }
  RETURN_IF_ERROR(place.sums->Put(worker, place.index, sent, false));
  return payload;
}

absl::StatusOr<Aggregate> CodedMean::Finish() {
  RETURN_IF_ERROR(queue_.Finish(aggregate_));
  RETURN_IF_ERROR(CheckWork());
  for (const ServedBucket* bucket : served_buckets_) now_ += bucket->logical();
  if (context_.world->ledger() != nullptr) context_.world->ledger()->BookLogical(now_);
  return &aggregate_;
}

// A codec that never shrank a byte anywhere is a mistake in the config. (The bound of a codec of varying size says nothing, so its messages
// are looked at.) Where codecs may be declined, those that do not pay are.
absl::Status CodedMean::CheckWork() {
  if (taken_ >= kExchangesUntilCheck || ++taken_ < kExchangesUntilCheck || context_.decisions != nullptr) return absl::OkStatus();
  int64_t all[3] = {encoded_, dense_, codecs_.idle() ? 0 : 1};
  const LedgerAside aside(context_.world->ledger());  // no part of this step
  RETURN_IF_ERROR(context_.world->AllReduce("exchange.work", Tensor(all, {3}, DType::kI64), ReduceOp::kSum));
  encoded_ = all[0], dense_ = all[1];
  if (all[2] > 0 && (dense_ == 0 || encoded_ < dense_)) return absl::OkStatus();
  return InvalidArgument(
      "exchange: a codec was configured but did nothing: in %d exchanges it took %d bytes for vectors of %d; choose a codec that shrinks "
      "these blocks (rand_k with a fraction below 1, block_int, natural), blockwise rules that name some of them, or identity",
      taken_, encoded_, dense_);
}

std::vector<std::vector<TreeNode>> CodedMean::CoversOf(bool expert, bool logical) const {
  const int workers = context_.workers.workers;
  std::vector<std::vector<TreeNode>> covers;
  if (logical) {
    for (int m = 0; m < workers; ++m) covers.push_back({{m, m + 1}});
    return covers;
  }
  for (const TreeNode& range : WorkersOfMembers(context_, expert)) covers.push_back(Cover(range.lo, range.hi, workers));
  return covers;
}

void CodedMean::AddSums(const std::vector<bool>& take) {
  for (const BucketPlan& plan : PlanBuckets(context_, take)) {
    auto bucket = std::make_unique<TreeBucket>(context_, plan, TreeBucketOptions{.book = false});
    for (size_t i = 0; i < plan.blocks.size(); ++i) places_[plan.blocks[i].value] = {.sums = bucket.get(), .index = static_cast<int>(i)};
    queue_.Add(std::move(bucket));
  }
}

void CodedMean::AddMessages(const std::vector<bool>& take) {
  for (const BucketPlan& plan : PlanBuckets(context_, take)) {
    std::vector<const Compressor*> codecs;
    for (const BlockId id : plan.blocks) codecs.push_back(codecs_[id][0].up.get());
    auto bucket = std::make_unique<MessageBucket>(context_, plan, std::move(codecs));
    message_buckets_.push_back(bucket.get());
    for (size_t i = 0; i < plan.blocks.size(); ++i)
      places_[plan.blocks[i].value] = {.messages = bucket.get(), .index = static_cast<int>(i)};
    queue_.Add(std::move(bucket));
  }
}

void CodedMean::AddServed(const std::vector<bool>& take) {
  for (const BucketPlan& plan : PlanBuckets(context_, take)) {
    auto bucket = std::make_unique<ServedBucket>(context_, plan, codecs_);
    served_buckets_.push_back(bucket.get());
    for (size_t i = 0; i < plan.blocks.size(); ++i) places_[plan.blocks[i].value] = {.served = bucket.get(), .index = static_cast<int>(i)};
    queue_.Add(std::move(bucket));
  }
}

void CodedMean::PlanLogicalMessages(const std::vector<bool>& take, int64_t others) {
  for (const BucketPlan& plan : PlanBuckets(context_, take)) {
    LogicalBucket& bucket = logical_buckets_.emplace_back(
        LogicalBucket{.expert = plan.expert, .blocks = static_cast<int64_t>(plan.blocks.size()), .others = others});
    for (const BlockId id : plan.blocks) bucket.fixed_sizes = bucket.fixed_sizes && codecs_[id][0].up->Contract().fixed_size;
    for (const BlockId id : plan.blocks) {
      bucket.bytes += kFrameBytes + (bucket.fixed_sizes ? codecs_[id][0].up->MaxWireBytes() : 0);
      copies_[id.value] = bucket.fixed_sizes ? 0 : others;
    }
  }
}

// What the workers of this rank would send with one worker a rank, but for served blocks, each block in its cheaper way there; expert
// blocks: what the owner really sends.
void CodedMean::PlanLogical(const std::vector<bool>& replicated_sums, const std::vector<bool>& as_messages,
                            const std::vector<bool>& served) {
  const ParameterSet& parameters = context_.layout->parameters();
  std::vector<bool> sums(codecs_.size()), replicated_messages(codecs_.size()), expert_messages(codecs_.size());
  for (const BlockId id : context_.layout->local_blocks()) {
    if (served[id.value]) continue;  // their buckets count for themselves
    const bool expert = parameters[id].kind == BlockKind::kExpert;
    sums[id.value] = expert ? !as_messages[id.value] : replicated_sums[id.value];
    replicated_messages[id.value] = !expert && !sums[id.value];
    expert_messages[id.value] = expert && !sums[id.value];
  }
  logical_buckets_.clear();
  for (const BucketPlan& plan : PlanBuckets(context_, sums)) {
    LogicalBucket& bucket = logical_buckets_.emplace_back(LogicalBucket{.expert = plan.expert, .sums = true});
    for (const BlockId id : plan.blocks) bucket.elements += parameters[id].shape.elements();
  }
  PlanLogicalMessages(replicated_messages, context_.workers.workers - 1);
  PlanLogicalMessages(expert_messages, context_.data != nullptr ? context_.data->size() - 1 : 0);
  CountLogical();
}

void CodedMean::CountLogical() {
  logical_ = LogicalWire();
  for (const LogicalBucket& bucket : logical_buckets_) {
    const Senders& senders = bucket.expert ? *owners_ : workers_;
    const int me = (bucket.expert ? context_.data : context_.world)->rank();
    if (bucket.sums) {
      MeanShare share{.elements = bucket.elements, .width = SizeOf(context_.dtype)};
      if (bucket.expert) {
        share.parts = context_.data->size(), share.part = me;
        share.pieces = std::ranges::count_if(own_pieces_, [&](const TreeNode& piece) { return senders.any(piece); });
        AddMeanOf(share, logical_);
      }
      for (int m = senders.range(me).lo; !bucket.expert && m < senders.range(me).hi; ++m) {
        share.parts = context_.workers.workers, share.part = m, share.pieces = senders.row(m) >= 0 ? 1 : 0;
        AddMeanOf(share, logical_);
      }
      continue;
    }
    const int64_t copies = senders.count(me) * bucket.others;
    const int64_t runs = bucket.expert ? std::min(copies, bucket.others) : copies;  // an owner's messages travel together
    const int64_t lengths = bucket.fixed_sizes ? 0 : runs;
    logical_.uplink_bytes += copies * bucket.bytes + lengths * kLengthBytes;
    logical_.header_bytes += copies * bucket.blocks * kFrameBytes + lengths * kLengthBytes;
    logical_.messages += runs + lengths;
  }
}

}  // namespace conclave
