// Optimistic MASHA (Beznosikov and Gasnikov, arXiv 2206.09446): one evaluation and one compressed message a step, with momentum alpha.
// ' marks the step before:
//   g = F(w') + mean_m Q_m(F_m(z) - F_m(w') + alpha (F_m(z) - F_m(z')))
//   z <- prox_{gamma h}((1 - p) z + p w - gamma g);   with probability p: w <- the new z
// F(w) is used one step after w moved, so F_m(w) is the evaluation at z of the next step: refreshes cost an exchange and no evaluation.
// z' = w' = w = z at the start. Identity codec, p = 1 and alpha = 1 make it OGDA.
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

constexpr uint32_t kMessageDraw = 0;
constexpr uint32_t kExactRefreshDraw = 1;

// What a message is made of: F_m at z, w' and z'.
template <typename T>
struct Fields {
  const T* now;
  const T* reference;
  const T* before;
};

template <typename T>
CONCLAVE_INLINE void MessageLoop(const Fields<T>& f, T alpha, T* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = (f.now[i] - f.reference[i]) + alpha * (f.now[i] - f.before[i]);
}
CONCLAVE_SIMD void Message(const Fields<float>& f, float alpha, float* out, int64_t n) { MessageLoop(f, alpha, out, n); }
CONCLAVE_SIMD void Message(const Fields<double>& f, double alpha, double* out, int64_t n) { MessageLoop(f, alpha, out, n); }

class OptimisticMasha final : public Scheme {
 public:
  OptimisticMasha(const OptimConfig& config, const SchemeContext& context, std::unique_ptr<Prox> prox, std::unique_ptr<Exchange> compressed)
      : config_(config),
        total_steps_(context.total_steps),
        seed_(context.exchange.seed),
        prox_(std::move(prox)),
        q_(std::move(compressed)),
        full_(MakeExactExchange(context.exchange)),
        norm_(context.exchange.layout, context.exchange.world),
        z_(InitialPoint(context)),
        w_(context.exchange.layout, context.exchange.dtype),
        F_reference_(context.exchange.layout, context.exchange.dtype),
        g_(context.exchange.layout, context.exchange.dtype),
        z_new_(context.exchange.layout, context.exchange.dtype),
        F_m_reference_(context.exchange.layout, context.exchange.workers, context.exchange.dtype),
        F_m_before_(context.exchange.layout, context.exchange.workers, context.exchange.dtype),
        F_m_now_(context.exchange.layout, context.exchange.workers, context.exchange.dtype),
        message_({LargestBlock(*context.exchange.layout)}, context.exchange.dtype) {}

  FlatVector& point() override { return z_; }

  // Everyone learns F(z0).
  absl::Status Start(Operator& field) override {
    const OnBlock keep = [this](WorkerId worker, BlockId block, const Tensor& span, bool) {
      F_m_now_.At(worker, block).CopyFrom(span);
      return absl::OkStatus();
    };
    RETURN_IF_ERROR(field.Evaluate(z_, SampleKey{}, /*each_worker=*/true, keep).status());
    ASSIGN_OR_RETURN(const Aggregate f, ExchangeFully(0));
    ASSIGN_OR_RETURN(const VectorNorms norms, NormOf(*f, {.aggregate = f, .field = &field, .point = &z_, .exchange = full_.get()}, norm_));
    if (!std::isfinite(norms.total)) {
      return FailedPrecondition("optimistic_masha: the operator norm at the initial point is %f: %s", norms.total, norms.why);
    }
    full_->Commit();
    w_.CopyFrom(z_);
    F_reference_.CopyFrom(*f);
    F_m_reference_.CopyFrom(F_m_now_);
    F_m_before_.CopyFrom(F_m_now_);
    return absl::OkStatus();
  }

  absl::StatusOr<StepReport> Step(Operator& field, const Cursor& cursor, Guard& guard) override {
    const double p = config_.optimistic_masha().p();
    const double gamma = config_.optimistic_masha().gamma() * ScheduleFactor(config_.schedule(), cursor.step, total_steps_);
    StepReport report{.step = cursor.step, .learning_rate = gamma};

    ASSIGN_OR_RETURN(Exchanged message, ExchangeMessages(field, cursor.Key()));
    report.evaluation = std::move(message.evaluation);
    g_.Combine(1, F_reference_, 1, *message.aggregate);
    z_new_.Combine(1 - p, z_, p, w_);
    z_new_.Axpy(-gamma, g_);
    prox_->Apply(z_new_, gamma);
    ASSIGN_OR_RETURN(report.norms, NormOf(g_, message, norm_));
    report.gradient_norm = report.norms.total;

    const bool refresh = moved_ != 0 && std::isfinite(report.gradient_norm);
    Aggregate f = nullptr;
    if (refresh) {
      ASSIGN_OR_RETURN(f, ExchangeFully(cursor.Key().step));
    }
    // Nothing of the train state was written so far.
    if (const absl::Status verdict = guard.Accept(report.evaluation.objective, report.gradient_norm); !verdict.ok()) {
      if (refresh) full_->Discard();
      return RefuseStep(std::move(report), verdict, guard, {q_.get()});
    }
    q_->Commit();
    if (refresh) {
      full_->Commit();
      F_reference_.CopyFrom(*f);
      F_m_reference_.CopyFrom(F_m_now_);
    }
    F_m_before_.CopyFrom(F_m_now_);
    z_.CopyFrom(z_new_);
    moved_ = Coin(cursor.Key());
    if (moved_ != 0) w_.CopyFrom(z_);
    return report;
  }

