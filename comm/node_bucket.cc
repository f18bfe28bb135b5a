#include "comm/node_bucket.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/check.h"
#include "comm/region_exchange.h"
#include "comm/sums.h"
#include "comm/tree_bucket.h"

namespace conclave {
namespace {

constexpr int64_t kLeastRegion = 64;

}  // namespace

bool NodeBucket::Serves(const ExchangeContext& context) {
  if (context.inside == nullptr || context.between == nullptr || context.world_size_invariant || context.to_canonical) return false;
  if (context.participants != nullptr) return false;
  const int locals = context.inside->size();
  return locals > 1 && context.between->size() > 1 && std::has_single_bit(static_cast<unsigned>(locals));
}

NodeBucket::NodeBucket(const ExchangeContext& context, const BucketPlan& plan)
    : workers_(context.workers),
      dtype_(context.dtype),
      width_(SizeOf(context.dtype)),
      inside_(context.inside),
      between_(context.between),
      locals_(inside_->size()),
      local_(inside_->rank()),
      nodes_(between_->size()),
      node_(between_->rank()),
      world_rank_(context.world->rank()),
      ledger_(context.world->ledger()) {
  CHECK(!plan.expert);
  for (const BlockId id : plan.blocks) {
    const int64_t n = context.layout->parameters()[id].shape.elements();
    blocks_.push_back({.id = id, .offset = elements_, .elements = n});
    elements_ += n;
  }
  memory_ = Buffer(std::max(elements_ * width_, kLeastRegion));
  partials_.reserve(static_cast<size_t>(std::max(locals_, nodes_)));
  PlanHops();
  inside_->Reserve(2, /*streams=*/2);
  between_->Reserve(2, /*streams=*/2);
  for (int m = workers_.First(world_rank_); m < workers_.First(world_rank_ + 1); ++m) {
    AddMeanOf({.elements = elements_, .width = width_, .parts = workers_.workers, .part = m}, logical_);
  }
  logical_.encoded_bytes = logical_.dense_bytes = workers_.Count(world_rank_) * elements_ * width_;
  Begin();
}

void NodeBucket::PlanHops() {
  const int64_t region = RegionBytes(local_);
  int64_t most = 0;
  for (int l = 0; l < locals_; ++l) {
    const bool self = l == local_;
    in_.send_bytes.push_back(self ? 0 : RegionBytes(l)), in_.send_offsets.push_back(RegionBegin(l));
    in_.recv_bytes.push_back(self ? 0 : region), in_.recv_offsets.push_back(l * region);
    back_in_.send_bytes.push_back(self ? 0 : region), back_in_.send_offsets.push_back(RegionBegin(local_));
    back_in_.recv_bytes.push_back(self ? 0 : RegionBytes(l)), back_in_.recv_offsets.push_back(RegionBegin(l));
    most = std::max(most, (l + 1) * region);
  }
  // What came from inside is added up before anything comes from other nodes, so both take the same memory.
  const int64_t mine = PartBytes(node_);
  for (int n = 0; n < nodes_; ++n) {
    const bool self = n == node_;
    out_.send_bytes.push_back(self ? 0 : PartBytes(n)), out_.send_offsets.push_back(PartBegin(local_, n));
    out_.recv_bytes.push_back(self ? 0 : mine), out_.recv_offsets.push_back(n * mine);
    back_out_.send_bytes.push_back(self ? 0 : mine), back_out_.send_offsets.push_back(PartBegin(local_, node_));
    back_out_.recv_bytes.push_back(self ? 0 : PartBytes(n)), back_out_.recv_offsets.push_back(PartBegin(local_, n));
    most = std::max(most, (n + 1) * mine);
  }
  received_ = Buffer(std::max(most, kLeastRegion));
}

void NodeBucket::Begin() {
  full_blocks_ = 0;
  added_inside_ = false;
  for (Block& block : blocks_) block.puts = 0;
}

absl::Status NodeBucket::Put(WorkerId worker, int index, const Tensor& span, bool folded) {
  Block& block = blocks_[index];
  CHECK(span.elements() == block.elements && span.dtype() == dtype_) << span.elements() << ' ' << NameOf(span.dtype());
  const int expected = workers_.Count(world_rank_);
  if (block.puts >= expected) {
    return Internal("exchange: worker %d puts block %d, which has all its %d vectors", worker.value, block.id.value, expected);
  }
  std::byte* const sum = memory_.data() + block.offset * width_;
  if (block.puts > 0) {
    AddInto(dtype_, span.raw(), sum, block.elements);
  } else if (block.elements > 0) {
    std::memcpy(sum, span.raw(), static_cast<size_t>(block.elements * width_));
  }
  block.puts = folded ? expected : block.puts + 1;
  if (block.puts == expected) ++full_blocks_;
  return absl::OkStatus();
}

absl::Status NodeBucket::Post(Communicator& group, Hop& hop, std::string_view label, int stream, Buffer* to) {
  ASSIGN_OR_RETURN(hop.request, group.Start({.kind = CollectiveKind::kAllToAllV,
                                             .label = label,
                                             .send = AllBytes(memory_),
                                             .recv = AllBytes(*to),
                                             .send_bytes = hop.send_bytes,
                                             .send_offsets = hop.send_offsets,
                                             .recv_bytes = hop.recv_bytes,
                                             .recv_offsets = hop.recv_offsets,
                                             .stream = stream,
                                             .background = true}));
  return absl::OkStatus();
}

absl::Status NodeBucket::Start() {
  for (const Block& block : blocks_) {
    if (block.puts == 0) std::memset(memory_.data() + block.offset * width_, 0, static_cast<size_t>(block.elements * width_));
  }
  if (ledger_ != nullptr) ledger_->BookLogical(logical_);
  return Post(*inside_, in_, "exchange.pieces", 0, &received_);
}

absl::Status NodeBucket::Poll() {
  for (const auto& [group, hop] : {std::pair{inside_, &in_}, {between_, &out_}, {between_, &back_out_}}) {
    if (hop->request.active()) return group->Test(hop->request).status();
  }
  return absl::OkStatus();
}

absl::Status NodeBucket::AddInside() {
  partials_.clear();
  const int first = node_ * locals_, ranks = nodes_ * locals_;
  std::byte* const own = memory_.data() + RegionBegin(local_);
  for (int l = 0; l < locals_; ++l) {
    partials_.push_back({{first + l, first + l + 1}, l == local_ ? own : received_.data() + in_.recv_offsets[l]});
  }
  CHECK_EQ(MergeSiblings(partials_, ranks, dtype_, RegionBytes(local_) / width_, own), 1);
  added_inside_ = true;
  return Post(*between_, out_, "exchange.pieces", 0, &received_);
}

absl::Status NodeBucket::AddBetween() {
  partials_.clear();
  std::byte* const own = memory_.data() + PartBegin(local_, node_);
  for (int n = 0; n < nodes_; ++n) {
    std::byte* const data = n == node_ ? own : received_.data() + out_.recv_offsets[n];
    partials_.push_back({{n * locals_, (n + 1) * locals_}, data});
  }
  CHECK_EQ(MergeSiblings(partials_, nodes_ * locals_, dtype_, PartBytes(node_) / width_, own), 1);
  return Post(*between_, back_out_, "exchange.sums", 1, &memory_);
}

absl::StatusOr<bool> NodeBucket::SumsArrived() {
  if (!added_inside_) {
    ASSIGN_OR_RETURN(const bool arrived, inside_->Test(in_.request));
    if (!arrived) return false;
    RETURN_IF_ERROR(AddInside());
  }
  return between_->Test(out_.request);
}

absl::Status NodeBucket::FinishSums() {
  RETURN_IF_ERROR(inside_->Wait(in_.request));
  if (!added_inside_) RETURN_IF_ERROR(AddInside());
  RETURN_IF_ERROR(between_->Wait(out_.request));
  return AddBetween();
}

absl::Status NodeBucket::Deliver(const FlatVector& aggregate) {
  RETURN_IF_ERROR(between_->Wait(back_out_.request));
  RETURN_IF_ERROR(Post(*inside_, back_in_, "exchange.sums", 1, &memory_));
  RETURN_IF_ERROR(inside_->Wait(back_in_.request));
  for (const Block& block : blocks_) {
    ScaleInto(dtype_, 1.0 / workers_.workers, memory_.data() + block.offset * width_, aggregate.block(block.id).raw(), block.elements);
  }
  return absl::OkStatus();
}

}  // namespace conclave
