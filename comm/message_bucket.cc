#include "comm/message_bucket.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "comm/region_exchange.h"
#include "comm/sums.h"

namespace conclave {
namespace {

constexpr int64_t kLeastBytes = 64;

}  // namespace

MessageBucket::MessageBucket(const ExchangeContext& context, BucketPlan plan, std::vector<const Compressor*> codecs)
    : workers_(context.workers.workers), dtype_(context.dtype), expert_(plan.expert), group_(plan.expert ? context.data : context.world) {
  CHECK(group_ != nullptr);
  int64_t largest = 0;
  for (size_t i = 0; i < plan.blocks.size(); ++i) {
    const int64_t elements = context.layout->parameters()[plan.blocks[i]].shape.elements();
    const int64_t bytes = kFrameBytes + codecs[i]->MaxWireBytes();
    blocks_.push_back({.id = plan.blocks[i], .codec = codecs[i], .elements = elements, .offset = stride_, .bytes = bytes});
    stride_ += bytes;
    largest = std::max(largest, elements);
  }
  PlanExchange(context.workers);
  const int64_t vector_bytes = std::max(largest * SizeOf(dtype_), kLeastBytes);
  decoded_ = Buffer(vector_bytes);
  sums_ = Buffer(vector_bytes * TreeAccumulator::SlotsNeeded(0, workers_, workers_));
  for (const Block& block : blocks_) {
    trees_.emplace_back(TreeNode{0, workers_}, workers_, dtype_, block.elements, TreeAccumulator::Memory{sums_.data(), vector_bytes});
  }
  Begin();
}

void MessageBucket::PlanExchange(const WorkerMap& workers) {
  const int me = group_->rank(), size = group_->size();
  for (int j = 0; j < size; ++j) {
    if (expert_) {
      ranges_.push_back({workers.ColumnFirst(j), workers.ColumnFirst(j) + workers.ColumnCount(j)});
    } else {
      ranges_.push_back({workers.First(j), workers.First(j + 1)});
    }
  }
  own_ = ranges_[me];
  messages_ = Buffer(std::max(workers_ * stride_, kLeastBytes));
  present_.resize(own_.size() * static_cast<int64_t>(blocks_.size()));
  for (int j = 0; j < size; ++j) {
    send_bytes_.push_back(j == me ? 0 : own_.size() * stride_);
    send_offsets_.push_back(own_.lo * stride_);
    recv_bytes_.push_back(j == me ? 0 : ranges_[j].size() * stride_);
    recv_offsets_.push_back(ranges_[j].lo * stride_);
  }
  for (const Block& block : blocks_) fixed_sizes_ = fixed_sizes_ && block.codec->Contract().fixed_size;
  found_.resize(static_cast<size_t>(workers_) * blocks_.size());
  lengths_ = Buffer(std::max(size * kLengthBytes, kLeastBytes));
  length_bytes_.assign(size, kLengthBytes);
  length_bytes_[me] = 0;
  own_length_.assign(size, me * kLengthBytes);
  for (int j = 0; j < size; ++j) length_offsets_.push_back(j * kLengthBytes);
}

void MessageBucket::Begin() {
  puts_ = 0;
  started_ = false;
  present_.assign(present_.size(), false);
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
  if (worker.value < own_.lo || worker.value >= own_.hi) {
    return Internal("exchange: worker %d puts block %d, but workers %d to %d feed this rank", worker.value, block.id.value, own_.lo,
                    own_.hi - 1);
  }
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
      if (!present_[place++]) WriteFrame(Message(worker, block), KeyOf(worker, block), FrameKind::kAbsent, 0);
    }
  }
  if (fixed_sizes_) return SendMessages();
  const int64_t bytes = CloseGaps();
  std::memcpy(lengths_.data() + group_->rank() * kLengthBytes, &bytes, kLengthBytes);
  for (int j = 0; j < group_->size(); ++j) send_bytes_[j] = j == group_->rank() ? 0 : bytes;
  const Tensor all(lengths_.data(), {lengths_.bytes()}, DType::kU8);
  ASSIGN_OR_RETURN(request_, group_->Start({.kind = CollectiveKind::kAllToAllV,
                                            .label = expert_ ? "experts.lengths" : "exchange.lengths",
                                            .send = all,
                                            .recv = all,
                                            .send_bytes = length_bytes_,
                                            .send_offsets = own_length_,
                                            .recv_bytes = length_bytes_,
                                            .recv_offsets = length_offsets_,
                                            .background = true}));
  return absl::OkStatus();
}

