#include "comm/group_bucket.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "comm/region_exchange.h"
#include "comm/sums.h"
#include "comm/worker_ranges.h"

namespace conclave {
namespace {

constexpr int64_t kGroupAlignment = 64;

}  // namespace

int WorkerGroups::LeaderOf(const WorkerMap& workers, bool expert, int group) const {
  const int members = expert ? workers.ranks / workers.expert_axis : workers.ranks;
  const int worker = members < groups ? (group + 1) * size - 1 : group * size;
  return MemberOf(workers, expert, worker);
}

GroupBucket::GroupBucket(const ExchangeContext& context, BucketPlan plan, const WorkerGroups& groups)
    : groups_(groups),
      dtype_(context.dtype),
      expert_(plan.expert),
      group_(plan.expert ? context.data : context.world),
      blocks_(std::move(plan.blocks)) {
  for (const BlockId id : blocks_) {
    offsets_.push_back(bytes_);
    sizes_.push_back(context.layout->parameters()[id].shape.elements());
    elements_ += sizes_.back();
    bytes_ = elements_ * SizeOf(dtype_);
  }
  slot_bytes_ = (bytes_ + kGroupAlignment - 1) / kGroupAlignment * kGroupAlignment;
  PlanLanes(context);
  PlanUp(context);
  PlanBack(context);
  PlanLogical(context);
  group_->Reserve(2, /*streams=*/1);
  Begin();
}

// Each source's workers, cut where a group ends.
void GroupBucket::PlanLanes(const ExchangeContext& context) {
  const WorkerMap& w = context.workers;
  const int me = group_->rank(), k = groups_.size;
  const int first = expert_ ? me * w.expert_axis : me, sources = expert_ ? w.expert_axis : 1;
  int slots = 0;
  for (int rank = first; rank < first + sources; ++rank) {
    for (int lo = w.First(rank); lo < w.First(rank + 1);) {
      const int group = lo / k, hi = std::min(w.First(rank + 1), (group + 1) * k);
      lanes_.push_back({.first = lo, .last = hi, .group = group, .first_slot = slots});
      slots += TreeAccumulator::SlotsNeeded(lo - group * k, hi - group * k, k);
      lo = hi;
    }
  }
  memory_ = Buffer(std::max(slots * slot_bytes_, kGroupAlignment));
  for (Lane& lane : lanes_) {
    const TreeNode interval{lane.first - lane.group * k, lane.last - lane.group * k};
    for (size_t i = 0; i < blocks_.size(); ++i) {
      lane.sums.emplace_back(interval, k, dtype_, sizes_[i], TreeAccumulator::Memory{Slot(lane.first_slot) + offsets_[i], slot_bytes_});
    }
    expected_ += (lane.last - lane.first) * static_cast<int64_t>(blocks_.size());
  }
  if (lanes_.empty()) return;
  own_first_ = lanes_.front().group;
  own_.resize(static_cast<size_t>(lanes_.back().group - own_first_ + 1));
  for (std::vector<Partial>& partials : own_) partials.reserve(static_cast<size_t>(slots));
}

GroupBucket::Pieces GroupBucket::PiecesOf(const ExchangeContext& context, int member, int group) const {
  const TreeNode workers = WorkersOf(context.workers, expert_, member);
  const int k = groups_.size, lo = std::max(workers.lo, group * k), hi = std::min(workers.hi, (group + 1) * k);
  Pieces pieces{.group = group, .member = member};
  if (lo < hi) pieces.nodes = Cover(lo - group * k, hi - group * k, k);
  return pieces;
}

void GroupBucket::PlanUp(const ExchangeContext& context) {
  const int me = group_->rank(), size = group_->size();
  send_bytes_.assign(static_cast<size_t>(size), 0), send_offsets_ = recv_bytes_ = recv_offsets_ = send_bytes_;
  int64_t sent = 0, received = 0;
  size_t most = 1;
  for (int group = 0; group < groups_.groups; ++group) {
    const int leader = groups_.LeaderOf(context.workers, expert_, group);
    if (leader == me) {
      led_.push_back(group);
      continue;
    }
    Pieces pieces = PiecesOf(context, me, group);
    if (pieces.nodes.empty()) continue;
    const auto at = static_cast<size_t>(leader);
    const int64_t bytes = static_cast<int64_t>(pieces.nodes.size()) * bytes_;
    if (send_bytes_[at] == 0) send_offsets_[at] = sent;
    send_bytes_[at] += bytes;
    pieces.member = leader, pieces.offset = sent;
    sent += bytes;
    going_.push_back(std::move(pieces));
  }
  for (int member = 0; member < size; ++member) {
    recv_offsets_[static_cast<size_t>(member)] = received;
    for (const int group : led_) {
      Pieces pieces = PiecesOf(context, member, group);
      most = std::max(most, pieces.nodes.size() * static_cast<size_t>(size));
      if (member == me || pieces.nodes.empty()) continue;
      pieces.offset = received;
      received += static_cast<int64_t>(pieces.nodes.size()) * bytes_;
      coming_.push_back(std::move(pieces));
    }
    recv_bytes_[static_cast<size_t>(member)] = received - recv_offsets_[static_cast<size_t>(member)];
  }
  sent_ = Buffer(std::max(sent, kGroupAlignment));
  received_ = Buffer(std::max(received, kGroupAlignment));
  merged_.reserve(most);
}

void GroupBucket::PlanBack(const ExchangeContext& context) {
  const int me = group_->rank(), size = group_->size();
  back_send_.assign(static_cast<size_t>(size), 0), back_recv_ = back_offsets_ = back_send_;
  std::vector<bool> leads(static_cast<size_t>(size));
  for (int group = 0; group < groups_.groups; ++group) leads[static_cast<size_t>(groups_.LeaderOf(context.workers, expert_, group))] = true;
  for (int member = 0; member < size; ++member) {
    if (leads[static_cast<size_t>(member)]) continue;
    const int group = WorkersOf(context.workers, expert_, member).lo / groups_.size;
    const int source = groups_.LeaderOf(context.workers, expert_, group);
    if (member == me) back_recv_[static_cast<size_t>(source)] = bytes_;
    if (source == me) back_send_[static_cast<size_t>(member)] = bytes_;
  }
  outcome_ = Buffer(std::max(slot_bytes_, kGroupAlignment));
}

void GroupBucket::PlanLogical(const ExchangeContext& context) {
  const TreeNode own = WorkersOf(context.workers, expert_, group_->rank());
  if (expert_) {
    for (const int64_t bytes : send_bytes_) logical_.uplink_bytes += bytes, logical_.messages += bytes > 0 ? 1 : 0;
    for (const int64_t bytes : back_send_) logical_.downlink_bytes += bytes, logical_.messages += bytes > 0 ? 1 : 0;
    logical_.encoded_bytes = logical_.dense_bytes = (own.hi - own.lo - static_cast<int64_t>(led_.size())) * bytes_;
    return;
  }
  for (int worker = own.lo; worker < own.hi; ++worker) {
    const bool leads = worker % groups_.size == 0;
    const int64_t others = leads ? groups_.size - 1 : 1;
    (leads ? logical_.downlink_bytes : logical_.uplink_bytes) += others * bytes_;
    logical_.messages += others;
    if (!leads) logical_.encoded_bytes += bytes_, logical_.dense_bytes += bytes_;
  }
}

void GroupBucket::Begin() {
  puts_ = 0;
  started_ = false;
  for (Lane& lane : lanes_) {
    for (TreeAccumulator& sum : lane.sums) sum.Reset();
  }
}

absl::Status GroupBucket::Put(WorkerId worker, int index, const Tensor& span) {
  CHECK(span.elements() == sizes_[static_cast<size_t>(index)] && span.dtype() == dtype_) << span.elements() << ' ' << NameOf(span.dtype());
  for (Lane& lane : lanes_) {
    if (worker.value < lane.first || worker.value >= lane.last || started_) continue;
    if (!lane.sums[static_cast<size_t>(index)].Add(worker.value - lane.group * groups_.size, span.raw())) break;
    ++puts_;
    return absl::OkStatus();
  }
  return Internal("exchange: worker %d puts block %d twice, after a later worker, or is not of this rank", worker.value,
                  blocks_[static_cast<size_t>(index)].value);
}

// All blocks have the same partial sums by now, so the bucket has them as a whole.
void GroupBucket::ClosePartials() {
  for (std::vector<Partial>& partials : own_) partials.clear();
  for (Lane& lane : lanes_) {
    for (TreeAccumulator& sum : lane.sums) sum.Close();
    std::vector<Partial>& partials = own_[static_cast<size_t>(lane.group - own_first_)];
    int slot = lane.first_slot;
    for (const Partial& partial : lane.sums[0].partials()) partials.push_back({partial.node, Slot(slot++)});
  }
  for (std::vector<Partial>& partials : own_) {
    partials.resize(static_cast<size_t>(MergeSiblings(partials, groups_.size, dtype_, elements_)));
  }
}

absl::Status GroupBucket::Start() {
  CHECK(!started_);
  started_ = true;
  ClosePartials();
  for (const Pieces& pieces : going_) {
    const std::vector<Partial>& partials = own_[static_cast<size_t>(pieces.group - own_first_)];
    CHECK_EQ(partials.size(), pieces.nodes.size());
    for (size_t i = 0; i < partials.size(); ++i) {
      std::memcpy(sent_.data() + pieces.offset + static_cast<int64_t>(i) * bytes_, partials[i].data, static_cast<size_t>(bytes_));
    }
  }
  ASSIGN_OR_RETURN(request_, group_->Start({.kind = CollectiveKind::kAllToAllV,
                                            .label = expert_ ? "experts.group" : "exchange.group",
                                            .send = AllBytes(sent_),
                                            .recv = AllBytes(received_),
                                            .send_bytes = send_bytes_,
                                            .send_offsets = send_offsets_,
                                            .recv_bytes = recv_bytes_,
                                            .recv_offsets = recv_offsets_,
                                            .background = true}));
  return absl::OkStatus();
}

absl::Status GroupBucket::FinishSums(const Take& take) {
  RETURN_IF_ERROR(group_->Wait(request_));
  for (const int group : led_) {
    merged_.clear();
    const auto add_own = [&] {
      for (const Partial& partial : own_[static_cast<size_t>(group - own_first_)]) merged_.push_back(partial);
    };
    bool added = false;
    for (const Pieces& pieces : coming_) {
      if (pieces.group != group) continue;
      if (!added && pieces.member > group_->rank()) add_own(), added = true;
      for (size_t i = 0; i < pieces.nodes.size(); ++i) {
        merged_.push_back({pieces.nodes[i], received_.data() + pieces.offset + static_cast<int64_t>(i) * bytes_});
      }
    }
    if (!added) add_own();
    CHECK_EQ(MergeSiblings(merged_, groups_.size, dtype_, elements_), 1);
    std::byte* const mean = merged_[0].data;
    ScaleInto(dtype_, 1.0 / groups_.size, mean, mean, elements_);
    for (size_t i = 0; i < blocks_.size(); ++i) {
      RETURN_IF_ERROR(take(group, blocks_[i], Tensor(mean + offsets_[i], {sizes_[i]}, dtype_)));
    }
  }
  return absl::OkStatus();
}

absl::Status GroupBucket::StartBack(const FlatVector* outcome) {
  CHECK(leads() == (outcome != nullptr));
  if (leads()) {
    for (size_t i = 0; i < blocks_.size(); ++i) {
      std::memcpy(outcome_.data() + offsets_[i], outcome->block(blocks_[i]).raw(), static_cast<size_t>(sizes_[i] * SizeOf(dtype_)));
    }
  }
  ASSIGN_OR_RETURN(request_, group_->Start({.kind = CollectiveKind::kAllToAllV,
                                            .label = expert_ ? "experts.group means" : "exchange.group means",
                                            .send = AllBytes(outcome_),
                                            .recv = AllBytes(outcome_),
                                            .send_bytes = back_send_,
                                            .send_offsets = back_offsets_,
                                            .recv_bytes = back_recv_,
                                            .recv_offsets = back_offsets_,
                                            .background = true}));
  return absl::OkStatus();
}

absl::Status GroupBucket::Deliver(const FlatVector& to) {
  RETURN_IF_ERROR(group_->Wait(request_));
  for (size_t i = 0; i < blocks_.size(); ++i) {
    std::memcpy(to.block(blocks_[i]).raw(), outcome_.data() + offsets_[i], static_cast<size_t>(sizes_[i] * SizeOf(dtype_)));
  }
  return absl::OkStatus();
}

}  // namespace conclave
