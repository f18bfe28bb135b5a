// ProxSkip-VIP-FL (Zhang, Li, Loizou, arXiv 2306.05100): every worker walks alone from a copy x_m of its own, along F_m corrected by a
// control h_m, and with probability p all meet at their mean:
//   half_m = x_m - gamma (F_m(x_m) - h_m)
//   coin: x_m <- mean_m half_m;   else x_m <- half_m;   h_m <- h_m + (p / gamma) (x_m - half_m)
// The h_m add up to 0 and learn F_m(z*), so that workers who differ stay at z* between meetings. Meetings at every 1 / p-th step make it
// SCAFFOLD; without control it is federated averaging, which stops short of z* unless the workers are alike. For strongly monotone
// problems: descent steps circle on bilinear ones. Memory: four vectors a worker.
#include <cmath>
#include <utility>

#include "base/rng.h"
#include "comm/exchanges.h"
#include "comm/sums.h"
#include "optim/field_exchange.h"
#include "optim/schedule.h"
#include "optim/schemes.h"
#include "optim/worker_points.h"

namespace conclave {
namespace {

class ProxSkip final : public Scheme {
 public:
  ProxSkip(const OptimConfig& config, const SchemeContext& context)
      : config_(config),
        total_steps_(context.total_steps),
        seed_(context.exchange.seed),
        exchange_(MakeExactExchange(context.exchange)),
        z_(InitialPoint(context)),
        points_(context.exchange),
        x_m_(context.exchange.layout, context.exchange.workers, context.exchange.dtype),
        h_m_(context.exchange.layout, context.exchange.workers, context.exchange.dtype),
        f_m_(context.exchange.layout, context.exchange.workers, context.exchange.dtype),
        half_m_(context.exchange.layout, context.exchange.workers, context.exchange.dtype),
        difference_({LargestBlock(*context.exchange.layout)}, context.exchange.dtype) {}

  FlatVector& point() override { return z_; }
  absl::Status Start(Operator&) override {
    x_m_.CopyFrom(z_);
    return absl::OkStatus();
  }

  absl::StatusOr<StepReport> Step(Operator& field, const Cursor& cursor, Guard& guard) override {
    const double p = config_.proxskip().p();
    const double gamma = config_.proxskip().gamma() * ScheduleFactor(config_.schedule(), cursor.step, total_steps_);
    StepReport report{.step = cursor.step, .learning_rate = gamma, .evaluations = 1};

    ASSIGN_OR_RETURN(report.evaluation, points_.Evaluate(field, x_m_, z_, cursor.Key(), f_m_));
    ASSIGN_OR_RETURN(const std::span<const double> squares, points_.SquaredNorms(f_m_, [](BlockId) { return true; }));
    report.gradient_norm = report.norms.total = RootMean(squares);
    half_m_.Combine(1, f_m_, -1, h_m_);
    half_m_.Combine(1, x_m_, -gamma, half_m_);

    const bool meet = std::isfinite(report.gradient_norm) && Meets(cursor.Key());
    Aggregate moved = nullptr;  // the mean of half_m - z
    if (meet) {
      ASSIGN_OR_RETURN(moved, ExchangeMoves(cursor.Key().step));
    }
    // Nothing of the train state was written so far. The losses of several workers' points are mixed where they share a replica, so the
    // norm alone is judged.
    if (const absl::Status verdict = guard.Accept(report.gradient_norm, report.gradient_norm); !verdict.ok()) {
      if (meet) exchange_->Discard();
      return RefuseStep(std::move(report), verdict, guard, {});
    }
    ++alone_;
    if (!meet) {
      x_m_.CopyFrom(half_m_);
      return report;
    }
    alone_ = 0;
    exchange_->Commit();
    z_.Axpy(1, *moved);
    x_m_.CopyFrom(z_);
    if (config_.proxskip().control()) {
      half_m_.Combine(p / gamma, x_m_, -p / gamma, half_m_);
      h_m_.Combine(1, h_m_, 1, half_m_);
    }
    return report;
  }

  void Register(StateDict& state) override {
    state.Add("model", z_);
    x_m_.Register(state, "proxskip.x");
    h_m_.Register(state, "proxskip.h");
    state.AddScalar("proxskip.alone", &alone_);
    exchange_->Register(state, "exchange");
  }

 private:
  // Drawn alike on all ranks: no byte is sent.
  bool Meets(const SampleKey& key) const {
    const double p = config_.proxskip().p();
    if (config_.proxskip().meetings() == ProxSkipConfig::PERIODIC) return alone_ + 1 >= std::llround(1 / p);
    const RngKey coin{.seed = seed_, .step = key.step, .worker = kSharedWorker, .kind = RngKind::kCoin};
    return coin.UniformDouble(0) < p;
  }

  absl::StatusOr<Aggregate> ExchangeMoves(uint32_t step) {
    exchange_->Begin(step, 0);
    RETURN_IF_ERROR(half_m_.ForEach([this](WorkerId worker, BlockId id, const Tensor& half) {
      const Tensor move = difference_->Slice(0, half.elements()).Reshape(half.shape());
      Difference(half.dtype(), half.raw(), z_.block(id).raw(), move.raw(), half.elements());
      return exchange_->Put(worker, id, move);
    }));
    return exchange_->Finish();
  }

  OptimConfig config_;
  int64_t total_steps_;
  uint64_t seed_;
  std::unique_ptr<Exchange> exchange_;
  FlatVector z_;  // where the workers met last. Train state, as x_m, h_m
  WorkerPoints points_;
  WorkerVectors x_m_, h_m_;
  WorkerVectors f_m_, half_m_;  // of one step
  OwnedTensor difference_;      // [largest block]
  int64_t alone_ = 0;           // steps since the last meeting. Train state
};

}  // namespace

absl::StatusOr<std::unique_ptr<Scheme>> MakeProxSkip(const OptimConfig& config, const SchemeContext& context) {
  if (config.prox().kind_case() != ProxConfig::KIND_NOT_SET && config.prox().kind_case() != ProxConfig::kZero) {
    return InvalidArgument("optim.prox: proxskip skips the prox of consensus and takes no other; choose local_extragradient");
  }
  return std::make_unique<ProxSkip>(config, context);
}

}  // namespace conclave
