#include "parallel/routing_recorder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <optional>
#include <span>

#include "base/check.h"
#include "base/rng.h"

namespace conclave {
namespace {

constexpr int kHead = 4;  // numbers beside a token's experts

}  // namespace

RoutingRecorder::RoutingRecorder(const RoutingRecorderOptions& options) : options_(options), counts_(options.layers, options.experts) {
  heap_.reserve(static_cast<size_t>(options.sample));
}

void RoutingRecorder::BeginLeaf(int64_t leaf, int64_t turn) {
  if (!armed_) return;
  leaf_ = leaf, turn_ = turn;
  rows_ = 0;
}

void RoutingRecorder::Routed(int layer, const Tensor& ids, int64_t width) {
  if (leaf_ < 0) return;
  const int64_t n = ids.dim(0);
  if (top_k_ == 0) {
    top_k_ = static_cast<int>(ids.dim(1));
    ids_.resize(static_cast<size_t>(options_.sample * row()));
  }
  CHECK_EQ(ids.dim(1), top_k_);
  rows_ = n;
  width_ = width;
  if (now_.size() < static_cast<size_t>(n * row())) {
    now_.resize(static_cast<size_t>(n * row()));
    words_.resize(static_cast<size_t>(2 * n));
  }
  const int32_t* const from = ids.data<int32_t>();
  for (int64_t t = 0; t < n; ++t) std::copy_n(from + t * top_k_, top_k_, now_.data() + t * row() + int64_t{layer} * top_k_);
}

void RoutingRecorder::EndLeaf() {
  if (leaf_ < 0) return;
  const RngKey key{.seed = options_.seed,
                   .site = 5,
                   .step = static_cast<uint32_t>(step_),
                   .worker = static_cast<uint32_t>(leaf_ & 0xFFFF),
                   .kind = RngKind::kPlacement};
  key.FillBits(0, std::span(words_).first(static_cast<size_t>(2 * rows_)));
  for (int64_t t = 0; t < rows_; ++t) {
    const int32_t* const ids = now_.data() + t * row();
    bool whole = true;
    for (int j = 0; j < options_.layers; ++j) {
      const int32_t* const here = ids + int64_t{j} * top_k_;
      const std::span<int64_t> load = counts_.load(j);
      for (int s = 0; s < top_k_; ++s) {
        if (here[s] >= 0) ++load[here[s]];
        whole = whole && here[s] >= 0;
      }
      if (j + 1 < options_.layers && here[0] >= 0 && here[top_k_] >= 0)
        ++counts_.transitions(j)[int64_t{here[0]} * options_.experts + here[top_k_]];
    }
    const uint64_t priority = uint64_t{words_[2 * t]} << 32 | words_[2 * t + 1];
    if (whole) Offer({priority, step_, leaf_ << 32 | t, turn_}, ids);
  }
  leaf_ = -1;
}

void RoutingRecorder::Offer(const Kept& token, const int32_t* ids) {
  int64_t place = static_cast<int64_t>(heap_.size());
  if (place == options_.sample) {
    if (place == 0 || heap_.front().first < token) return;
    std::ranges::pop_heap(heap_);
    place = heap_.back().second;
    heap_.pop_back();
  }
  heap_.emplace_back(token, place);
  std::ranges::push_heap(heap_);
  std::copy_n(ids, row(), ids_.data() + place * row());
}

absl::StatusOr<RoutingWindow> RoutingRecorder::Gather(Communicator& control) {
  int64_t widest = top_k_;
  RETURN_IF_ERROR(control.AllReduce("routing top k", Tensor(&widest, {1}, DType::kI64), ReduceOp::kMax));
  top_k_ = static_cast<int>(std::max<int64_t>(widest, 1));
  ids_.resize(static_cast<size_t>(options_.sample * row()));
  for (int j = 0; j < options_.layers; ++j) {
    const std::span<int64_t> load = counts_.load(j);
    RETURN_IF_ERROR(control.AllReduce("routing loads", Tensor(load.data(), {options_.experts}, DType::kI64), ReduceOp::kSum));
    if (j + 1 == options_.layers) break;
    const std::span<int64_t> flow = counts_.transitions(j);
    RETURN_IF_ERROR(
        control.AllReduce("routing transitions", Tensor(flow.data(), {static_cast<int64_t>(flow.size())}, DType::kI64), ReduceOp::kSum));
  }
  // A head is priority, step, token, turn; places that hold no token have token -1.
  const OwnedTensor mine({options_.sample, kHead}, DType::kI64), heads({control.size(), options_.sample, kHead}, DType::kI64);
  const OwnedTensor all({control.size(), options_.sample, row()}, DType::kI32);
  for (int64_t& value : (*mine).span<int64_t>()) value = -1;
  for (const auto& [kept, place] : heap_) {
    int64_t* const head = (*mine).data<int64_t>() + place * kHead;
    std::memcpy(head, &kept.priority, sizeof(kept.priority));
    head[1] = kept.step, head[2] = kept.token, head[3] = kept.turn;
  }
  RETURN_IF_ERROR(control.AllGather("routing sample", *mine, *heads));
  RETURN_IF_ERROR(control.AllGather("routing sample", Tensor(ids_.data(), {options_.sample, row()}, DType::kI32), *all));
  RoutingWindow window = Merge(*heads, *all);
  counts_ = RoutingCounts(options_.layers, options_.experts);
  heap_.clear();
  return window;
}

RoutingWindow RoutingRecorder::Merge(const Tensor& heads, const Tensor& ids) {
  std::vector<std::pair<Kept, int64_t>> tokens;
  for (int64_t i = 0; i < heads.elements() / kHead; ++i) {
    const int64_t* const head = heads.data<int64_t>() + i * kHead;
    if (head[2] < 0) continue;
    Kept kept{.priority = 0, .step = head[1], .token = head[2], .turn = head[3]};
    std::memcpy(&kept.priority, head, sizeof(kept.priority));
    tokens.emplace_back(kept, i);
  }
  std::ranges::sort(tokens);
  tokens.resize(std::min(tokens.size(), static_cast<size_t>(options_.sample)));
  std::ranges::sort(tokens, {}, [](const auto& token) { return std::pair(token.first.step, token.first.token); });
  RoutingWindow window{.counts = counts_, .ids = {}, .leaf = {}, .turn = {}, .top_k = top_k_};
  for (const auto& [kept, place] : tokens) {
    const int32_t* const from = ids.data<int32_t>() + place * row();
    window.ids.insert(window.ids.end(), from, from + row());
    window.leaf.push_back(static_cast<int32_t>(kept.token >> 32));
    window.turn.push_back(kept.turn);
  }
  return window;
}

namespace {

// Half the sum of |p - q|, counts as shares of their sums; nothing where one of them is empty.
std::optional<double> DistanceOfShares(std::span<const int64_t> p, std::span<const int64_t> q) {
  const auto n = std::accumulate(p.begin(), p.end(), int64_t{0}), m = std::accumulate(q.begin(), q.end(), int64_t{0});
  if (n == 0 || m == 0) return std::nullopt;
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i)
    sum += std::abs(static_cast<double>(p[i]) / static_cast<double>(n) - static_cast<double>(q[i]) / static_cast<double>(m));
  return sum / 2;
}

}  // namespace

double RoutingDrift(const RoutingCounts& before, const RoutingCounts& after) {
  double sum = 0;
  for (int j = 0; j + 1 < before.layers(); ++j) {
    const std::optional<double> distance = DistanceOfShares(before.transitions(j), after.transitions(j));
    if (!distance) return 0;
    sum += *distance;
  }
  return before.layers() < 2 ? 0 : sum / (before.layers() - 1);
}

double LoadDrift(const RoutingCounts& before, const RoutingCounts& after) {
  double sum = 0;
  for (int j = 0; j < before.layers(); ++j) {
    const std::optional<double> distance = DistanceOfShares(before.load(j), after.load(j));
    if (!distance) return 1;
    sum += *distance;
  }
  return sum / before.layers();
}

}  // namespace conclave
