#include "optim/reference_point.h"

#include <cmath>
#include <functional>
#include <utility>

#include "base/rng.h"
#include "base/simd.h"

namespace conclave {
namespace {

constexpr uint32_t kDifferenceDraw = 0;
constexpr uint32_t kRefreshDraw = 1;

// What the shared draws of a step are for.
enum class Draw : uint32_t { kCoin = 0, kParticipants = 1 };

template <typename T>
CONCLAVE_INLINE void DifferenceLoop(const T* a, const T* b, T factor, T* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = (a[i] - b[i]) * factor;
}
CONCLAVE_SIMD void Difference(const float* a, const float* b, float factor, float* out, int64_t n) { DifferenceLoop(a, b, factor, out, n); }
CONCLAVE_SIMD void Difference(const double* a, const double* b, double factor, double* out, int64_t n) {
  DifferenceLoop(a, b, factor, out, n);
}

void ScaleTerms(double factor, Evaluation* evaluation) {
  for (Term& term : evaluation->terms) term.value *= factor;
  for (double& value : evaluation->by_worker) value *= factor;
  evaluation->objective *= factor;
}

RngKey SharedDraw(uint64_t seed, uint32_t step, Draw draw) {
  return {.seed = seed, .site = static_cast<uint32_t>(draw), .step = step, .worker = kSharedWorker, .kind = RngKind::kCoin};
}

}  // namespace

ReferencePoint::ReferencePoint(const SchemeContext& context, ReferencePointOptions options)
    : options_(std::move(options)),
      seed_(context.exchange.seed),
      workers_(context.exchange.workers.workers),
      full_(MakeExactExchange(context.exchange)),
      norm_(context.exchange.layout, context.exchange.world),
      w_(context.exchange.layout, context.exchange.dtype),
      F_w_(context.exchange.layout, context.exchange.dtype),
      F_m_w_(context.exchange.layout, context.exchange.workers, context.exchange.dtype),
      F_m_next_(context.exchange.layout, context.exchange.workers, context.exchange.dtype),
      difference_({LargestBlock(*context.exchange.layout)}, context.exchange.dtype) {
  if (options_.variance_reduced) F_m_sample_.emplace(context.exchange.layout, context.exchange.workers, context.exchange.dtype);
}

absl::Status ReferencePoint::Start(Operator& field, const FlatVector& z0) {
  ASSIGN_OR_RETURN(const VectorNorms norms, EvaluateNext(field, z0, SampleKey{}));
  if (!std::isfinite(norms.total)) {
    return FailedPrecondition("%s: the operator norm at the initial point is %f: %s", options_.part, norms.total, norms.why);
  }
  MoveTo(z0);
  return absl::OkStatus();
}

bool ReferencePoint::Coin(const SampleKey& key) const { return SharedDraw(seed_, key.step, Draw::kCoin).UniformDouble(0) < options_.p; }

// Selection sampling: worker m is taken with probability (still to take) / (still to come).
void ReferencePoint::DrawParticipants(const SampleKey& key) {
  const RngKey draw = SharedDraw(seed_, key.step, Draw::kParticipants);
  int64_t left = options_.participants->count;
  for (int m = 0; m < workers_; ++m) {
    char& chosen = options_.participants->chosen[static_cast<size_t>(m)];
    chosen = draw.UniformDouble(m) * (workers_ - m) < static_cast<double>(left) ? 1 : 0;
    left -= chosen;
  }
}

absl::StatusOr<Evaluation> ReferencePoint::EvaluateSome(Operator& field, const FlatVector& point, const SampleKey& key,
                                                        const OnBlock& on_block) {
  if (options_.participants != nullptr) field.Select(options_.participants->chosen);
  absl::StatusOr<Evaluation> evaluation = field.Evaluate(point, key, /*each_worker=*/true, on_block);
  field.Select({});
  return evaluation;
}

absl::StatusOr<Exchanged> ReferencePoint::ExchangeDifferences(Operator& field, const FlatVector& point, const SampleKey& key,
                                                              Exchange& exchange) {
  const bool all = options_.participants == nullptr;
  if (!all) DrawParticipants(key);
  const double factor = all ? 1 : workers_ / static_cast<double>(options_.participants->count);
  if (F_m_sample_) {
    const OnBlock keep = [this](WorkerId worker, BlockId block, const Tensor& span, bool) {
      F_m_sample_->At(worker, block).CopyFrom(span);
      return absl::OkStatus();
    };
    RETURN_IF_ERROR(EvaluateSome(field, w_, key, keep).status());
  }
  const WorkerVectors& base = F_m_sample_ ? *F_m_sample_ : F_m_w_;
  exchange.Begin(key.step, kDifferenceDraw);
  const auto put = [&](WorkerId worker, BlockId block, const Tensor& span, bool) {
    const Tensor out = difference_->Slice(0, span.elements()).Reshape(span.shape());
    DispatchFloat(span.dtype(), [&](auto t) {
      using T = decltype(t);
      Difference(span.data<T>(), base.At(worker, block).template data<T>(), static_cast<T>(factor), out.data<T>(), span.elements());
    });
    return exchange.Put(worker, block, out);
  };
  Exchanged result;
  ASSIGN_OR_RETURN(result.evaluation, EvaluateSome(field, point, key, std::ref(put)));
  if (!all) ScaleTerms(factor, &result.evaluation);
  ASSIGN_OR_RETURN(result.aggregate, exchange.Finish());
  result.field = &field, result.point = &point, result.key = key, result.exchange = &exchange;
  return result;
}

absl::StatusOr<VectorNorms> ReferencePoint::EvaluateNext(Operator& field, const FlatVector& point, const SampleKey& key) {
  full_->Begin(key.step, kRefreshDraw);
  const OnBlock keep = [this](WorkerId worker, BlockId block, const Tensor& span, bool) {
    F_m_next_.At(worker, block).CopyFrom(span);
    return full_->Put(worker, block, span);
  };
  SampleKey sample = key;
  sample.full = options_.variance_reduced;
  RETURN_IF_ERROR(field.Evaluate(point, sample, /*each_worker=*/true, keep).status());
  ASSIGN_OR_RETURN(F_next_, full_->Finish());
  return NormOf(*F_next_, {.aggregate = F_next_, .field = &field, .point = &point, .key = sample, .exchange = full_.get()}, norm_);
}

// Copies, never swaps: the train state is registered by address.
void ReferencePoint::MoveTo(const FlatVector& point) {
  full_->Commit();
  w_.CopyFrom(point);
  F_w_.CopyFrom(*F_next_);
  F_m_w_.CopyFrom(F_m_next_);
}

void ReferencePoint::Register(StateDict& state) {
  state.Add(options_.part + ".w", w_);
  state.Add(options_.part + ".F_w", F_w_);
  F_m_w_.Register(state, options_.part + ".F_m_w");
  full_->Register(state, "exchange.refresh");
}

}  // namespace conclave
