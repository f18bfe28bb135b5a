#include "comm/tree_bucket.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "comm/sums.h"

namespace conclave {
namespace {

constexpr int64_t kSlotAlignment = 64;

}  // namespace

void AddMeanOf(const MeanShare& share, LogicalWire& wire) {
  const auto chunk = [&](int i) {
    return share.elements * (i + 1) / share.parts * share.width - share.elements * i / share.parts * share.width;
  };
  int64_t filled = 0;
  for (int i = 0; i < share.parts; ++i) filled += chunk(i) > 0 ? 1 : 0;
  const int64_t mine = chunk(share.part), own = mine > 0 ? 1 : 0;
  wire.uplink_bytes += share.pieces * (share.elements * share.width - mine);
  wire.downlink_bytes += (share.parts - 1) * mine;
  wire.messages += share.pieces * (filled - own) + own * (share.parts - 1);
}

TreeBucket::TreeBucket(const ExchangeContext& context, BucketPlan plan, const TreeBucketOptions& options)
    : workers_(context.workers),
      dtype_(context.dtype),
      width_(SizeOf(context.dtype)),
      expert_(plan.expert),
      fold_(options.fold),
      book_(options.book),
      to_canonical_(context.to_canonical),
      group_(plan.expert ? context.data : context.world),
      direct_(options.fold && group_->size() == 1 ? options.aggregate : nullptr),
      senders_(context, expert_) {
  for (const BlockId id : plan.blocks) {
    CHECK_EQ(static_cast<int>(context.layout->home(id).owners.size()), group_->size()) << context.layout->parameters()[id].name;
  }
  PlanLanes();
  PlanBlocks(*context.layout, plan.blocks);
  PlanChunks(*context.layout);
  PlanRounds();
  PlanLogical();
  Begin();
}

// Which leaves this rank's vectors are, by source, and which pieces every member ships.
void TreeBucket::PlanLanes() {
  const int me = group_->rank(), size = group_->size();
  covers_.resize(size);
  if (fold_) {
    leaves_ = size;
    slots_ = 1;
    lanes_.push_back({.workers = {me, me + 1}});
    for (int j = 0; j < size; ++j) covers_[j] = {{j, j + 1}};
    return;
  }
  leaves_ = workers_.workers;
  for (int j = 0; j < size; ++j) {
    const TreeNode& interval = senders_.range(j);
    covers_[j] = Cover(interval.lo, interval.hi, leaves_);
  }
  const int first = expert_ ? me * workers_.expert_axis : me;
  const int sources = expert_ ? workers_.expert_axis : 1;
  for (int rank = first; rank < first + sources; ++rank) {
    const TreeNode own{workers_.First(rank), workers_.First(rank + 1)};
    if (own.lo == own.hi) continue;
    lanes_.push_back({.workers = own, .first_slot = slots_});
    slots_ += TreeAccumulator::SlotsNeeded(own.lo, own.hi, leaves_);
  }
}

void TreeBucket::PlanBlocks(const Layout& layout, const std::vector<BlockId>& ids) {
  for (const BlockId id : ids) {
    const int64_t n = layout.parameters()[id].shape.elements();
    blocks_.push_back({.id = id, .offset = elements_, .elements = n});
    elements_ += n;
  }
  slot_bytes_ = (elements_ * width_ + kSlotAlignment - 1) / kSlotAlignment * kSlotAlignment;
  memory_ = Buffer(direct_ != nullptr ? kSlotAlignment : std::max<int64_t>(slots_ * slot_bytes_, kSlotAlignment));
  partials_.reserve(slots_);
  if (fold_) return;
  for (Block& block : blocks_) {
    for (const Lane& lane : lanes_) {
      block.sums.emplace_back(lane.workers, leaves_, dtype_, block.elements,
                              TreeAccumulator::Memory{Slot(lane.first_slot) + block.offset * width_, slot_bytes_});
    }
  }
}

// Equal chunks; with to_canonical whole blocks, which come in the order of their canonical owners.
void TreeBucket::PlanChunks(const Layout& layout) {
  const int size = group_->size();
  for (int j = 0; j <= size; ++j) chunks_.push_back(to_canonical_ ? elements_ : elements_ * j / size);
  if (!to_canonical_) return;
  int next = 0;
  for (Block& block : blocks_) {
    const int owner = layout.home(block.id).canonical;
    block.mine = owner == layout.rank();
    for (; group_->GlobalRank(next) < owner; ++next) chunks_[next + 1] = block.offset;
    CHECK_EQ(group_->GlobalRank(next), owner) << layout.parameters()[block.id].name << ": blocks must come in the order of their owners";
  }
  chunks_[0] = 0;
}

void TreeBucket::PlanRounds() {
  const int me = group_->rank(), size = group_->size();
  if (size == 1) return;
  size_t most = 0, all = 0;
  for (const std::vector<TreeNode>& cover : covers_) {
    most = std::max(most, cover.size());
    all += cover.size();
  }
  pieces_.reserve(all);
  rounds_.resize(most);
  group_->Reserve(static_cast<int>(most) + 1, /*streams=*/2);  // and the way back
  int64_t received = 0;
  for (size_t k = 0; k < most; ++k) {
    Round& round = rounds_[k];
    round.send_bytes.assign(size, 0), round.send_offsets.assign(size, 0);
    round.recv_bytes.assign(size, 0), round.recv_offsets.assign(size, 0);
    for (int j = 0; j < size; ++j) {
      if (j == me) continue;
      round.send_offsets[j] = ChunkBegin(j);
      round.recv_offsets[j] = received;
      received += k < covers_[j].size() ? ChunkBytes(me) : 0;
    }
  }
  ChooseSends();
  received_ = Buffer(std::max<int64_t>(received, kSlotAlignment));
  means_.send_bytes.assign(size, ChunkBytes(me)), means_.send_offsets.assign(size, ChunkBegin(me));
  means_.recv_bytes.resize(size), means_.recv_offsets.resize(size);
  for (int j = 0; j < size; ++j) means_.recv_bytes[j] = ChunkBytes(j), means_.recv_offsets[j] = ChunkBegin(j);
  means_.send_bytes[me] = means_.recv_bytes[me] = 0;
}

void TreeBucket::ChooseSends() {
  const int me = group_->rank();
  for (size_t k = 0; k < rounds_.size(); ++k) {
    const bool sends = k < covers_[me].size() && Sends(me, covers_[me][k]);
    for (int j = 0; j < group_->size(); ++j) {
      if (j == me) continue;
      rounds_[k].send_bytes[j] = sends ? ChunkBytes(j) : 0;
      rounds_[k].recv_bytes[j] = k < covers_[j].size() && Sends(j, covers_[j][k]) ? ChunkBytes(me) : 0;
    }
  }
}

// The formula of the exchange with one worker a rank for replicated blocks, what this rank really sends for expert blocks.
void TreeBucket::PlanLogical() {
  const int64_t bytes = elements_ * width_;
  const int me = group_->rank();
  logical_ = {.encoded_bytes = senders_.count(me) * bytes, .dense_bytes = senders_.count(me) * bytes};
  if (expert_) {
    const int column = me, members = group_->size();
    const int64_t pieces = std::ranges::count_if(covers_[column], [&](const TreeNode& piece) { return Sends(column, piece); });
    int64_t others = 0;  // that own a part
    for (int j = 0; j < members; ++j) others += j != column && ChunkBytes(j) > 0 ? 1 : 0;
    logical_.uplink_bytes = pieces * (bytes - ChunkBytes(column));
    logical_.downlink_bytes = (members - 1) * ChunkBytes(column);
    logical_.messages = pieces * others + (ChunkBytes(column) > 0 ? members - 1 : 0);
    return;
  }
  for (int m = senders_.range(me).lo; m < senders_.range(me).hi; ++m) {
    const int64_t pieces = senders_.row(m) >= 0 ? 1 : 0;
    AddMeanOf({.elements = elements_, .width = width_, .parts = workers_.workers, .part = m, .pieces = pieces}, logical_);
  }
}

void TreeBucket::Begin() {
  if (senders_.Update()) {
    ChooseSends();
    PlanLogical();
  }
  full_blocks_ = senders_.count(group_->rank()) == 0 ? static_cast<int>(blocks_.size()) : 0;
  started_ = false;
  for (Block& block : blocks_) {
    block.puts = block.folded_puts = 0;
    for (TreeAccumulator& sum : block.sums) sum.Reset();
  }
}

std::byte* TreeBucket::SumOf(const Block& block) const {
  return direct_ != nullptr ? static_cast<std::byte*>(direct_->block(block.id).raw()) : Slot(0) + block.offset * width_;
}

// In the aggregate the last vector makes the sum a mean.
void TreeBucket::Fold(Block& block, const Tensor& span, bool last) {
  std::byte* const sum = SumOf(block);
  const double share = 1.0 / workers_.workers;
  const bool in_place = span.raw() == sum;
  if (block.puts + block.folded_puts > 0) {
    CHECK(!in_place) << "block " << block.id.value << " is formed in place, but other vectors came before";
    AddInto(dtype_, span.raw(), sum, block.elements);
    if (direct_ != nullptr && last) ScaleInto(dtype_, share, sum, sum, block.elements);
  } else if (direct_ != nullptr && last) {
    if (!in_place || share != 1) ScaleInto(dtype_, share, span.raw(), sum, block.elements);
  } else if (!in_place && block.elements > 0) {
    std::memcpy(sum, span.raw(), static_cast<size_t>(block.elements * width_));
  }
}

absl::Status TreeBucket::Put(WorkerId worker, int index, const Tensor& span, bool folded) {
  Block& block = blocks_[index];
  CHECK(span.elements() == block.elements && span.dtype() == dtype_) << span.elements() << ' ' << NameOf(span.dtype());
  CHECK(!folded || fold_) << "a folded vector, where each worker's own is needed";
  const int expected = senders_.count(group_->rank());
  RETURN_IF_ERROR(senders_.Check(group_->rank(), worker, block.id));
  const auto enough = [&] { return block.puts == expected || block.folded_puts > 0; };
  if (started_ || enough()) {
    return Internal("exchange: worker %d puts block %d, which has all its %d vectors", worker.value, block.id.value, expected);
  }
  if (fold_) {
    Fold(block, span, folded || block.puts + 1 == expected);
  } else {
    bool taken = false;
    for (size_t l = 0; l < lanes_.size(); ++l) {
      if (lanes_[l].workers.lo <= worker.value && worker.value < lanes_[l].workers.hi) taken = block.sums[l].Add(worker.value, span.raw());
    }
    if (!taken) return Internal("exchange: worker %d puts block %d twice, or after a later worker", worker.value, block.id.value);
  }
  ++(folded ? block.folded_puts : block.puts);
  if (enough()) ++full_blocks_;
  return absl::OkStatus();
}

// All blocks have the same partial sums by now, so the bucket has them as a whole.
void TreeBucket::ClosePartials() {
  partials_.clear();
  if (fold_) {
    const int expected = senders_.count(group_->rank());
    for (Block& block : blocks_) {
      if (block.puts + block.folded_puts == 0) {
        std::memset(SumOf(block), 0, static_cast<size_t>(block.elements * width_));
      } else if (direct_ != nullptr && block.folded_puts == 0 && block.puts < expected) {
        ScaleInto(dtype_, 1.0 / workers_.workers, SumOf(block), SumOf(block), block.elements);  // its last vector never came
      }
    }
    partials_.push_back({lanes_[0].workers, Slot(0)});
    return;
  }
  for (Block& block : blocks_) {
    for (TreeAccumulator& sum : block.sums) sum.Close();
  }
  for (size_t l = 0; l < lanes_.size(); ++l) {
    int slot = lanes_[l].first_slot;
    for (const Partial& partial : blocks_[0].sums[l].partials()) partials_.push_back({partial.node, Slot(slot++)});
  }
  partials_.resize(MergeSiblings(partials_, leaves_, dtype_, elements_));
}

absl::Status TreeBucket::Start() {
  CHECK(!started_);
  started_ = true;
  ClosePartials();
  const std::vector<TreeNode>& own = covers_[group_->rank()];
  CHECK_EQ(partials_.size(), own.size());
  if (book_ && group_->ledger() != nullptr) group_->ledger()->BookLogical(logical_);
  const Tensor received(received_.data(), {received_.bytes()}, DType::kU8);
  for (size_t k = 0; k < rounds_.size(); ++k) {
    Round& round = rounds_[k];
    const Tensor piece = k < own.size() ? Tensor(partials_[k].data, {elements_ * width_}, DType::kU8) : received;
    ASSIGN_OR_RETURN(round.request, group_->Start({.kind = CollectiveKind::kAllToAllV,
                                                   .label = expert_ ? "experts.pieces" : "exchange.pieces",
                                                   .send = piece,
                                                   .recv = received,
                                                   .send_bytes = round.send_bytes,
                                                   .send_offsets = round.send_offsets,
                                                   .recv_bytes = round.recv_bytes,
                                                   .recv_offsets = round.recv_offsets,
                                                   .background = true}));
  }
  return absl::OkStatus();
}

absl::Status TreeBucket::Poll() {
  for (Round& round : rounds_) {
    if (round.request.active()) return group_->Test(round.request).status();
  }
  return group_->Test(means_.request).status();
}

absl::StatusOr<bool> TreeBucket::SumsArrived() {
  for (Round& round : rounds_) {
    ASSIGN_OR_RETURN(const bool arrived, group_->Test(round.request));
    if (!arrived) return false;
  }
  return true;
}

absl::Status TreeBucket::FinishSums() {
  const int me = group_->rank(), size = group_->size();
  for (Round& round : rounds_) RETURN_IF_ERROR(group_->Wait(round.request));
  if (size == 1) {
    CHECK_EQ(partials_.size(), 1u);
    return absl::OkStatus();
  }
  pieces_.clear();
  for (int j = 0; j < size; ++j) {
    for (size_t k = 0; k < covers_[j].size(); ++k) {
      std::byte* const data = j == me ? partials_[k].data + ChunkBegin(me) : received_.data() + rounds_[k].recv_offsets[j];
      if (!Sends(j, covers_[j][k])) std::memset(data, 0, static_cast<size_t>(ChunkBytes(me)));
      pieces_.push_back({covers_[j][k], data});
    }
  }
  const int64_t bytes = ChunkBytes(me);
  std::byte* const sums = Slot(0) + ChunkBegin(me);
  CHECK_EQ(MergeSiblings(pieces_, leaves_, dtype_, bytes / width_, sums), 1);
  if (bytes > 0 && pieces_[0].data != sums) std::memcpy(sums, pieces_[0].data, static_cast<size_t>(bytes));
  return to_canonical_ ? absl::OkStatus() : StartWayBack(expert_ ? "experts.sums" : "exchange.sums");
}

// Every member's chunk to all others, in a stream of its own: how far other buckets are does not matter.
absl::Status TreeBucket::StartWayBack(std::string_view label) {
  const Tensor all(Slot(0), {elements_ * width_}, DType::kU8);
  ASSIGN_OR_RETURN(means_.request, group_->Start({.kind = CollectiveKind::kAllToAllV,
                                                  .label = label,
                                                  .send = all,
                                                  .recv = all,
                                                  .send_bytes = means_.send_bytes,
                                                  .send_offsets = means_.send_offsets,
                                                  .recv_bytes = means_.recv_bytes,
                                                  .recv_offsets = means_.recv_offsets,
                                                  .stream = 1,
                                                  .background = true}));
  return absl::OkStatus();
}

absl::Status TreeBucket::Deliver(const FlatVector& aggregate) {
  if (direct_ != nullptr) return absl::OkStatus();
  RETURN_IF_ERROR(group_->Wait(means_.request));
  const double share = 1.0 / workers_.workers;
  for (const Block& block : blocks_) {
    if (block.mine) ScaleInto(dtype_, share, Slot(0) + block.offset * width_, aggregate.block(block.id).raw(), block.elements);
  }
  return absl::OkStatus();
}

absl::Status TreeBucket::StartSharing(const FlatVector& point) {
  CHECK(to_canonical_);
  CHECK(shared_ == nullptr);
  if (group_->size() == 1) return absl::OkStatus();
  for (const Block& block : blocks_) {
    if (block.mine) std::memcpy(Slot(0) + block.offset * width_, point.block(block.id).raw(), static_cast<size_t>(block.elements * width_));
  }
  shared_ = &point;
  return StartWayBack(expert_ ? "experts.weights" : "exchange.weights");
}

absl::Status TreeBucket::FinishSharing() {
  if (shared_ == nullptr) return absl::OkStatus();
  const FlatVector& point = *std::exchange(shared_, nullptr);
  RETURN_IF_ERROR(group_->Wait(means_.request));
  for (const Block& block : blocks_) {
    if (!block.mine)
      std::memcpy(point.block(block.id).raw(), Slot(0) + block.offset * width_, static_cast<size_t>(block.elements * width_));
  }
  return absl::OkStatus();
}

}  // namespace conclave