absl::Status MessageBucket::SendMessages() {
  const Tensor all(messages_.data(), {messages_.bytes()}, DType::kU8);
  ASSIGN_OR_RETURN(request_, group_->Start({.kind = CollectiveKind::kAllToAllV,
                                            .label = expert_ ? "experts.messages" : "exchange.messages",
                                            .send = all,
                                            .recv = all,
                                            .send_bytes = send_bytes_,
                                            .send_offsets = send_offsets_,
                                            .recv_bytes = recv_bytes_,
                                            .recv_offsets = recv_offsets_,
                                            .background = true}));
  return absl::OkStatus();
}

int64_t MessageBucket::CloseGaps() {
  std::byte* const first = messages_.data() + own_.lo * stride_;
  std::byte* end = first;
  for (int worker = own_.lo; worker < own_.hi; ++worker) {
    for (const Block& block : blocks_) {
      const std::span<std::byte> message = Message(worker, block);
      const int64_t bytes = FramedBytes(message);
      std::memmove(end, message.data(), static_cast<size_t>(bytes));
      end += bytes;
    }
  }
  return end - first;
}

absl::Status MessageBucket::Poll() { return request_.active() ? group_->Test(request_).status() : absl::OkStatus(); }

absl::Status MessageBucket::FinishSums() {
  if (fixed_sizes_) return absl::OkStatus();
  RETURN_IF_ERROR(group_->Wait(request_));
  for (int j = 0; j < group_->size(); ++j) {
    int64_t bytes = 0;
    std::memcpy(&bytes, lengths_.data() + j * kLengthBytes, kLengthBytes);
    if (bytes < 0 || bytes > ranges_[j].size() * stride_) {
      return DataLoss("exchange: rank %d of %s announces messages of %d bytes, at most %d are possible", j, group_->name(), bytes,
                      ranges_[j].size() * stride_);
    }
    recv_bytes_[j] = j == group_->rank() ? 0 : bytes;
  }
  return SendMessages();
}

absl::Status MessageBucket::FindMessages() {
  for (int j = 0; j < group_->size(); ++j) {
    int64_t left = 0;
    std::memcpy(&left, lengths_.data() + j * kLengthBytes, kLengthBytes);
    const std::byte* next = messages_.data() + ranges_[j].lo * stride_;
    for (int worker = ranges_[j].lo; worker < ranges_[j].hi; ++worker) {
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
  RETURN_IF_ERROR(group_->Wait(request_));
  if (!fixed_sizes_) RETURN_IF_ERROR(FindMessages());
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const Block& block = blocks_[i];
    const Tensor vector(decoded_.data(), {block.elements}, dtype_);
    TreeAccumulator& tree = trees_[i];
    tree.Reset();
    for (int worker = 0; worker < workers_; ++worker) {
      const auto message = fixed_sizes_ ? Message(worker, block) : found_[static_cast<size_t>(worker) * blocks_.size() + i];
      RETURN_IF_ERROR(DecodeFramed(*block.codec, message, KeyOf(worker, block), vector));
      CHECK(tree.Add(worker, vector.raw()));
    }
    CHECK_EQ(tree.partials().size(), 1u);
    ScaleInto(dtype_, 1.0 / workers_, tree.partials()[0].data, aggregate.block(block.id).raw(), block.elements);
  }
  return absl::OkStatus();
}

}  // namespace conclave
