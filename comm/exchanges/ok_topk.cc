// Sums of the coordinates that matter, after Ok-Topk (Li, Hoefler, PPoPP 2022). Worker m forms a_m = v_m + e_m and selects its coordinates
// of magnitude t_m or more; the owners of regions of the block add the selected ones up (comm/sparse_sums.h); of the means those of
// magnitude t or more come back to everyone, g. The aggregate is g; e_m = a_m, but 0 where worker m's term is in g: over any number of
// exchanges the aggregates and the mean of the last e_m add up to the means of the v_m. Every estimate_every exchanges an exact look: t_m
// is the k-th largest magnitude of a_m, all means come back, t is the k-th largest of them, and the regions are cut so that each holds as
// many. In between thresholds and cuts stay; a worker that would select more than 2 k or fewer than k / 2 looks again at once, a block of
// which so many or few came back in the next exchange. Bytes with one worker a rank, k terms of 4 bytes and b bits of index: about 2 k (4 +
// b / 8) (M - 1) / M, M frames and lengths each way.
#include <algorithm>
#include <cmath>
#include <limits>

#include "comm/exchanges.h"
#include "comm/kept_values.h"
#include "comm/sparse_sums.h"
#include "comm/sums.h"
#include "comm/worker_memory.h"
#include "tensor/reduce.h"

namespace conclave {
namespace {

constexpr int64_t kTermsPerRegion = 16;  // at least: below that frames weigh more than terms
constexpr int64_t kCutSteps = 65536;     // regions end at multiples of elements / 65536: whole numbers that any float holds

// What all ranks know of a block and remember: [threshold, whether to look again, the cuts inside in 65536ths].
struct BlockMemory {
  BlockId id;
  int64_t kept = 0;  // k
  OwnedTensor current, pending;
};

class OkTopK final : public Exchange {
 public:
  // sparse: by block id, how many coordinates a block keeps; 0: it travels exactly.
  OkTopK(const ExchangeContext& context, int64_t estimate_every, const std::vector<int64_t>& kept)
      : context_(context),
        estimate_every_(estimate_every),
        exact_layout_(ExactPart(context, kept)),
        exact_(MakeExact()),
        e_m_(context, Sparse(kept)),
        aggregate_(context.layout, context.dtype),
        places_(kept.size()) {
    for (const bool expert : {false, true}) PlanKind(expert, kept);
    magnitudes_.reserve(static_cast<size_t>(largest_));
  }

  void Begin(uint32_t step, uint32_t draw) override {
    exact_->Begin(step, draw);
    for (Kind& kind : kinds_) {
      kind.sums->Begin({.seed = context_.seed, .step = step, .draw = draw});
      std::fill(kind.came.begin(), kind.came.end(), false);
    }
  }

  absl::Status Put(WorkerId worker, BlockId block, const Tensor& span, bool folded) override {
    CHECK(!folded) << "a threshold needs each worker's own vector";
    const Place place = places_[static_cast<size_t>(block.value)];
    if (place.kind < 0) return exact_->Put(worker, block, span, folded);
    return Select(kinds_[static_cast<size_t>(place.kind)], worker.value, place.index, &span);
  }

  absl::StatusOr<Aggregate> Finish() override {
    ASSIGN_OR_RETURN(const Aggregate exact, exact_->Finish());
    LogicalWire logical;
    for (Kind& kind : kinds_) {
      const SparseSums& sums = *kind.sums;
      for (int worker = sums.first(); worker < sums.first() + sums.count(); ++worker) {
        for (size_t b = 0; b < kind.blocks.size(); ++b) {
          if (!kind.came[kind.At(worker, b)]) RETURN_IF_ERROR(Select(kind, worker, b, nullptr));
        }
      }
      for (size_t b = 0; b < kind.blocks.size(); ++b) SetPlan(kind, b);
      RETURN_IF_ERROR(kind.sums->Run());
      for (size_t b = 0; b < kind.blocks.size(); ++b) Take(kind, b);
      logical += sums.logical();
    }
    for (const BlockId id : exact_layout_.local_blocks()) aggregate_.block(id).CopyFrom(exact->block(id));
    if (context_.world->ledger() != nullptr) context_.world->ledger()->BookLogical(logical);
    return &aggregate_;
  }