  void Register(StateDict& state) override {
    state.Add("model", z_);
    state.Add("optimistic_masha.w", w_);
    state.Add("optimistic_masha.F_reference", F_reference_);
    F_m_reference_.Register(state, "optimistic_masha.F_m_reference");
    F_m_before_.Register(state, "optimistic_masha.F_m_before");
    state.AddScalar("optimistic_masha.moved", &moved_);
    q_->Register(state, "exchange.messages");
    full_->Register(state, "exchange.refresh");
  }

 private:
  // Drawn alike on all ranks: no byte is sent.
  bool Coin(const SampleKey& key) const {
    const RngKey coin{.seed = seed_, .step = key.step, .worker = kSharedWorker, .kind = RngKind::kCoin};
    return coin.UniformDouble(0) < config_.optimistic_masha().p();
  }

  // mean_m Q_m(F_m(z) - F_m(w') + alpha (F_m(z) - F_m(z'))); every F_m(z) is kept aside.
  absl::StatusOr<Exchanged> ExchangeMessages(Operator& field, const SampleKey& key) {
    q_->Begin(key.step, kMessageDraw);
    const OnBlock put = [this](WorkerId worker, BlockId block, const Tensor& span, bool) {
      F_m_now_.At(worker, block).CopyFrom(span);
      const Tensor out = message_->Slice(0, span.elements()).Reshape(span.shape());
      DispatchFloat(span.dtype(), [&](auto t) {
        using T = decltype(t);
        Message(Fields<T>{.now = span.data<T>(),
                          .reference = F_m_reference_.At(worker, block).template data<T>(),
                          .before = F_m_before_.At(worker, block).template data<T>()},
                static_cast<T>(config_.optimistic_masha().alpha()), out.data<T>(), span.elements());
      });
      return q_->Put(worker, block, out);
    };
    Exchanged result{.field = &field, .point = &z_, .key = key, .exchange = q_.get()};
    ASSIGN_OR_RETURN(result.evaluation, field.Evaluate(z_, key, /*each_worker=*/true, put));
    ASSIGN_OR_RETURN(result.aggregate, q_->Finish());
    return result;
  }

  // The mean of the vectors kept aside, exactly.
  absl::StatusOr<Aggregate> ExchangeFully(uint32_t step) {
    full_->Begin(step, kExactRefreshDraw);
    RETURN_IF_ERROR(
        F_m_now_.ForEach([this](WorkerId worker, BlockId block, const Tensor& span) { return full_->Put(worker, block, span); }));
    return full_->Finish();
  }

  OptimConfig config_;
  int64_t total_steps_;
  uint64_t seed_;
  std::unique_ptr<Prox> prox_;
  std::unique_ptr<Exchange> q_, full_;
  LogicalNorm norm_;
  FlatVector z_, w_, F_reference_;            // train state; F_reference = F(w')
  FlatVector g_, z_new_;                      // of one step
  WorkerVectors F_m_reference_, F_m_before_;  // F_m(w'), F_m(z'): train state
  WorkerVectors F_m_now_;                     // F_m(z)
  int64_t moved_ = 0;                         // did w move in the last step, so that F(w) is still to be exchanged? Train state
  OwnedTensor message_;                       // [largest block]
};

}  // namespace

absl::StatusOr<std::unique_ptr<Scheme>> MakeOptimisticMasha(const OptimConfig& config, const SchemeContext& context) {
  RETURN_IF_ERROR(CheckExchangeKind(config.optimistic_masha().exchange(), {"exact", "quantized"}, "optim.optimistic_masha.exchange"));
  ASSIGN_OR_RETURN(std::unique_ptr<Prox> prox, MakeProx(config.prox(), context.exchange.layout->parameters()));
  ASSIGN_OR_RETURN(std::unique_ptr<Exchange> compressed, MakeExchange(config.optimistic_masha().exchange(), context.exchange));
  return std::make_unique<OptimisticMasha>(config, context, std::move(prox), std::move(compressed));
}

}  // namespace conclave
