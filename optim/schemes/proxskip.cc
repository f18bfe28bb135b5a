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
#include "optim/field_exchange.h"
#include "optim/local_copies.h"
#include "optim/schedule.h"

namespace conclave {
namespace {

class ProxSkip final : public Scheme {
 public:
  ProxSkip(const OptimConfig& config, const SchemeContext& context)
      : config_(config),
        total_steps_(context.total_steps),
        seed_(context.exchange.seed),
        copies_(context, MakeExactExchange(context.exchange)),
        h_m_(context.exchange.layout, context.exchange.workers, context.exchange.dtype),
        half_m_(context.exchange.layout, context.exchange.workers, context.exchange.dtype) {}

  FlatVector& point() override { return copies_.z(); }
  absl::Status Start(Operator&) override {
    copies_.StartFromZ();
    return absl::OkStatus();
  }

  absl::StatusOr<StepReport> Step(Operator& field, const Cursor& cursor, Guard& guard) override {
    const double p = config_.proxskip().p();
    const double gamma = config_.proxskip().gamma() * ScheduleFactor(config_.schedule(), cursor.step, total_steps_);
    StepReport report{.step = cursor.step, .learning_rate = gamma};

    ASSIGN_OR_RETURN(report.evaluation, copies_.Evaluate(field, copies_.x_m(), cursor.Key()));
    ASSIGN_OR_RETURN(report.gradient_norm, copies_.Norm());
    report.norms.total = report.gradient_norm;
    half_m_.Combine(1, copies_.f_m(), -1, h_m_);
    half_m_.Combine(1, copies_.x_m(), -gamma, half_m_);

    const bool meet = std::isfinite(report.gradient_norm) && Meets(cursor.Key());
    Aggregate moved = nullptr;  // the mean of z - half_m
    if (meet) {
      ASSIGN_OR_RETURN(moved, copies_.MeanMove(half_m_, cursor.Key().step));
    }
    // Nothing of the train state was written so far.
    if (const absl::Status verdict = guard.Accept(report.evaluation.objective, report.gradient_norm); !verdict.ok()) {
      return copies_.Refuse(std::move(report), verdict, guard, meet);
    }
    if (!meet) {
      copies_.GoOn(half_m_);
      return report;
    }
    ASSIGN_OR_RETURN(const double norm, copies_.NormOf(moved));
    if (!std::isfinite(norm)) return copies_.RefuseMeeting(std::move(report), guard);
    copies_.exchange().Commit();
    copies_.z().Axpy(-1, *moved);
    copies_.StartFromZ();
    if (config_.proxskip().control() && gamma > 0) {  // a step of length 0, at the end of a schedule, teaches nothing
      half_m_.Combine(p / gamma, copies_.x_m(), -p / gamma, half_m_);
      h_m_.Combine(1, h_m_, 1, half_m_);
    }
    return report;
  }

  void Register(StateDict& state) override {
    copies_.Register(state, "proxskip.x", "proxskip.alone");
    h_m_.Register(state, "proxskip.h");
  }

 private:
  // Drawn alike on all ranks: no byte is sent.
  bool Meets(const SampleKey& key) const {
    const double p = config_.proxskip().p();
    if (config_.proxskip().meetings() == ProxSkipConfig::PERIODIC) return copies_.alone() + 1 >= std::llround(1 / p);
    const RngKey coin{.seed = seed_, .step = key.step, .worker = kSharedWorker, .kind = RngKind::kCoin};
    return coin.UniformDouble(0) < p;
  }

  OptimConfig config_;
  int64_t total_steps_;
  uint64_t seed_;
  LocalCopies copies_;
  WorkerVectors h_m_;     // train state
  WorkerVectors half_m_;  // of one step
};

}  // namespace

absl::StatusOr<std::unique_ptr<Scheme>> MakeProxSkip(const OptimConfig& config, const SchemeContext& context) {
  if (config.prox().kind_case() != ProxConfig::KIND_NOT_SET && config.prox().kind_case() != ProxConfig::kZero) {
    return InvalidArgument("optim.prox: proxskip skips the prox of consensus and takes no other; choose local_extragradient");
  }
  return std::make_unique<ProxSkip>(config, context);
}

}  // namespace conclave