  void Commit() override {
    e_m_.Commit();
    ++taken_;
    for (Kind& kind : kinds_) {
      for (BlockMemory& block : kind.blocks) block.current->CopyFrom(*block.pending);
      kind.thresholds->CopyFrom(*kind.new_thresholds);
    }
  }
  void Discard() override {}
  bool wants_each_worker() const override { return true; }

  void Register(StateDict& state, const std::string& part) override {
    const ParameterSet& parameters = context_.layout->parameters();
    e_m_.Register(state, part + ".e_m");
    state.AddScalar(part + ".taken", &taken_);
    for (Kind& kind : kinds_) {
      for (size_t b = 0; b < kind.blocks.size(); ++b) {
        const BlockMemory& block = kind.blocks[b];
        const std::string& name = parameters[block.id].name;
        state.Add(StateEntry{.name = part + ".plan/" + name, .data = *block.current, .canonical = context_.layout->is_canonical(block.id)});
        for (int worker = kind.sums->first(); worker < kind.sums->first() + kind.sums->count(); ++worker) {
          state.Add(StateEntry{.name = absl::StrFormat("%s.threshold/worker.%d/%s", part, worker, name),
                               .data = kind.thresholds->Slice(static_cast<int64_t>(kind.At(worker, b)), 1)});
        }
      }
    }
  }

 private:
  struct Kind {
    std::unique_ptr<SparseSums> sums;
    std::vector<BlockMemory> blocks;
    std::vector<SparseTerms> selected;       // [own workers, blocks]
    std::vector<bool> came;                  // likewise
    OwnedTensor thresholds, new_thresholds;  // likewise
    size_t At(int worker, size_t block) const { return static_cast<size_t>(worker - sums->first()) * blocks.size() + block; }
  };
  struct Place {
    int kind = -1;
    size_t index = 0;
  };

  static std::vector<bool> Sparse(const std::vector<int64_t>& kept) {
    std::vector<bool> sparse;
    for (const int64_t k : kept) sparse.push_back(k > 0);
    return sparse;
  }
  // The same homes, with storage for the blocks that travel exactly.
  static Layout ExactPart(const ExchangeContext& context, const std::vector<int64_t>& kept) {
    std::vector<BlockHome> homes;
    for (size_t i = 0; i < kept.size(); ++i) {
      BlockHome& home = homes.emplace_back(context.layout->home({static_cast<int>(i)}));
      if (kept[i] > 0) std::erase(home.owners, context.layout->rank());
    }
    return Layout(&context.layout->parameters(), context.layout->rank(), std::move(homes));
  }
  std::unique_ptr<Exchange> MakeExact() const {
    ExchangeContext own = context_;
    own.layout = &exact_layout_;
    own.world_size_invariant = true;
    return MakeExactExchange(own);
  }

  void PlanKind(bool expert, const std::vector<int64_t>& kept) {
    const ParameterSet& parameters = context_.layout->parameters();
    const int workers = context_.workers.workers;
    Kind kind;
    std::vector<SparseBlock> blocks;
    int first_owner = 0;
    // All blocks take part in handing out regions, local or not.
    for (int i = 0; i < parameters.size(); ++i) {
      const int64_t k = kept[static_cast<size_t>(i)], elements = parameters[{i}].shape.elements();
      if (k == 0) continue;
      const auto regions = static_cast<int>(std::clamp<int64_t>(k / kTermsPerRegion, 1, workers));
      const int owner = first_owner;
      first_owner = (first_owner + regions) % workers;
      if ((parameters[{i}].kind == BlockKind::kExpert) != expert || !context_.layout->is_local({i})) continue;
      places_[static_cast<size_t>(i)] = {.kind = static_cast<int>(kinds_.size()), .index = blocks.size()};
      const int64_t most = std::min(2 * k, elements);
      blocks.push_back({.id = {i}, .elements = elements, .most_terms = most, .regions = regions, .first_owner = owner});
      largest_ = std::max(largest_, std::max(elements, workers * most));
      BlockMemory memory{.id = {i}, .kept = k};
      memory.current = OwnedTensor({regions + 1}, context_.dtype), memory.pending = OwnedTensor({regions + 1}, context_.dtype);
      kind.blocks.push_back(std::move(memory));
    }
    if (blocks.empty()) return;
    kind.sums = std::make_unique<SparseSums>(context_, expert, blocks);
    for (size_t b = 0; b < blocks.size(); ++b) kind.sums->plan(b).cuts.resize(static_cast<size_t>(blocks[b].regions) + 1);
    const size_t lists = static_cast<size_t>(kind.sums->count()) * blocks.size();
    kind.selected.resize(lists), kind.came.resize(lists);
    for (size_t i = 0; i < lists; ++i) kind.selected[i].reserve(static_cast<size_t>(blocks[i % blocks.size()].most_terms));
    kind.thresholds = OwnedTensor({static_cast<int64_t>(lists)}, context_.dtype);
    kind.new_thresholds = OwnedTensor({static_cast<int64_t>(lists)}, context_.dtype);
    kinds_.push_back(std::move(kind));
  }

