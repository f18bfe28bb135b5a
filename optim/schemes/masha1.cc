// MASHA1 (Beznosikov, Richtarik, Diskin, Ryabinin, Gasnikov, arXiv 2110.03313): an unbiased codec carries F_m(zh) - F_m(w); with
// probability p the reference point w moves to the new z and F(w) is exchanged in full.
//   zbar = (1 - p) z + p w;   zh = prox(zbar - gamma F(w));   g = mean_m Q_m(F_m(zh) - F_m(w));   z <- prox(zbar - gamma (F(w) + g))
#include <algorithm>
#include <cmath>
#include <utility>

#include "base/rng.h"
#include "base/simd.h"
#include "comm/exchanges.h"
#include "optim/field_exchange.h"
#include "optim/prox.h"
#include "optim/schedule.h"
#include "optim/schemes.h"
#include "optim/worker_vectors.h"

namespace conclave {
namespace {

constexpr uint32_t kDifferenceDraw = 0;
constexpr uint32_t kRefreshDraw = 1;

template <typename T>
CONCLAVE_INLINE void SubtractLoop(const T* a, const T* b, T* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = a[i] - b[i];
}
CONCLAVE_SIMD void Subtract(const float* a, const float* b, float* out, int64_t n) { SubtractLoop(a, b, out, n); }
CONCLAVE_SIMD void Subtract(const double* a, const double* b, double* out, int64_t n) { SubtractLoop(a, b, out, n); }

int64_t LargestBlock(const Layout& layout) {
  int64_t most = 0;
  for (const BlockId id : layout.local_blocks()) most = std::max(most, layout.parameters()[id].shape.elements());
  return most;
}

class Masha1 final : public Scheme {
 public:
  Masha1(const OptimConfig& config, const SchemeContext& context, std::unique_ptr<Prox> prox, std::unique_ptr<Exchange> compressed)
      : config_(config),
        total_steps_(context.total_steps),
        seed_(context.exchange.seed),
        prox_(std::move(prox)),
        q_(std::move(compressed)),
        full_(MakeExactExchange(context.exchange)),
        norm_(context.exchange.layout, context.exchange.world),
        z_(InitialPoint(context)),
        w_(context.exchange.layout, context.exchange.dtype),
        Fw_(context.exchange.layout, context.exchange.dtype),
        zbar_(context.exchange.layout, context.exchange.dtype),
        zh_(context.exchange.layout, context.exchange.dtype),
        z_new_(context.exchange.layout, context.exchange.dtype),
        estimate_(context.exchange.layout, context.exchange.dtype),
        Fw_m_(context.exchange.layout, context.exchange.workers, context.exchange.dtype),
        Fw_m_new_(context.exchange.layout, context.exchange.workers, context.exchange.dtype),
        difference_({LargestBlock(*context.exchange.layout)}, context.exchange.dtype) {}

  FlatVector& point() override { return z_; }

  // Everyone learns F(z0).
  absl::Status Start(Operator& field) override {
    ASSIGN_OR_RETURN(const Aggregate f, Refresh(field, z_, Cursor{}.Key()));
    ASSIGN_OR_RETURN(const VectorNorms norms, norm_.Of(*f));
    if (!std::isfinite(norms.total)) return FailedPrecondition("masha1: the operator norm at the initial point is %f", norms.total);
    full_->Commit();
    MoveReference(*f);
    return absl::OkStatus();
  }

  absl::StatusOr<StepReport> Step(Operator& field, const Cursor& cursor, Guard& guard) override {
    const double p = config_.masha1().p();
    const double gamma = config_.masha1().gamma() * ScheduleFactor(config_.schedule(), cursor.step, total_steps_);
    StepReport report{.step = cursor.step, .learning_rate = gamma, .evaluations = 1};

    zbar_.Combine(1 - p, z_, p, w_);
    zh_.Combine(1, zbar_, -gamma, Fw_);
    prox_->Apply(zh_, gamma);
    ASSIGN_OR_RETURN(const Aggregate g, ExchangeDifferences(field, cursor.Key(), &report.evaluation));
    estimate_.Combine(1, Fw_, 1, *g);  // of F(zh)
    z_new_.Combine(1, zbar_, -gamma, estimate_);
    prox_->Apply(z_new_, gamma);
    ASSIGN_OR_RETURN(report.norms, norm_.Of(estimate_));
    report.gradient_norm = report.norms.total;
    double guarded = report.gradient_norm;

    const bool refresh = std::isfinite(guarded) && Coin(cursor.Key());
    Aggregate f = nullptr;
    if (refresh) {
      report.evaluations = 2;
      ASSIGN_OR_RETURN(f, Refresh(field, z_new_, cursor.Key()));
      ASSIGN_OR_RETURN(const VectorNorms norms, norm_.Of(*f));
      if (!std::isfinite(norms.total)) guarded = norms.total;
    }
    // Nothing of the train state was written so far.
    if (const absl::Status verdict = guard.Accept(report.evaluation.objective, guarded); !verdict.ok()) {
      if (refresh) full_->Discard();
      return RefuseStep(std::move(report), verdict, guard, {q_.get()});
    }
    q_->Commit();
    z_.CopyFrom(z_new_);
    if (refresh) {
      full_->Commit();
      MoveReference(*f);
    }
    return report;
  }

