#include "comm/served_bucket.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "comm/framed_codec.h"
#include "comm/sums.h"

namespace conclave {
namespace {

constexpr int64_t kLeastMemory = 64;

}  // namespace

ServedBucket::ServedBucket(const ExchangeContext& context, const BucketPlan& plan, const BlockCodecs& codecs)
    : workers_(context.workers.workers),
      dtype_(context.dtype),
      expert_(plan.expert),
      group_(plan.expert ? context.data : context.world),
      me_(group_->rank()),
      senders_(context, expert_),
      own_(senders_.range(me_)),
      blocks_(plan.blocks),
      receives_(static_cast<size_t>(LogicalMembers())) {
  PlanParts(context, plan, codecs);
  runs_ = ServedRuns(group_, {.workers = WorkersOfMembers(context, expert_),
                              .up_most = stride_,
                              .down_most = down_size_,
                              .lengths_label = expert_ ? "experts.lengths" : "exchange.lengths",
                              .up_label = expert_ ? "experts.up" : "exchange.up",
                              .down_label = expert_ ? "experts.down" : "exchange.down",
                              .fixed_up = fixed_up_,
                              .fixed_down = fixed_down_});
  PlanLogical();
  Begin();
}

void ServedBucket::PlanParts(const ExchangeContext& context, const BucketPlan& plan, const BlockCodecs& codecs) {
  const auto size = static_cast<size_t>(group_->size());
  stride_.resize(size);
  down_size_.resize(size);
  next_mean_.resize(size);
  int64_t largest = 1;
  for (const BlockId block : plan.blocks) {
    first_part_.push_back(parts_.size());
    int number = 0;
    for (const CodedPiece& piece : codecs[block]) {
      const int server = MemberOf(context.workers, expert_, piece.range.server);
      Part part{.id = {.block = block, .part = number++, .first = piece.range.first},
                .elements = piece.range.elements,
                .up = piece.up.get(),
                .down = piece.down.get(),
                .server = server,
                .server_worker = piece.range.server};
      part.up_bytes = kFrameBytes + part.up->MaxWireBytes();
      part.up_offset = stride_[static_cast<size_t>(server)];
      stride_[static_cast<size_t>(server)] += part.up_bytes;
      part.down_bytes = kFrameBytes + part.down->MaxWireBytes();
      part.down_offset = down_size_[static_cast<size_t>(server)];
      down_size_[static_cast<size_t>(server)] += part.down_bytes;
      fixed_up_ = fixed_up_ && part.up->Contract().fixed_size;
      fixed_down_ = fixed_down_ && part.down->Contract().fixed_size;
      if (server == me_) served_.push_back(parts_.size());
      largest = std::max(largest, part.elements);
      parts_.push_back(part);
    }
  }
  first_part_.push_back(parts_.size());
  present_.resize(blocks_.size() * static_cast<size_t>(own_.hi - own_.lo));
  found_.resize(served_.size() * static_cast<size_t>(workers_));
  const int64_t vector_bytes = (largest * SizeOf(dtype_) + kLeastMemory - 1) / kLeastMemory * kLeastMemory;
  decoded_ = Buffer(vector_bytes);
  sums_ = Buffer(vector_bytes * TreeAccumulator::SlotsNeeded(0, workers_, workers_));
  for (const size_t i : served_) {
    trees_.emplace_back(TreeNode{0, workers_}, workers_, dtype_, parts_[i].elements, TreeAccumulator::Memory{sums_.data(), vector_bytes});
  }
}

// With one worker a rank for replicated blocks; what this rank really sends for expert blocks.
void ServedBucket::PlanLogical() {
  logical_ = LogicalWire();
  if (expert_) return AddLogical(me_, senders_.count(me_));
  for (int worker = own_.lo; worker < own_.hi; ++worker) AddLogical(worker, senders_.row(worker) >= 0 ? 1 : 0);
}

void ServedBucket::AddLogical(int member, int64_t workers) {
  const int64_t others = LogicalMembers() - 1;
  std::fill(receives_.begin(), receives_.end(), false);
  bool serves = false;
  for (const Part& part : parts_) {
    const int server = LogicalServer(part);
    int64_t& bytes = server == member ? logical_.downlink_bytes : logical_.uplink_bytes;
    const int64_t copies = server == member ? others : workers;
    const bool fixed = server == member ? fixed_down_ : fixed_up_;
    const int64_t most = server == member ? part.down_bytes : part.up_bytes;
    logical_.header_bytes += copies * kFrameBytes;
    bytes += copies * (fixed ? most : kFrameBytes);
    receives_[static_cast<size_t>(server)] = server != member && workers > 0;
    serves = serves || server == member;
  }
  const int64_t receivers = std::ranges::count(receives_, true), takers = serves ? others : 0;
  const int64_t up_lengths = fixed_up_ ? 0 : receivers, down_lengths = fixed_down_ ? 0 : takers;
  logical_.messages += receivers + takers + up_lengths + down_lengths;
  logical_.header_bytes += (up_lengths + down_lengths) * kLengthBytes;
  logical_.uplink_bytes += up_lengths * kLengthBytes;
  logical_.downlink_bytes += down_lengths * kLengthBytes;
}

void ServedBucket::Begin() {
  puts_ = 0;
  started_ = false;
  present_.assign(present_.size(), false);
  if (senders_.Update()) {
    for (int j = 0; j < group_->size(); ++j) {
      runs_.up.SetMost(j, senders_.count(me_) * stride_[static_cast<size_t>(j)], senders_.count(j) * stride_[static_cast<size_t>(me_)]);
    }
    PlanLogical();
  }
  now_ = logical_;
}

CodecKey ServedBucket::KeyOf(WorkerId worker, const Part& part) const {
  CodecKey key = key_;
  key.block = part.id.block;
  key.part = part.id.part;
  key.first = part.id.first;
  key.worker = worker;
  return key;
}

std::span<std::byte> ServedBucket::Message(int worker, const Part& part) const {
  const auto server = static_cast<size_t>(part.server);
  const int64_t offset = runs_.sent_start[server] + (senders_.row(worker) - own_.lo) * stride_[server] + part.up_offset;
  return {runs_.sent.data() + offset, static_cast<size_t>(part.up_bytes)};
}

absl::StatusOr<int64_t> ServedBucket::Put(WorkerId worker, int index, const Tensor& x, const Tensor* decoded) {
  const BlockId block = blocks_[static_cast<size_t>(index)];
  RETURN_IF_ERROR(senders_.Check(group_->rank(), worker, block));
  const size_t place = static_cast<size_t>(worker.value - own_.lo) * blocks_.size() + static_cast<size_t>(index);
  if (started_ || present_[place]) return Internal("exchange: worker %d puts block %d twice", worker.value, block.value);
  present_[place] = true;
  ++puts_;
  int64_t payload = 0;
  for (size_t i = first_part_[static_cast<size_t>(index)]; i < first_part_[static_cast<size_t>(index) + 1]; ++i) {
    const Part& part = parts_[i];
    const CodecKey key = KeyOf(worker, part);
    const std::span<std::byte> message = Message(worker.value, part);
    const int64_t bytes = EncodeFramed(*part.up, x.Flat().Slice(part.id.first, part.elements), key, message);
    if (decoded != nullptr) {
      RETURN_IF_ERROR(DecodeFramed(*part.up, message, key, decoded->Flat().Slice(part.id.first, part.elements)));
    }
    if (!fixed_up_ && LogicalServer(part) != (expert_ ? me_ : worker.value)) now_.uplink_bytes += bytes;
    payload += bytes;
  }
  return payload;
}

absl::Status ServedBucket::Start() {
  CHECK(!started_);
  started_ = true;
  size_t place = 0;
  for (int worker = own_.lo; worker < own_.hi; ++worker) {
    for (size_t index = 0; index < blocks_.size(); ++index) {
      if (present_[place++] || senders_.row(worker) < 0) continue;
      for (size_t i = first_part_[index]; i < first_part_[index + 1]; ++i) {
        WriteFrame(Message(worker, parts_[i]), KeyOf({worker}, parts_[i]), FrameKind::kAbsent, 0);
      }
    }
  }
  if (!fixed_up_) CloseGaps();
  return runs_.up.Start();
}

// Between the messages to each other member.
void ServedBucket::CloseGaps() {
  for (int j = 0; j < group_->size(); ++j) {
    if (j == me_) continue;
    std::byte* const begin = runs_.sent.data() + runs_.sent_start[static_cast<size_t>(j)];
    std::byte* end = begin;
    for (int worker = own_.lo; worker < own_.hi; ++worker) {
      for (const Part& part : parts_) {
        if (part.server != j || senders_.row(worker) < 0) continue;
        const std::span<std::byte> message = Message(worker, part);
        const int64_t bytes = FramedBytes(message);
        std::memmove(end, message.data(), static_cast<size_t>(bytes));
        end += bytes;
      }
    }
    runs_.up.SetBytes(j, end - begin);
  }
}

absl::Status ServedBucket::FindMessages() {
  const auto workers = static_cast<size_t>(workers_);
  for (int j = 0; j < group_->size(); ++j) {
    const TreeNode& range = senders_.range(j);
    const std::byte* next = runs_.received.data() + runs_.received_start[static_cast<size_t>(j)];
    int64_t left = runs_.up.received(j);
    for (int worker = range.lo; worker < range.hi; ++worker) {
      for (size_t i = 0; i < served_.size() && senders_.row(worker) >= 0; ++i) {
        const Part& part = parts_[served_[i]];
        std::span<const std::byte>& found = found_[i * workers + static_cast<size_t>(worker)];
        if (j == me_) {
          found = Message(worker, part);
          continue;
        }
        const int64_t bytes = fixed_up_ ? part.up_bytes : FramedBytes({next, static_cast<size_t>(left)});
        if (bytes > left) return DataLoss("exchange: the messages of rank %d of %s end inside worker %d's", j, group_->name(), worker);
        found = {next, static_cast<size_t>(bytes)};
        next += bytes;
        left -= bytes;
      }
    }
  }
  return absl::OkStatus();
}

// Adds the part up and writes its mean's message.
absl::Status ServedBucket::Serve(size_t index, std::span<std::byte> message) {
  const Part& part = parts_[served_[index]];
  const Tensor vector = decoded_.View(0, {part.elements}, dtype_);
  TreeAccumulator& tree = trees_[index];
  tree.Reset();
  for (int worker = 0; worker < workers_; ++worker) {
    if (senders_.row(worker) < 0) continue;
    const std::span<const std::byte> found = found_[index * static_cast<size_t>(workers_) + static_cast<size_t>(worker)];
    RETURN_IF_ERROR(DecodeFramed(*part.up, found, KeyOf({worker}, part), vector));
    CHECK(tree.Add(worker, vector.raw()));
  }
  tree.Close();
  CHECK_EQ(tree.partials().size(), 1u);
  const Tensor mean(tree.partials()[0].data, {part.elements}, dtype_);
  ScaleInto(dtype_, 1.0 / workers_, mean.raw(), mean.raw(), part.elements);
  if (server_ != nullptr) server_->BeforeDown(part.id, mean);
  const CodecKey key = KeyOf(kServer, part);
  const int64_t payload = EncodeFramed(*part.down, mean, key, message);
  if (!fixed_down_) now_.downlink_bytes += (LogicalMembers() - 1) * payload;
  if (server_ == nullptr) return absl::OkStatus();
  RETURN_IF_ERROR(DecodeFramed(*part.down, message, key, vector));
  server_->AfterDown(part.id, mean, vector);
  return absl::OkStatus();
}

absl::Status ServedBucket::FinishSums() {
  RETURN_IF_ERROR(runs_.up.Post());
  RETURN_IF_ERROR(runs_.up.Wait());
  RETURN_IF_ERROR(FindMessages());
  std::byte* const begin = runs_.means.data() + runs_.means_start[static_cast<size_t>(me_)];
  std::byte* end = begin;
  for (size_t i = 0; i < served_.size(); ++i) {
    const std::span<std::byte> message{end, static_cast<size_t>(parts_[served_[i]].down_bytes)};
    RETURN_IF_ERROR(Serve(i, message));
    end += fixed_down_ ? parts_[served_[i]].down_bytes : FramedBytes(message);
  }
  for (int j = 0; j < group_->size() && !fixed_down_; ++j) {
    if (j != me_) runs_.down.SetBytes(j, end - begin);
  }
  own_means_ = end - begin;
  return runs_.down.Start();
}

absl::Status ServedBucket::Deliver(const FlatVector& aggregate) {
  RETURN_IF_ERROR(runs_.down.Post());
  RETURN_IF_ERROR(runs_.down.Wait());
  for (size_t j = 0; j < runs_.means_start.size(); ++j) {
    next_mean_[j] = {runs_.means.data() + runs_.means_start[j],
                     static_cast<size_t>(static_cast<int>(j) == me_ ? own_means_ : runs_.down.received(static_cast<int>(j)))};
  }
  for (const Part& part : parts_) {
    std::span<const std::byte>& next = next_mean_[static_cast<size_t>(part.server)];
    const int64_t bytes = fixed_down_ ? part.down_bytes : FramedBytes(next);
    if (bytes > static_cast<int64_t>(next.size())) {
      return DataLoss("exchange: the means of rank %d of %s end inside block %d's", part.server, group_->name(), part.id.block.value);
    }
    const Tensor out = aggregate.block(part.id.block).Flat().Slice(part.id.first, part.elements);
    RETURN_IF_ERROR(DecodeFramed(*part.down, next.first(static_cast<size_t>(bytes)), KeyOf(kServer, part), out));
    next = next.subspan(static_cast<size_t>(bytes));
  }
  return absl::OkStatus();
}

}  // namespace conclave