  bool Estimating(const BlockMemory& block) const { return taken_ % estimate_every_ == 0 || Number(*block.current, 1) != 0; }
  static double Number(const Tensor& x, int64_t i) {
    double value = 0;
    DispatchFloat(x.dtype(), [&](auto t) { value = static_cast<double>(x.data<decltype(t)>()[i]); });
    return value;
  }
  static void SetNumber(const Tensor& x, int64_t i, double value) {
    DispatchFloat(x.dtype(), [&](auto t) { x.data<decltype(t)>()[i] = static_cast<decltype(t)>(value); });
  }

  // v: null for +0.
  absl::Status Select(Kind& kind, int worker, size_t index, const Tensor* v) {
    const BlockMemory& block = kind.blocks[index];
    if (worker < kind.sums->first() || worker >= kind.sums->first() + kind.sums->count() || kind.came[kind.At(worker, index)]) {
      return Internal("exchange: worker %d puts block %d twice, or its vectors do not come to this rank", worker, block.id.value);
    }
    const size_t at = kind.At(worker, index);
    kind.came[at] = true;
    const Tensor a = e_m_.Pending({worker}, block.id);
    a.CopyFrom(e_m_.At({worker}, block.id));
    if (v != nullptr) AddInto(a.dtype(), v->Flat().raw(), a.raw(), a.elements());
    if (!AllFinite(a)) {
      kind.sums->Set(worker, index, nullptr);
      return absl::OkStatus();
    }
    SparseTerms& terms = kind.selected[at];
    double threshold = Number(*kind.thresholds, static_cast<int64_t>(at));
    bool exact = Estimating(block) || threshold == 0;
    if (!exact) {
      const int64_t count = CountFrom(a, threshold);
      exact = count > 2 * block.kept || 2 * count < block.kept;
    }
    if (exact) threshold = KthMagnitude(a, block.kept);
    Keep(a, threshold, exact ? block.kept : 2 * block.kept, terms);
    SetNumber(*kind.new_thresholds, static_cast<int64_t>(at), threshold);
    kind.sums->Set(worker, index, &terms);
    return absl::OkStatus();
  }

  static int64_t CountFrom(const Tensor& a, double threshold) {
    int64_t count = 0;
    DispatchFloat(a.dtype(), [&](auto t) {
      using T = decltype(t);
      const auto limit = static_cast<T>(threshold);
      for (const T x : a.span<T>()) count += std::abs(x) >= limit ? 1 : 0;
    });
    return count;
  }
  double KthMagnitude(const Tensor& a, int64_t k) {
    magnitudes_.clear();
    DispatchFloat(a.dtype(), [&](auto t) {
      for (const auto x : a.span<decltype(t)>()) magnitudes_.push_back(std::abs(static_cast<double>(x)));
    });
    return MagnitudeOfRank(magnitudes_, k);
  }
  // Those above the threshold, and of those equal to it the first, `most` in all. Zeros have nothing to say.
  static void Keep(const Tensor& a, double threshold, int64_t most, SparseTerms& terms) {
    terms.clear();
    DispatchFloat(a.dtype(), [&](auto t) {
      using T = decltype(t);
      const auto limit = static_cast<T>(threshold);
      const std::span<const T> values = a.span<T>();
      int64_t above = 0;
      for (const T x : values) above += std::abs(x) > limit ? 1 : 0;
      int64_t equal = most - above;
      for (size_t i = 0; i < values.size(); ++i) {
        const T size = std::abs(values[i]);
        if (size < limit || size == 0 || (size == limit && equal-- <= 0)) continue;
        terms.push_back({.index = static_cast<int64_t>(i), .value = static_cast<double>(values[i])});
      }
    });
  }

