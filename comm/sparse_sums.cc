#include "comm/sparse_sums.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "comm/wire_frame.h"
#include "comm/worker_ranges.h"

namespace conclave {
namespace {

std::span<const SparseTerm> TermsIn(const SparseTerms& terms, const SparseRange& range) {
  const auto below = [](const SparseTerm& term, int64_t index) { return term.index < index; };
  const auto first = std::lower_bound(terms.begin(), terms.end(), range.first, below);
  return {first, std::lower_bound(first, terms.end(), range.first + range.elements, below)};
}

}  // namespace

SparseSums::SparseSums(const ExchangeContext& context, bool expert, std::vector<SparseBlock> blocks)
    : workers_(context.workers.workers),
      dtype_(context.dtype),
      expert_(expert),
      group_(expert ? context.data : context.world),
      me_(group_->rank()),
      blocks_(std::move(blocks)),
      plans_(blocks_.size()),
      means_(blocks_.size()),
      poisoned_(blocks_.size()) {
  ranges_ = WorkersOfMembers(context, expert);
  own_ = ranges_[static_cast<size_t>(me_)];
  terms_.resize(static_cast<size_t>(own_.hi - own_.lo) * blocks_.size());
  PlanRegions(context);
}

void SparseSums::PlanRegions(const ExchangeContext& context) {
  const auto size = static_cast<size_t>(group_->size());
  std::vector<int64_t> up_most(size), down_most(size);
  int64_t largest = 0;
  for (size_t b = 0; b < blocks_.size(); ++b) {
    const SparseBlock& block = blocks_[b];
    const int64_t most_sums = std::min(block.elements, workers_ * block.most_terms);
    largest = std::max(largest, most_sums);
    means_[b].reserve(static_cast<size_t>(most_sums));
    for (int r = 0; r < block.regions; ++r) {
      Region region{.block = b, .number = r, .owner_worker = (block.first_owner + r) % workers_};
      region.owner = MemberOf(context.workers, expert_, region.owner_worker);
      region.up_most = kFrameBytes + MostSparseBytes(block.most_terms, block.elements, dtype_);
      region.down_most = kFrameBytes + MostSparseBytes(most_sums, block.elements, dtype_);
      up_most[static_cast<size_t>(region.owner)] += region.up_most;
      down_most[static_cast<size_t>(region.owner)] += region.down_most;
      if (region.owner == me_) served_.push_back(regions_.size());
      regions_.push_back(region);
    }
  }
  owns_.assign(static_cast<size_t>(LogicalMembers()), false);
  for (const Region& region : regions_) owns_[static_cast<size_t>(LogicalOwner(region))] = true;
  found_.resize(served_.size() * static_cast<size_t>(workers_));
  runs_ = ServedRuns(group_, {.workers = ranges_,
                              .up_most = std::move(up_most),
                              .down_most = std::move(down_most),
                              .lengths_label = expert_ ? "experts.lengths" : "exchange.lengths",
                              .up_label = expert_ ? "experts.terms" : "exchange.terms",
                              .down_label = expert_ ? "experts.sums" : "exchange.sums",
                              .fixed_up = false,
                              .fixed_down = false});
  for (int leaves = 1; leaves < 2 * workers_; leaves *= 2) {
    Scratch& scratch = scratch_.emplace_back();
    scratch.left.reserve(static_cast<size_t>(largest)), scratch.right.reserve(static_cast<size_t>(largest));
  }
  sum_.reserve(static_cast<size_t>(largest));
}

SparseRange SparseSums::RangeOf(const Region& region) const {
  const std::vector<int64_t>& cuts = plans_[region.block].cuts;
  const int64_t first = cuts[static_cast<size_t>(region.number)];
  return {.first = first, .elements = cuts[static_cast<size_t>(region.number) + 1] - first, .dtype = dtype_};
}

CodecKey SparseSums::KeyOf(const Region& region, WorkerId worker) const {
  CodecKey key = key_;
  key.block = blocks_[region.block].id;
  key.part = region.number;
  key.worker = worker;
  return key;
}

void SparseSums::Begin(const CodecKey& key) {
  key_ = key;
  now_ = {};
  poisoned_.assign(poisoned_.size(), false);
}

void SparseSums::Set(int worker, size_t block, const SparseTerms* terms) {
  terms_[static_cast<size_t>(worker - own_.lo) * blocks_.size() + block] = terms;
}

absl::Status SparseSums::Run() {
  RETURN_IF_ERROR(SendUp());
  RETURN_IF_ERROR(runs_.up.Post());
  RETURN_IF_ERROR(runs_.up.Wait());
  RETURN_IF_ERROR(FindUp());
  RETURN_IF_ERROR(SendDown());
  RETURN_IF_ERROR(runs_.down.Post());
  RETURN_IF_ERROR(runs_.down.Wait());
  BookLengths();
  return TakeDown();
}

absl::Status SparseSums::SendUp() {
  for (int j = 0; j < group_->size(); ++j) {
    std::byte* const begin = runs_.sent.data() + runs_.sent_start[static_cast<size_t>(j)];
    std::byte* end = begin;
    for (int worker = own_.lo; worker < own_.hi; ++worker) {
      for (const Region& region : regions_) {
        if (region.owner != j) continue;
        const SparseTerms* const terms = terms_[static_cast<size_t>(worker - own_.lo) * blocks_.size() + region.block];
        const std::span<std::byte> message(end, static_cast<size_t>(region.up_most));
        const SparseRange range = RangeOf(region);
        const int64_t payload = terms == nullptr ? 0 : EncodeSparse(range, TermsIn(*terms, range), message.subspan(kFrameBytes));
        WriteFrame(message, KeyOf(region, {worker}), terms == nullptr ? FrameKind::kPoison : FrameKind::kValues, payload);
        BookUp(region, worker, payload);
        end += kFrameBytes + payload;
      }
    }
    if (j != me_) runs_.up.SetBytes(j, end - begin);
  }
  return runs_.up.Start();
}

// Where the messages of all workers for the regions owned here lie.
absl::Status SparseSums::FindUp() {
  const auto workers = static_cast<size_t>(workers_);
  for (int j = 0; j < group_->size(); ++j) {
    const bool mine = j == me_;
    const auto at = static_cast<size_t>(j);
    const std::byte* next = mine ? runs_.sent.data() + runs_.sent_start[at] : runs_.received.data() + runs_.received_start[at];
    int64_t left = mine ? runs_.sent.bytes() - runs_.sent_start[at] : runs_.up.received(j);
    for (int worker = ranges_[at].lo; worker < ranges_[at].hi; ++worker) {
      for (size_t i = 0; i < served_.size(); ++i) {
        const int64_t bytes = FramedBytes({next, static_cast<size_t>(left)});
        if (bytes > left) return DataLoss("exchange: the terms of rank %d of %s end inside worker %d's", j, group_->name(), worker);
        found_[i * workers + static_cast<size_t>(worker)] = {next, static_cast<size_t>(bytes)};
        next += bytes, left -= bytes;
      }
    }
  }
  return absl::OkStatus();
}

absl::Status SparseSums::SumRegion(size_t served, const TreeNode& workers, size_t depth, SparseTerms& out, bool& poisoned) {
  const Region& region = regions_[served_[served]];
  if (workers.hi - workers.lo == 1) {
    out.clear();
    const CodecKey key = KeyOf(region, {workers.lo});
    const auto message = found_[served * static_cast<size_t>(workers_) + static_cast<size_t>(workers.lo)];
    ASSIGN_OR_RETURN(const Frame frame, ReadFrame(message, key));
    if (frame.kind == FrameKind::kPoison) poisoned = true;
    if (frame.kind != FrameKind::kValues) return absl::OkStatus();
    return DecodeSparse(RangeOf(region), frame.payload, key, blocks_[region.block].most_terms, out);
  }
  const int split = SplitPoint(workers);
  Scratch& scratch = scratch_[depth];
  RETURN_IF_ERROR(SumRegion(served, {workers.lo, split}, depth + 1, scratch.left, poisoned));
  RETURN_IF_ERROR(SumRegion(served, {split, workers.hi}, depth + 1, scratch.right, poisoned));
  AddTerms(dtype_, scratch.left, scratch.right, out);
  return absl::OkStatus();
}

absl::Status SparseSums::SendDown() {
  std::byte* const begin = runs_.means.data() + runs_.means_start[static_cast<size_t>(me_)];
  std::byte* end = begin;
  const bool f32 = dtype_ == DType::kF32;
  const double share = f32 ? static_cast<double>(static_cast<float>(1.0 / workers_)) : 1.0 / workers_;
  for (size_t i = 0; i < served_.size(); ++i) {
    const Region& region = regions_[served_[i]];
    bool poisoned = false;
    RETURN_IF_ERROR(SumRegion(i, {0, workers_}, 0, sum_, poisoned));
    for (SparseTerm& term : sum_) {
      const double mean = share * term.value;
      term.value = f32 ? static_cast<double>(static_cast<float>(mean)) : mean;
    }
    const double threshold = plans_[region.block].threshold;
    std::erase_if(sum_, [&](const SparseTerm& term) { return term.value == 0 || std::abs(term.value) < threshold; });
    const std::span<std::byte> message(end, static_cast<size_t>(region.down_most));
    const int64_t payload = poisoned ? 0 : EncodeSparse(RangeOf(region), sum_, message.subspan(kFrameBytes));
    WriteFrame(message, KeyOf(region, kServer), poisoned ? FrameKind::kPoison : FrameKind::kValues, payload);
    BookDown(region, payload);
    end += kFrameBytes + payload;
  }
  for (int j = 0; j < group_->size(); ++j) {
    if (j != me_) runs_.down.SetBytes(j, end - begin);
  }
  return runs_.down.Start();
}

// A member's messages lie in the order of its regions.
absl::Status SparseSums::TakeDown() {
  for (SparseTerms& terms : means_) terms.clear();
  next_ = runs_.means_start;
  for (const Region& region : regions_) {
    const auto at = static_cast<size_t>(region.owner);
    const int64_t end = region.owner == me_ ? runs_.means.bytes() : runs_.means_start[at] + runs_.down.received(region.owner);
    const std::span<const std::byte> rest(runs_.means.data() + next_[at], static_cast<size_t>(end - next_[at]));
    const int64_t bytes = FramedBytes(rest);
    if (bytes > static_cast<int64_t>(rest.size())) {
      return DataLoss("exchange: the sums of rank %d of %s end inside block %d's", region.owner, group_->name(),
                      blocks_[region.block].id.value);
    }
    next_[at] += bytes;
    const CodecKey key = KeyOf(region, kServer);
    ASSIGN_OR_RETURN(const Frame frame, ReadFrame(rest.first(static_cast<size_t>(bytes)), key));
    if (frame.kind == FrameKind::kPoison) poisoned_[region.block] = true;
    if (frame.kind != FrameKind::kValues) continue;
    const SparseBlock& block = blocks_[region.block];
    RETURN_IF_ERROR(
        DecodeSparse(RangeOf(region), frame.payload, key, std::min(block.elements, workers_ * block.most_terms), means_[region.block]));
  }
  return absl::OkStatus();
}

void SparseSums::BookUp(const Region& region, int worker, int64_t payload) {
  now_.encoded_bytes += payload;
  if (LogicalOwner(region) == (expert_ ? me_ : worker)) return;
  now_.uplink_bytes += kFrameBytes + payload;
  now_.header_bytes += kFrameBytes;
}

void SparseSums::BookDown(const Region& region, int64_t payload) {
  if (!expert_ && (region.owner_worker < own_.lo || region.owner_worker >= own_.hi)) return;
  const int64_t others = LogicalMembers() - 1;
  now_.downlink_bytes += others * (kFrameBytes + payload);
  now_.header_bytes += others * kFrameBytes;
}

// A length and a run from every sender to every owner of a region, and from every owner to all others.
void SparseSums::BookLengths() {
  const int64_t owners = std::ranges::count(owns_, true);
  const int lo = expert_ ? me_ : own_.lo, hi = expert_ ? me_ + 1 : own_.hi;
  for (int sender = lo; sender < hi; ++sender) {
    const bool own = owns_[static_cast<size_t>(sender)];
    const int64_t up = owners - (own ? 1 : 0), down = own ? LogicalMembers() - 1 : 0;
    now_.messages += 2 * (up + down);
    now_.header_bytes += (up + down) * kLengthBytes;
    now_.uplink_bytes += up * kLengthBytes;
    now_.downlink_bytes += down * kLengthBytes;
  }
  for (const SparseBlock& block : blocks_) now_.dense_bytes += (own_.hi - own_.lo) * block.elements * SizeOf(dtype_);
}

}  // namespace conclave
