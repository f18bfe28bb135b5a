// dirac_gan (Mescheder, Geiger, Nowozin 2018): a generator at theta, data at 0, a linear critic psi: min_theta max_psi of (1/M) sum_m
// sum_i l(psi_i (theta_i - c_mi)) - penalty/2 |psi|^2, sum_m c_m = 0, l(t) = t or -log(1 + exp(-t)). The equilibrium is theta = psi = 0.

#include "models/model.h"
#include "models/problem_algebra.h"

namespace conclave {
namespace {

class DiracGan : public Model {
 public:
  DiracGan(const DiracGanConfig& config, const ModelContext& context) : config_(config) {
    terms_ = {{"loss", TermScale::kOnce, 1.0, true}};
    const Init start{Init::Kind::kNormal, config.init_std()};
    theta_ = parameters_.Add({.name = "theta", .shape = {config.dim()}, .player = Player::kMin, .init = start});
    psi_ = parameters_.Add({.name = "psi", .shape = {config.dim()}, .player = Player::kMax, .init = start});
    for (int m = 0; m < context.workers; ++m) {
      workers_.emplace_back(ZeroSumShift(ProblemKey(context.seed, 0, 0), m, context.workers, config.dim(), config.heterogeneity()));
    }
  }

  SampleShape sample_shape() const override { return {}; }

  absl::Status Record(Recorder& r) const override {
    if (!r.present()) return absl::OkStatus();
    Tape& tape = r.tape();
    const Var theta = r.Parameter(theta_), psi = r.Parameter(psi_);
    const Var c = workers_[r.batch().worker.value].Record(r, {config_.dim()});
    const Var score = Mul(tape, psi, Sub(tape, theta, c));
    if (config_.loss() == DiracGanConfig::LOGISTIC) {
      r.AddTerm(0, SumAll(tape, Softplus(tape, Affine(tape, score, -1, 0))), -1);
    } else {
      r.AddTerm(0, SumAll(tape, score));
    }
    if (config_.penalty() > 0) r.AddTerm(0, Dot(tape, psi, psi), -0.5 * config_.penalty());
    return absl::OkStatus();
  }

  std::vector<double> Solution(BlockId) const override { return std::vector<double>(config_.dim(), 0.0); }

 private:
  DiracGanConfig config_;
  BlockId theta_, psi_;
  std::vector<ProblemConstant> workers_;  // c_m
};

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> MakeDiracGan(const DiracGanConfig& config, const ModelContext& context) {
  return std::make_unique<DiracGan>(config, context);
}

}  // namespace conclave