  void SetPlan(Kind& kind, size_t index) {
    const BlockMemory& block = kind.blocks[index];
    SparsePlan& plan = kind.sums->plan(index);
    const int64_t elements = kind.sums->blocks()[index].elements;
    const auto regions = static_cast<int64_t>(plan.cuts.size()) - 1;
    plan.threshold = Estimating(block) ? 0 : Number(*block.current, 0);
    for (int64_t r = 0; r <= regions; ++r) {
      const double steps =
          r > 0 && r < regions && taken_ > 0 ? Number(*block.current, 1 + r) : static_cast<double>(kCutSteps * r / regions);
      plan.cuts[static_cast<size_t>(r)] = elements * static_cast<int64_t>(steps) / kCutSteps;
    }
  }

  // The aggregate, what each worker keeps, and what the next exchange goes by.
  void Take(Kind& kind, size_t index) {
    BlockMemory& block = kind.blocks[index];
    const Tensor sum = aggregate_.block(block.id).Flat(), next = *block.pending;
    const SparseTerms* const means = kind.sums->means(index);
    if (means == nullptr) return sum.Fill(std::numeric_limits<double>::quiet_NaN());
    const bool estimating = Estimating(block);
    next.CopyFrom(*block.current);
    double threshold = kind.sums->plan(index).threshold;
    if (estimating) {
      magnitudes_.clear();
      for (const SparseTerm& term : *means) magnitudes_.push_back(std::abs(term.value));
      threshold = MagnitudeOfRank(magnitudes_, block.kept);
      CutEvenly(*means, kind.sums->blocks()[index].elements, next);
    }
    SetNumber(next, 0, threshold);
    sum.Zero();
    int64_t count = 0;
    DispatchFloat(sum.dtype(), [&](auto t) {
      using T = decltype(t);
      T* const out = sum.data<T>();
      for (const SparseTerm& term : *means) {
        if (std::abs(term.value) < threshold) continue;
        out[term.index] = static_cast<T>(term.value);
        ++count;
      }
      for (int worker = kind.sums->first(); worker < kind.sums->first() + kind.sums->count(); ++worker) {
        T* const e = e_m_.Pending({worker}, block.id).template data<T>();
        for (const SparseTerm& term : kind.selected[kind.At(worker, index)]) {
          if (out[term.index] != 0) e[term.index] = 0;
        }
      }
    });
    SetNumber(next, 1, !estimating && (count > 2 * block.kept || 2 * count < block.kept) ? 1 : 0);
  }

  static void CutEvenly(const SparseTerms& means, int64_t elements, const Tensor& plan) {
    const int64_t regions = plan.elements() - 1;
    for (int64_t r = 1; r < regions; ++r) {
      const size_t at = means.size() * static_cast<size_t>(r) / static_cast<size_t>(regions);
      const double share = means.empty() ? static_cast<double>(r) / static_cast<double>(regions)
                                         : static_cast<double>(means[at].index) / static_cast<double>(elements);
      SetNumber(plan, 1 + r, std::floor(share * static_cast<double>(kCutSteps)));
    }
  }

  const ExchangeContext context_;
  const int64_t estimate_every_;
  const Layout exact_layout_;
  const std::unique_ptr<Exchange> exact_;
  WorkerMemory e_m_;
  FlatVector aggregate_;
  std::vector<Place> places_;  // by block id
  std::vector<Kind> kinds_;
  std::vector<double> magnitudes_;  // scratch
  int64_t largest_ = 1;
  int64_t taken_ = 0;  // exchanges committed
};

}  // namespace

ExchangeOr MakeOkTopKExchange(const ExchangeConfig& config, const ExchangeContext& context) {
  const OkTopKConfig& own = config.ok_topk();
  if (own.estimate_every() < 1) return InvalidArgument("ok_topk: estimate_every must be at least 1, got %d", own.estimate_every());
  if (config.has_downlink()) {
    return InvalidArgument("exchange.downlink: ok_topk sends the largest sums back as they are, few enough already; leave it out");
  }
  std::vector<int64_t> kept;
  for (const BlockSpec& spec : context.layout->parameters().blocks()) {
    ASSIGN_OR_RETURN(const int64_t k, CountOf("ok_topk", own.fraction(), {.shape = spec.shape}));
    kept.push_back(spec.shape.elements() < own.exact_below() ? 0 : k);
  }
  return std::make_unique<OkTopK>(context, own.estimate_every(), kept);
}

}  // namespace conclave
