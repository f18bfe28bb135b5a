#include "comm/message_bucket.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "comm/sums.h"

namespace conclave {
namespace {

constexpr int64_t kLeastBytes = 64;

bool IsFinite(const Tensor& x) {
  return DispatchFloat(x.dtype(), [&](auto t) {
    using T = decltype(t);
    const T* const v = x.data<T>();
    T zero = 0;  // 0 * v is NaN exactly where v is not finite
    for (int64_t i = 0; i < x.elements(); ++i) zero += v[i] * T{0};
    return zero == T{0};
  });
}

}  // namespace

int64_t EncodeFramed(const Compressor& codec, const Tensor& x, const CodecKey& key, std::span<std::byte> buffer) {
  if (!IsFinite(x)) {
    WriteFrame(buffer, key, FrameKind::kPoison, 0);
    return 0;
  }
  const int64_t payload = codec.Encode(x, key, buffer.subspan(kFrameBytes));
  WriteFrame(buffer, key, FrameKind::kValues, payload);
  return payload;
}

absl::Status DecodeFramed(const Compressor& codec, std::span<const std::byte> buffer, const CodecKey& key, const Tensor& x) {
  ASSIGN_OR_RETURN(const Frame frame, ReadFrame(buffer, key));
  switch (frame.kind) {
    case FrameKind::kValues:
      return codec.Decode(frame.payload, key, x);
    case FrameKind::kAbsent:
      x.Zero();
      return absl::OkStatus();
    case FrameKind::kPoison:
      x.Fill(std::numeric_limits<double>::quiet_NaN());
      return absl::OkStatus();
  }
  return absl::InternalError("unknown frame kind");
}

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
  const auto range = [&](int member) -> Range {
    if (!expert_) return {workers.First(member), workers.First(member + 1)};
    return {workers.ColumnFirst(member), workers.ColumnFirst(member) + workers.ColumnCount(member)};
  };
  own_ = range(me);
  messages_ = Buffer(std::max(workers_ * stride_, kLeastBytes));
  present_.resize(own_.size() * static_cast<int64_t>(blocks_.size()));
  for (int j = 0; j < size; ++j) {
    send_bytes_.push_back(j == me ? 0 : own_.size() * stride_);
    send_offsets_.push_back(own_.lo * stride_);
    recv_bytes_.push_back(j == me ? 0 : range(j).size() * stride_);
    recv_offsets_.push_back(range(j).lo * stride_);
  }
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

absl::Status MessageBucket::Start() {
  CHECK(!started_);
  started_ = true;
  size_t place = 0;
  for (int worker = own_.lo; worker < own_.hi; ++worker) {
    for (const Block& block : blocks_) {
      if (!present_[place++]) WriteFrame(Message(worker, block), KeyOf(worker, block), FrameKind::kAbsent, 0);
    }
  }
  const Tensor all(messages_.data(), {messages_.bytes()}, DType::kU8);
  ASSIGN_OR_RETURN(request_, group_->Start({.kind = CollectiveKind::kAllToAllV,
                                            .label = expert_ ? "experts.messages" : "exchange.messages",
                                            .send = all,
                                            .recv = all,
                                            .send_bytes = send_bytes_,
                                            .send_offsets = send_offsets_,
                                            .recv_bytes = recv_bytes_,
                                            .recv_offsets = recv_offsets_}));
  return absl::OkStatus();
}

absl::Status MessageBucket::Poll() { return request_.active() ? group_->Test(request_).status() : absl::OkStatus(); }

absl::Status MessageBucket::Deliver(const FlatVector& aggregate) {
  RETURN_IF_ERROR(group_->Wait(request_));
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const Block& block = blocks_[i];
    const Tensor vector(decoded_.data(), {block.elements}, dtype_);
    TreeAccumulator& tree = trees_[i];
    tree.Reset();
    for (int worker = 0; worker < workers_; ++worker) {
      RETURN_IF_ERROR(DecodeFramed(*block.codec, Message(worker, block), KeyOf(worker, block), vector));
      CHECK(tree.Add(worker, vector.raw()));
    }
    CHECK_EQ(tree.partials().size(), 1u);
    ScaleInto(dtype_, 1.0 / workers_, tree.partials()[0].data, aggregate.block(block.id).raw(), block.elements);
  }
  return absl::OkStatus();
}

}  // namespace conclave
