#include "models/modules/router.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/trace.h"
#include "models/routing_log.h"

namespace conclave {
namespace {

// Index of the first non-finite row of x [n, w], or -1.
int64_t FirstNonFiniteRow(const Tensor& x) {
  return DispatchFloat(x.dtype(), [&](auto t) -> int64_t {
    using T = decltype(t);
    const T* v = x.data<T>();
    for (int64_t i = 0; i < x.elements(); ++i) {
      if (!std::isfinite(v[i])) return i / x.dim(1);
    }
    return -1;
  });
}

// A copy of x in which non-finite elements are 0.
Tensor Sanitized(Arena& arena, const Tensor& x) {
  const Tensor copy = arena.New(x.shape(), x.dtype());
  copy.CopyFrom(x);
  DispatchFloat(x.dtype(), [&](auto t) {
    using T = decltype(t);
    for (T& v : copy.span<T>()) v = std::isfinite(v) ? v : T{0};
  });
  return copy;
}

// scores + bias, row by row, as a copy.
Tensor Biased(Arena& arena, const Tensor& scores, std::span<const float> bias) {
  const Tensor copy = arena.New(scores.shape(), scores.dtype());
  const size_t experts = static_cast<size_t>(scores.dim(1));
  DispatchFloat(scores.dtype(), [&](auto t) {
    using T = decltype(t);
    const T* from = scores.data<T>();
    T* to = copy.data<T>();
    for (int64_t i = 0; i < scores.elements(); ++i) to[i] = from[i] + (bias.empty() ? T{0} : static_cast<T>(bias[i % experts]));
  });
  return copy;
}

// The k experts of each row, from selection scores [n, E].
Tensor Select(Arena& arena, Tensor scores, const RouterOptions& o, std::span<const float> bias) {
  if (o.kind == MoeConfig::EXPERT_CHOICE) {
    CapacityOptions capacity = o.capacity;
    if (capacity.factor == 0) capacity.factor = 1;
    return ChooseTokens(arena, scores, capacity.Rows(scores.dim(0), o.top_k, o.experts));
  }
  const Tensor ids = arena.New({scores.dim(0), o.top_k}, DType::kI32);
  if (o.in_turn) {
    for (int64_t i = 0; i < ids.elements(); ++i) {
      ids.data<int32_t>()[i] = static_cast<int32_t>((i / o.top_k + i % o.top_k * o.experts / o.top_k) % o.experts);
    }
    return ids;
  }
  if (!bias.empty() || o.groups > o.group_top_k) scores = Biased(arena, scores, bias);
  if (o.groups > o.group_top_k) LimitToGroups(arena, scores, o);
  TopK(scores, o.top_k, ids);
  return ids;
}

// Weights of the selected experts; where `selected` is -1, of expert 0.
Var Weights(Tape& tape, const Routing& routing, const RouterOptions& o, Var scores) {
  Tensor ids = routing.selected;
  if (o.kind == MoeConfig::EXPERT_CHOICE) {
    ids = tape.arena().New(ids.shape(), DType::kI32);
    std::ranges::transform(routing.selected.span<int32_t>(), ids.data<int32_t>(), [](int32_t e) { return std::max(e, 0); });
  }
  Var weights = GatherColumns(tape, scores, ids);
  if (o.kind == MoeConfig::SOFTMAX_POST) weights = Softmax(tape, weights);
  const bool sums = o.kind == MoeConfig::SOFTMAX_PRE || o.kind == MoeConfig::SIGMOID;
  if (sums && o.renormalize) weights = NormalizeRows(tape, weights);
  if (o.scale != 1) weights = Affine(tape, weights, o.scale, 0);
  return weights;
}

}  // namespace

int64_t CapacityOptions::Rows(int64_t tokens, int top_k, int experts) const {
  const double share = factor * static_cast<double>(tokens) * top_k / experts;
  return std::max(minimum, static_cast<int64_t>(std::ceil(share)));
}

absl::StatusOr<Routing> RecordRouter(Recorder& r, Var logits, const RouterOptions& o, int layer, std::span<const float> bias) {
  const TraceSpan span("router");
  Tape& tape = r.tape();
  Routing routing{.logits = logits};
  Var scores = logits;  // what is selected by, before the bias, and what weights are made of
  if (o.kind == MoeConfig::SIGMOID) {
    scores = Sigmoid(tape, logits);
    routing.probabilities = NormalizeRows(tape, scores);
  } else {
    routing.probabilities = Softmax(tape, logits);
    if (o.kind != MoeConfig::SOFTMAX_POST) scores = routing.probabilities;
  }
  Tensor values = tape.value(scores);
  if (const int64_t bad = FirstNonFiniteRow(tape.value(logits)); bad >= 0) {
    r.Poison(
        Internal("router of MoE layer %d: logits of token %d are not finite; the step is refused (check the learning rate)", layer, bad));
    values = Sanitized(tape.arena(), values);
  }
  RoutingLog* log = r.routing_log();
  if (log != nullptr && log->replays()) {
    const RoutingLog::Reader reader{layer, values.dim(0), o.experts};
    ASSIGN_OR_RETURN(routing.selected, r.again() ? log->Again(tape.arena(), reader) : log->Next(tape.arena(), reader));
  } else {
    routing.selected = Select(tape.arena(), values, o, bias);
    if (log != nullptr && !r.again()) log->Append(layer, routing.selected);
  }
  routing.weights = Weights(tape, routing, o, scores);
  routing.ids = routing.selected;
  if (o.kind != MoeConfig::EXPERT_CHOICE && o.capacity.factor > 0) {
    routing.ids = tape.arena().New(routing.selected.shape(), DType::kI32);
    routing.ids.CopyFrom(routing.selected);
    const int64_t rows = o.capacity.Rows(values.dim(0), o.top_k, o.experts);
    routing.dropped =
        DropOverflow(tape.arena(), routing.ids, tape.value(routing.weights), {.experts = o.experts, .rows = rows, .drop = o.capacity.drop});
  }
  return routing;
}

void LimitToGroups(Arena& arena, const Tensor& scores, const RouterOptions& o) {
  const int64_t size = o.experts / o.groups;
  const Arena::Mark mark = arena.Here();
  const std::span<int32_t> order = arena.New({o.groups}, DType::kI32).span<int32_t>();
  const Tensor scratch = arena.New({size + o.groups}, scores.dtype());
  DispatchFloat(scores.dtype(), [&](auto t) {
    using T = decltype(t);
    T *members = scratch.data<T>(), *total = members + size;
    for (int64_t row = 0; row < scores.dim(0); ++row) {
      T* s = scores.data<T>() + row * o.experts;
      for (int g = 0; g < o.groups; ++g) {
        std::partial_sort_copy(s + g * size, s + (g + 1) * size, members, members + o.group_score_top, std::greater<T>());
        total[g] = std::accumulate(members, members + o.group_score_top, T{0});
      }
      std::iota(order.begin(), order.end(), 0);
      std::sort(order.begin(), order.end(), [&](int a, int b) { return total[a] > total[b] || (total[a] == total[b] && a < b); });
      for (int place = o.group_top_k; place < o.groups; ++place) {
        std::fill_n(s + order[place] * size, size, -std::numeric_limits<T>::infinity());
      }
    }
  });
  arena.Rewind(mark);
}

Tensor ChooseTokens(Arena& arena, const Tensor& scores, int64_t rows) {
  const int64_t n = scores.dim(0), experts = scores.dim(1), taken = std::min(rows, n);
  const Tensor order = arena.New({experts, n}, DType::kI32);  // by expert: the tokens it takes first
  const Tensor count = arena.NewZeroed({n}, DType::kI64);     // experts of a token
  return DispatchFloat(scores.dtype(), [&](auto t) {
    using T = decltype(t);
    const T* s = scores.data<T>();
    int64_t most = 1;
    for (int64_t e = 0; e < experts; ++e) {
      int32_t* tokens = order.data<int32_t>() + e * n;
      std::iota(tokens, tokens + n, 0);
      std::partial_sort(tokens, tokens + taken, tokens + n, [&](int32_t a, int32_t b) {
        const T x = s[a * experts + e], y = s[b * experts + e];
        return x > y || (x == y && a < b);
      });
      for (int64_t i = 0; i < taken; ++i) most = std::max(most, ++count.data<int64_t>()[tokens[i]]);
    }
    const Tensor ids = arena.New({n, most}, DType::kI32);
    std::ranges::fill(ids.span<int32_t>(), -1);
    count.Zero();
    for (int64_t e = 0; e < experts; ++e) {
      for (int64_t i = 0; i < taken; ++i) {
        const int64_t token = order.data<int32_t>()[e * n + i];
        ids.data<int32_t>()[token * most + count.data<int64_t>()[token]++] = static_cast<int32_t>(e);
      }
    }
    for (int64_t token = 0; token < n; ++token) {
      const T* row = s + token * experts;
      int32_t* mine = ids.data<int32_t>() + token * most;
      std::sort(mine, mine + count.data<int64_t>()[token],
                [&](int32_t a, int32_t b) { return row[a] > row[b] || (row[a] == row[b] && a < b); });
    }
    return ids;
  });
}

int64_t DropOverflow(Arena& arena, const Tensor& ids, const Tensor& weights, const SlotLimit& limit) {
  const Arena::Mark mark = arena.Here();
  const std::span<int32_t> id = ids.span<int32_t>();
  const std::span<int64_t> end = arena.NewZeroed({limit.experts + 1}, DType::kI64).span<int64_t>();
  const std::span<int64_t> slots = arena.New({ids.elements()}, DType::kI64).span<int64_t>();  // by expert, then place
  for (const int32_t e : id) ++end[e + 1];
  std::partial_sum(end.begin(), end.end(), end.begin());  // where the slots of expert e begin; end[e + 1] once they are filled in
  for (size_t i = 0; i < id.size(); ++i) slots[end[id[i]]++] = static_cast<int64_t>(i);
  int64_t dropped = 0;
  DispatchFloat(weights.dtype(), [&](auto t) {
    using T = decltype(t);
    const auto weight = [w = weights.data<T>()](int64_t i) { return std::isnan(w[i]) ? -std::numeric_limits<T>::infinity() : w[i]; };
    for (int64_t e = 0, begin = 0; e < limit.experts; begin = end[e++]) {
      const std::span<int64_t> mine = slots.subspan(begin, end[e] - begin);
      if (limit.drop == CapacityConfig::BY_WEIGHT) {
        std::sort(mine.begin(), mine.end(),
                  [&](int64_t a, int64_t b) { return weight(a) > weight(b) || (weight(a) == weight(b) && a < b); });
      }
      for (size_t i = static_cast<size_t>(limit.rows); i < mine.size(); ++i, ++dropped) id[mine[i]] = -1;
    }
  });
  arena.Rewind(mark);
  return dropped;
}

void CountExperts(const Tensor& ids, std::span<int64_t> counts) {
  for (const int32_t e : ids.span<int32_t>()) {
    if (e >= 0) ++counts[e];
  }
}

void UpdateRouterBias(std::span<const int64_t> load, const BiasStepOptions& step, std::span<float> bias) {
  const int64_t total = std::accumulate(load.begin(), load.end(), int64_t{0}), experts = static_cast<int64_t>(load.size());
  for (size_t i = 0; i < load.size(); ++i) {
    const int64_t excess = load[i] * experts - total;
    if (excess == 0) continue;
    const double relative = step.kind == MoeConfig::PROPORTIONAL ? static_cast<double>(excess) / static_cast<double>(total)
                            : excess < 0                         ? -1
                                                                 : 1;
    bias[i] -= static_cast<float>(step.rate * relative);
  }
}

}  // namespace conclave
