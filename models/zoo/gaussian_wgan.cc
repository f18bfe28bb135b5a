// gaussian_wgan: a generator x = s * n + m (n normal, coordinate by coordinate) against data N(mu_w, diag(sigma_w^2)) of worker w, with a
// quadratic critic D(x) = u'(x * x) + v'x:
//   min_{m, s} max_{u, v} of (1/M) sum_w E_data D - E_generator D - penalty/2 (|u|^2 + |v|^2)
// In closed form, or with `samples` draws of n an evaluation. At the equilibrium m is the mean of the mu_w, s^2 + m^2 that of
// sigma_w^2 + mu_w^2, and the critic is 0.

#include <cmath>

#include "models/model.h"
#include "models/problem_algebra.h"

namespace conclave {
namespace {

struct GaussianData {
  ProblemConstant first, second;  // moments: mu, sigma^2 + mu^2
};

class GaussianWgan : public Model {
 public:
  GaussianWgan(const GaussianWganConfig& config, const ModelContext& context) : config_(config) {
    terms_ = {{"loss", TermScale::kOnce, 1.0, true}};
    const int64_t d = config.dim();
    mean_ = parameters_.Add({.name = "generator.mean", .shape = {d}, .player = Player::kMin});
    scale_ = parameters_.Add({.name = "generator.scale", .shape = {d}, .player = Player::kMin, .init = {Init::Kind::kConstant, 1.0}});
    square_ = parameters_.Add({.name = "critic.square", .shape = {d}, .player = Player::kMax});
    slope_ = parameters_.Add({.name = "critic.slope", .shape = {d}, .player = Player::kMax});
    const RngKey shared = ProblemKey(context.seed, kSharedWorker, 0);
    for (int w = 0; w < context.workers; ++w) {
      const std::vector<double> shift = ZeroSumShift(ProblemKey(context.seed, 0, 1), w, context.workers, d, config.heterogeneity());
      std::vector<double> first(d), second(d);
      for (int64_t i = 0; i < d; ++i) {
        const double sigma = 0.5 + shared.UniformDouble(2 * i);
        first[i] = 2 * shared.UniformDouble(2 * i + 1) - 1 + shift[i];
        second[i] = sigma * sigma + first[i] * first[i];
      }
      workers_.push_back({ProblemConstant(std::move(first)), ProblemConstant(std::move(second))});
    }
  }

  SampleShape sample_shape() const override { return {}; }

  absl::Status Record(Recorder& r) const override {
    if (!r.present()) return absl::OkStatus();
    Tape& tape = r.tape();
    const GaussianData& data = workers_[r.batch().worker.value];
    const int64_t d = config_.dim();
    const Var u = r.Parameter(square_), v = r.Parameter(slope_);
    r.AddTerm(0, Dot(tape, u, data.second.Record(r, {d})));
    r.AddTerm(0, Dot(tape, v, data.first.Record(r, {d})));
    if (config_.samples() == 0) {
      const Var m = r.Parameter(mean_), s = r.Parameter(scale_);
      r.AddTerm(0, Dot(tape, u, Add(tape, Square(tape, s), Square(tape, m))), -1);
      r.AddTerm(0, Dot(tape, v, m), -1);
    } else {
      AddSamples(r, u, v);
    }
    r.AddTerm(0, Dot(tape, u, u), -0.5 * config_.penalty());
    r.AddTerm(0, Dot(tape, v, v), -0.5 * config_.penalty());
    return absl::OkStatus();
  }

  std::vector<double> Solution(BlockId block) const override {
    const int64_t d = config_.dim();
    if (block == square_ || block == slope_) return std::vector<double>(d, 0.0);
    std::vector<double> first(d, 0.0), second(d, 0.0);
    const double share = 1.0 / static_cast<double>(workers_.size());
    for (const GaussianData& data : workers_) {
      for (int64_t i = 0; i < d; ++i) {
        first[i] += share * data.first[i];
        second[i] += share * data.second[i];
      }
    }
    if (block == mean_) return first;
    for (int64_t i = 0; i < d; ++i) second[i] = std::sqrt(second[i] - first[i] * first[i]);
    return second;
  }

 private:
  void AddSamples(Recorder& r, Var u, Var v) const {
    Tape& tape = r.tape();
    const int64_t n = config_.samples(), d = config_.dim();
    const Tensor noise = tape.arena().New({n, d}, r.dtype());
    const RngKey key = r.Noise(0);
    DispatchFloat(r.dtype(), [&](auto t) {
      using T = decltype(t);
      key.FillNormal(0, noise.span<T>());
    });
    const Var x = Add(tape, Mul(tape, tape.Constant(noise), r.Parameter(scale_)), r.Parameter(mean_));  // [n, d]
    const double weight = -1.0 / static_cast<double>(n);
    r.AddTerm(0, SumAll(tape, Mul(tape, Square(tape, x), u)), weight);
    r.AddTerm(0, SumAll(tape, Mul(tape, x, v)), weight);
  }

  GaussianWganConfig config_;
  BlockId mean_, scale_, square_, slope_;
  std::vector<GaussianData> workers_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> MakeGaussianWgan(const GaussianWganConfig& config, const ModelContext& context) {
  return std::make_unique<GaussianWgan>(config, context);
}

}  // namespace conclave