  void Register(StateDict& state) override {
    state.Add("model", z_);
    state.Add("masha1.w", w_);
    state.Add("masha1.F_w", Fw_);
    Fw_m_.Register(state, "masha1.F_m_w");
    q_->Register(state, "exchange.differences");
    full_->Register(state, "exchange.refresh");
  }

 private:
  // Drawn alike on all ranks: no byte is sent.
  bool Coin(const SampleKey& key) const {
    const RngKey coin{.seed = seed_, .step = key.step, .worker = kSharedWorker, .kind = RngKind::kCoin};
    return coin.UniformDouble(0) < config_.masha1().p();
  }

  // mean_m Q_m(F_m(zh) - F_m(w)).
  absl::StatusOr<Aggregate> ExchangeDifferences(Operator& field, const SampleKey& key, Evaluation* evaluation) {
    q_->Begin(key.step, kDifferenceDraw);
    const OnBlock put = [this](WorkerId worker, BlockId block, const Tensor& span, bool) {
      const Tensor out = difference_->Slice(0, span.elements()).Reshape(span.shape());
      DispatchFloat(span.dtype(), [&](auto t) {
        using T = decltype(t);
        Subtract(span.data<T>(), Fw_m_.At(worker, block).template data<T>(), out.data<T>(), span.elements());
      });
      return q_->Put(worker, block, out);
    };
    ASSIGN_OR_RETURN(*evaluation, field.Evaluate(zh_, key, /*each_worker=*/true, put));
    return q_->Finish();
  }

  // F(point) exactly, every F_m(point) kept aside.
  absl::StatusOr<Aggregate> Refresh(Operator& field, const FlatVector& point, const SampleKey& key) {
    full_->Begin(key.step, kRefreshDraw);
    const OnBlock keep = [this](WorkerId worker, BlockId block, const Tensor& span, bool) {
      Fw_m_new_.At(worker, block).CopyFrom(span);
      return full_->Put(worker, block, span);
    };
    RETURN_IF_ERROR(field.Evaluate(point, key, /*each_worker=*/true, keep).status());
    return full_->Finish();
  }

  // w = z. Copies, never swaps: the train state is registered by address.
  void MoveReference(const FlatVector& f) {
    w_.CopyFrom(z_);
    Fw_.CopyFrom(f);
    Fw_m_.CopyFrom(Fw_m_new_);
  }

  OptimConfig config_;
  int64_t total_steps_;
  uint64_t seed_;
  std::unique_ptr<Prox> prox_;
  std::unique_ptr<Exchange> q_, full_;
  LogicalNorm norm_;
  FlatVector z_, w_, Fw_;                    // train state
  FlatVector zbar_, zh_, z_new_, estimate_;  // of one step
  WorkerVectors Fw_m_, Fw_m_new_;            // F_m(w): train state; the one that may replace it
  OwnedTensor difference_;                   // [largest block]
};

}  // namespace

absl::StatusOr<std::unique_ptr<Scheme>> MakeMasha1(const OptimConfig& config, const SchemeContext& context) {
  ASSIGN_OR_RETURN(std::unique_ptr<Prox> prox, MakeProx(config.prox()));
  ASSIGN_OR_RETURN(std::unique_ptr<Exchange> compressed, MakeExchange(config.masha1().exchange(), context.exchange));
  return std::make_unique<Masha1>(config, context, std::move(prox), std::move(compressed));
}

}  // namespace conclave
