#include "comm/message_bucket.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "comm/sums.h"

namespace conclave {
namespace {

constexpr int64_t kLeastBytes = 64;

}  // namespace

MessageBucket::MessageBucket(const ExchangeContext& context, BucketPlan plan, std::vector<const Compressor*> codecs)
    : workers_(context.workers.workers),
      dtype_(context.dtype),
      expert_(plan.expert),
      group_(plan.expert ? context.data : context.world),
      senders_(context, expert_),
      own_(senders_.range(group_->rank())) {
  int64_t largest = 0;
  for (size_t i = 0; i < plan.blocks.size(); ++i) {
    const int64_t elements = context.layout->parameters()[plan.blocks[i]].shape.elements();
    const int64_t bytes = kFrameBytes + codecs[i]->MaxWireBytes();
    blocks_.push_back({.id = plan.blocks[i], .codec = codecs[i], .elements = elements, .offset = stride_, .bytes = bytes});
    stride_ += bytes;
    largest = std::max(largest, elements);
  }
  PlanExchange();
  const int64_t vector_bytes = std::max(largest * SizeOf(dtype_), kLeastBytes);
  decoded_ = Buffer(vector_bytes);
  sums_ = Buffer(vector_bytes * TreeAccumulator::SlotsNeeded(0, workers_, workers_));
  for (const Block& block : blocks_) {
    trees_.emplace_back(TreeNode{0, workers_}, workers_, dtype_, block.elements, TreeAccumulator::Memory{sums_.data(), vector_bytes});
  }
  Begin();
}

void MessageBucket::PlanExchange() {
  messages_ = Buffer(std::max(workers_ * stride_, kLeastBytes));
  present_.resize(static_cast<size_t>(own_.hi - own_.lo) * blocks_.size());
  found_.resize(static_cast<size_t>(workers_) * blocks_.size());
  for (const Block& block : blocks_) fixed_sizes_ = fixed_sizes_ && block.codec->Contract().fixed_size;
  const Tensor all = AllBytes(messages_);
  RegionExchange::Plan plan{.lengths_label = expert_ ? "experts.lengths" : "exchange.lengths",
                            .label = expert_ ? "experts.messages" : "exchange.messages",
                            .fixed_sizes = fixed_sizes_,
                            .send = all,
                            .recv = all};
  for (int j = 0; j < group_->size(); ++j) {
    const TreeNode& range = senders_.range(j);
    plan.send_offsets.push_back(own_.lo * stride_);
    plan.send_most.push_back((own_.hi - own_.lo) * stride_);
    plan.recv_offsets.push_back(range.lo * stride_);
    plan.recv_most.push_back((range.hi - range.lo) * stride_);
  }
  messages_exchange_ = RegionExchange(group_, std::move(plan));
}

void MessageBucket::Begin() {
  puts_ = 0;
  started_ = false;
  present_.assign(present_.size(), false);
  if (!senders_.Update()) return;
  own_bytes_ = senders_.count(group_->rank()) * stride_;
  for (int j = 0; j < group_->size(); ++j) messages_exchange_.SetMost(j, own_bytes_, senders_.count(j) * stride_);
}

CodecKey MessageBucket::KeyOf(int worker, const Block& block) const {
  CodecKey key = key_;
  key.block = block.id;
  key.worker = {worker};
  return key;
}

absl::StatusOr<int64_t> MessageBucket::Put(WorkerId worker, int index, const Tensor& span) {
  const Block& block = blocks_[index];
  CHECK(span.elements() == block.elements && span.dtype() == dtype_) << span.elements() << ' ' << NameOf(span.dtype());
  RETURN_IF_ERROR(senders_.Check(group_->rank(), worker, block.id));
  const size_t place = static_cast<size_t>((worker.value - own_.lo) * static_cast<int64_t>(blocks_.size()) + index);
  if (started_ || present_[place]) return Internal("exchange: worker %d puts block %d twice", worker.value, block.id.value);
  present_[place] = true;
  ++puts_;
  return EncodeFramed(*block.codec, span, KeyOf(worker.value, block), Message(worker.value, block));
}

absl::Status MessageBucket::DecodeOwn(WorkerId worker, int index, const Tensor& x) const {
  const Block& block = blocks_[index];
  CHECK(!started_);
  return DecodeFramed(*block.codec, Message(worker.value, block), KeyOf(worker.value, block), x);
}

absl::Status MessageBucket::Start() {
  CHECK(!started_);
  started_ = true;
  size_t place = 0;
  for (int worker = own_.lo; worker < own_.hi; ++worker) {
    for (const Block& block : blocks_) {
      if (!present_[place++] && senders_.row(worker) >= 0) WriteFrame(Message(worker, block), KeyOf(worker, block), FrameKind::kAbsent, 0);
    }
  }
  if (!fixed_sizes_) {
    own_bytes_ = CloseGaps();
    for (int j = 0; j < group_->size(); ++j) {
      if (j != group_->rank()) messages_exchange_.SetBytes(j, own_bytes_);
    }
  }
  return messages_exchange_.Start();
}

int64_t MessageBucket::CloseGaps() {
  std::byte* const first = messages_.data() + own_.lo * stride_;
  std::byte* end = first;
  for (int worker = own_.lo; worker < own_.hi; ++worker) {
    if (senders_.row(worker) < 0) continue;
    for (const Block& block : blocks_) {
      const std::span<std::byte> message = Message(worker, block);
      const int64_t bytes = FramedBytes(message);
      std::memmove(end, message.data(), static_cast<size_t>(bytes));
      end += bytes;
    }
  }
  return end - first;
}

absl::Status MessageBucket::FindMessages() {
  for (int j = 0; j < group_->size(); ++j) {
    int64_t left = j == group_->rank() ? own_bytes_ : messages_exchange_.received(j);
    const TreeNode& range = senders_.range(j);
    const std::byte* next = messages_.data() + range.lo * stride_;
    for (int worker = range.lo; worker < range.hi; ++worker) {
      if (senders_.row(worker) < 0) continue;
      for (size_t i = 0; i < blocks_.size(); ++i) {
        const int64_t bytes = FramedBytes({next, static_cast<size_t>(left)});
        if (bytes > left) return DataLoss("exchange: the messages of rank %d of %s end inside worker %d's", j, group_->name(), worker);
        found_[static_cast<size_t>(worker) * blocks_.size() + i] = {next, static_cast<size_t>(bytes)};
        next += bytes;
        left -= bytes;
      }
    }
  }
  return absl::OkStatus();
}

absl::Status MessageBucket::Deliver(const FlatVector& aggregate) {
  RETURN_IF_ERROR(messages_exchange_.Wait());
  if (!fixed_sizes_) RETURN_IF_ERROR(FindMessages());
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const Block& block = blocks_[i];
    const Tensor vector(decoded_.data(), {block.elements}, dtype_);
    TreeAccumulator& tree = trees_[i];
    tree.Reset();
    for (int worker = 0; worker < workers_; ++worker) {
      if (senders_.row(worker) < 0) continue;
      const auto message = fixed_sizes_ ? Message(worker, block) : found_[static_cast<size_t>(worker) * blocks_.size() + i];
      RETURN_IF_ERROR(DecodeFramed(*block.codec, message, KeyOf(worker, block), vector));
      CHECK(tree.Add(worker, vector.raw()));
    }
    tree.Close();
    CHECK_EQ(tree.partials().size(), 1u);
    ScaleInto(dtype_, 1.0 / workers_, tree.partials()[0].data, aggregate.block(block.id).raw(), block.elements);
  }
  return absl::OkStatus();
}

}  // namespace conclave
