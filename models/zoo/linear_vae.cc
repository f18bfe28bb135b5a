// linear_vae: encoder q(z|x) = N(W x + c, diag(s^2)), decoder p(x|z) = N(U z + b, v I), prior N(0, p I); maximises E_q log p(x|z) - beta
// KL. With beta = 1 the optimum is probabilistic PCA (Tipping & Bishop 1999; Lucas et al. 2019 for the collapse of modes).

#include <cmath>

#include "models/distributions/normal.h"
#include "models/model.h"
#include "models/modules/layers.h"

namespace conclave {
namespace {

constexpr int kLoss = 0, kReconstruction = 1, kKl = 2;

class LinearVae : public Model {
 public:
  explicit LinearVae(const LinearVaeConfig& config) : config_(config) {
    terms_ = {{"loss", TermScale::kPerSample, 1.0, true},
              {"reconstruction", TermScale::kPerSample, 1.0, false},
              {"kl", TermScale::kPerSample, 1.0, false}};
    const int64_t d = config.data_dim(), q = config.latent_dim();
    encoder_ = LinearLayer::Register(parameters_, "encoder", {.in = d, .out = q, .bias = true, .std = config.init_std()});
    log_std_ = parameters_.Add({.name = "encoder.log_std", .shape = {q}});
    decoder_ = LinearLayer::Register(parameters_, "decoder", {.in = q, .out = d, .bias = true, .std = config.init_std()});
    if (config.learn_decoder_variance()) {
      log_variance_ = parameters_.Add(
          {.name = "decoder.log_variance", .shape = {1}, .init = {Init::Kind::kConstant, std::log(config.decoder_variance())}});
    }
  }

  SampleShape sample_shape() const override { return {SampleShape::Kind::kFeatures, config_.data_dim()}; }

  absl::Status Record(Recorder& r) const override {
    Tape& tape = r.tape();
    const Var x = tape.Constant(r.batch().features);
    const Var mean = encoder_.Record(r, x);
    const Var log_std = r.Parameter(log_std_);
    const int64_t samples = config_.samples();
    for (int64_t k = 0; k < samples; ++k) {
      const NormalDraw draw = SampleNormal(tape, mean, log_std, r.Noise(static_cast<uint32_t>(1 + k)), r.batch().first_row);
      AddReconstruction(r, x, draw.sample, Var{}, 1.0 / static_cast<double>(samples));
      if (!config_.analytic_kl())
        AddKl(r, KlToCentredNormalSampled(tape, draw, log_std, config_.prior_variance()), 1.0 / static_cast<double>(samples));
    }
    if (samples == 0) AddReconstruction(r, x, mean, SpreadOfReconstruction(r, log_std), 1.0);
    if (config_.analytic_kl()) AddKl(r, KlToCentredNormal(tape, mean, log_std, config_.prior_variance()), 1.0);
    return absl::OkStatus();
  }

 private:
  void AddReconstruction(Recorder& r, Var x, Var z, Var extra, double weight) const {
    Tape& tape = r.tape();
    const Var difference = Sub(tape, decoder_.Record(r, z), x);
    const Var log_density = SumAll(tape, LogDensityIsotropic(tape, difference, LogVariance(r), extra));
    r.AddTerm(kLoss, log_density, -weight);
    r.AddMetric(kReconstruction, weight * *tape.value(log_density).data<double>());
  }

  void AddKl(Recorder& r, Var by_dim, double weight) const {
    const Var kl = SumAll(r.tape(), by_dim);
    r.AddTerm(kLoss, kl, weight * config_.beta());
    r.AddMetric(kKl, weight * *r.tape().value(kl).data<double>());
  }

  // E |U (z - mean)|^2 = sum_j s_j^2 |U_j|^2, the same for every row: [1].
  Var SpreadOfReconstruction(Recorder& r, Var log_std) const {
    Tape& tape = r.tape();
    const Var norms = SumFirst(tape, Square(tape, r.Parameter(decoder_.weight)));
    const Var spread = Mul(tape, norms, Exp(tape, Affine(tape, log_std, 2, 0)));
    return SumLast(tape, Reshape(tape, spread, {1, config_.latent_dim()}));
  }

  Var LogVariance(Recorder& r) const {
    if (log_variance_.value >= 0) return r.Parameter(log_variance_);
    const Tensor fixed = r.tape().arena().New({1}, r.dtype());
    fixed.Fill(std::log(config_.decoder_variance()));
    return r.tape().Constant(fixed);
  }

  LinearVaeConfig config_;
  LinearLayer encoder_, decoder_;
  BlockId log_std_, log_variance_{-1};
};

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> MakeLinearVae(const LinearVaeConfig& config, const ModelContext&) {
  return std::make_unique<LinearVae>(config);
}

}  // namespace conclave
