// eight_gaussians: a generator G of noise against a critic D, both small perceptrons, on eight narrow Gaussians around a circle, the common
// picture of a GAN that forgets modes:
//   min_G max_D of (1/M) sum_w E_data D(x) - E_noise D(G(n))
// The critic must have a bounded slope: either each of its matrices is divided by its largest singular value (Miyato et al.,
// arXiv 1802.05957), found by power steps from a fixed vector, so that an evaluation is a function of the point alone; or a box prox on
// critic.* clips its weights (Arjovsky et al., arXiv 1701.07875). Data, noise and the metric are drawn by the key of the evaluation: the
// same at every point of a step. With heterogeneity h a worker's data are of its own modes with probability h: those m and M apart.
//   distance: 2 E|x - y| - E|x - x'| - E|y - y'| of as many samples of all data and of the generator, without bias; 0 where the
//     distributions are equal
//   lost: the share of generated points that lie more than a quarter of the modes' spacing away from any mode
#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "models/model.h"
#include "models/modules/layers.h"
#include "models/problem_algebra.h"

namespace conclave {
namespace {

constexpr int kModes = 8;
constexpr int kMostLayers = 9;  // hidden ones and the last
constexpr int kGameTerm = 0, kDistanceTerm = 1, kLostTerm = 2;

// What the numbers of an evaluation are drawn for.
enum GanSite : uint32_t { kNoiseSite = 0, kDataSites = 1, kReferenceSites = 4 };

std::array<double, 2> ModeAt(int mode, double radius) {
  const double angle = 2 * std::numbers::pi * mode / kModes;
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

// Points [n, 2].
template <typename T>
double MeanDistance(const T* a, const T* b, int64_t n, bool same) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      const double dx = a[2 * i] - b[2 * j], dy = a[2 * i + 1] - b[2 * j + 1];
      sum += std::sqrt(dx * dx + dy * dy);  // 0 where i == j and a == b
    }
  }
  return sum / static_cast<double>(same ? n * (n - 1) : n * n);
}

// v <- x / |x|.
void Normalize(double* x, int64_t n) {
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += x[i] * x[i];
  const double scale = 1 / std::sqrt(std::max(squares, 1e-300));
  for (int64_t i = 0; i < n; ++i) x[i] *= scale;
}

class EightGaussians : public Model {
 public:
  EightGaussians(const EightGaussiansConfig& config, const ModelContext& context)
      : config_(config), workers_(context.workers), starts_(static_cast<size_t>(config.layers()) + 1) {
    terms_ = {{"loss", TermScale::kOnce, 1.0, true}, {"distance", TermScale::kOnce, 1.0, false}, {"lost", TermScale::kOnce, 1.0, false}};
    AddPerceptron("generator", Player::kMin, config.latent_dim(), 2, &generator_);
    AddPerceptron("critic", Player::kMax, 2, 1, &critic_);
    for (size_t i = 0; i < critic_.size(); ++i) {
      const int64_t in = parameters_[critic_[i].weight].shape[1];
      const RngKey key = ProblemKey(context.seed, kSharedWorker, static_cast<uint32_t>(i));
      std::vector<double> start(static_cast<size_t>(in));
      for (int64_t j = 0; j < in; ++j) start[static_cast<size_t>(j)] = key.Normal(static_cast<uint64_t>(j));
      starts_[i] = ProblemConstant(std::move(start));
    }
  }

  SampleShape sample_shape() const override { return {}; }

  absl::Status Record(Recorder& r) const override {
    if (!r.present()) return absl::OkStatus();
    Tape& tape = r.tape();
    const int64_t n = config_.samples();
    const Tensor data = tape.arena().New({n, 2}, r.dtype()), noise = tape.arena().New({n, config_.latent_dim()}, r.dtype());
    const Tensor reference = tape.arena().New({n, 2}, r.dtype());
    DrawData(r, kDataSites, config_.heterogeneity(), data);
    DrawData(r, kReferenceSites, 0, reference);
    DrawNoise(r, noise);
    std::array<Var, kMostLayers> generator;
    for (size_t i = 0; i < generator_.size(); ++i) generator[i] = r.Parameter(generator_[i].weight);
    const Var fake = Perceptron(r, generator_, generator, tape.Constant(noise));
    std::array<Var, kMostLayers> weights;
    for (size_t i = 0; i < critic_.size(); ++i) weights[i] = CriticWeight(r, i);
    const double share = 1.0 / static_cast<double>(n);
    r.AddTerm(kGameTerm, SumAll(tape, Perceptron(r, critic_, weights, tape.Constant(data))), share);
    r.AddTerm(kGameTerm, SumAll(tape, Perceptron(r, critic_, weights, fake)), -share);
    Measure(r, reference, tape.value(fake));
    return absl::OkStatus();
  }

 private:
  void AddPerceptron(const std::string& name, Player player, int64_t in, int64_t out, std::vector<LinearLayer>* layers) {
    for (int64_t i = 0; i <= config_.layers(); ++i) {
      const int64_t from = i == 0 ? in : config_.hidden(), to = i == config_.layers() ? out : config_.hidden();
      const std::string layer = absl::StrFormat("%s.%d", name, i);
      LinearLayer& added = layers->emplace_back();
      const double std = std::sqrt(1.0 / static_cast<double>(from));
      added.weight =
          parameters_.Add({.name = layer + ".weight", .shape = {to, from}, .player = player, .init = {Init::Kind::kNormal, std}});
      added.bias = parameters_.Add({.name = layer + ".bias", .shape = {to}, .player = player});
    }
  }

  Var Perceptron(Recorder& r, const std::vector<LinearLayer>& layers, const std::array<Var, kMostLayers>& weights, Var x) const {
    for (size_t i = 0; i < layers.size(); ++i) {
      x = Linear(r.tape(), x, weights[i], r.Parameter(layers[i].bias));
      if (i + 1 < layers.size()) x = Gelu(r.tape(), x);
    }
    return x;
  }

  // W, or W / sigma(W) with sigma = u'W v. At singular vectors sigma does not change with u and v, so they are constants.
  Var CriticWeight(Recorder& r, size_t layer) const {
    Tape& tape = r.tape();
    const Var weight = r.Parameter(critic_[layer].weight);
    if (!config_.spectral_norm()) return weight;
    const Tensor w = tape.value(weight);
    const int64_t out = w.dim(0), in = w.dim(1);
    const Tensor u = tape.arena().New({1, out}, r.dtype()), v = tape.arena().New({1, in}, r.dtype());
    const Tensor left = tape.arena().New({out}, DType::kF64), right = tape.arena().New({in}, DType::kF64);
    DispatchFloat(r.dtype(), [&](auto t) {
      using T = decltype(t);
      std::ranges::copy(starts_[layer].values(), right.data<double>());
      Normalize(right.data<double>(), in);
      for (int64_t step = 0; step < config_.power_steps(); ++step) PowerStep(w.data<T>(), left.span<double>(), right.span<double>());
      std::ranges::transform(left.span<double>(), u.data<T>(), [](double x) { return static_cast<T>(x); });
      std::ranges::transform(right.span<double>(), v.data<T>(), [](double x) { return static_cast<T>(x); });
    });
    return Div(tape, weight, Dot(tape, tape.Constant(u), Linear(tape, tape.Constant(v), weight)));
  }

  // u <- W v / |W v|, v <- W'u / |W'u|.
  template <typename T>
  static void PowerStep(const T* w, std::span<double> u, std::span<double> v) {
    const auto out = static_cast<int64_t>(u.size()), in = static_cast<int64_t>(v.size());
    for (int64_t i = 0; i < out; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < in; ++j) sum += static_cast<double>(w[i * in + j]) * v[j];
      u[i] = sum;
    }
    Normalize(u.data(), out);
    std::ranges::fill(v, 0.0);
    for (int64_t i = 0; i < out; ++i) {
      for (int64_t j = 0; j < in; ++j) v[j] += static_cast<double>(w[i * in + j]) * u[i];
    }
    Normalize(v.data(), in);
  }

  // A worker's own modes are those whose number is its own modulo the number of workers, or of modes where those are fewer.
  void DrawData(const Recorder& r, uint32_t site, double heterogeneity, const Tensor& data) const {
    const RngKey pick = r.Noise(site), spread = r.Noise(site + 1), share = r.Noise(site + 2);
    const int groups = std::min(workers_, kModes), own = r.batch().worker.value % groups;
    DispatchFloat(data.dtype(), [&](auto t) {
      using T = decltype(t);
      for (int64_t i = 0; i < data.dim(0); ++i) {
        const auto row = static_cast<uint64_t>(i);
        int mode = static_cast<int>(pick.Below(kModes, row));
        if (share.Uniform(row) < heterogeneity) mode = own + groups * (mode % ((kModes - own - 1) / groups + 1));
        const std::array<double, 2> at = ModeAt(mode, config_.radius());
        for (int64_t j = 0; j < 2; ++j) {
          data.data<T>()[2 * i + j] = static_cast<T>(at[j] + config_.std() * spread.Normal(2 * row + static_cast<uint64_t>(j)));
        }
      }
    });
  }

  void DrawNoise(const Recorder& r, const Tensor& noise) const {
    const RngKey key = r.Noise(kNoiseSite);
    DispatchFloat(noise.dtype(), [&](auto t) {
      using T = decltype(t);
      key.FillNormal(0, noise.span<T>());
    });
  }

  void Measure(Recorder& r, const Tensor& data, const Tensor& fake) const {
    const int64_t n = data.dim(0);
    DispatchFloat(data.dtype(), [&](auto t) {
      using T = decltype(t);
      const T *x = data.data<T>(), *y = fake.data<T>();
      r.AddMetric(kDistanceTerm, 2 * MeanDistance(x, y, n, false) - MeanDistance(x, x, n, true) - MeanDistance(y, y, n, true));
      int64_t lost = 0;
      for (int64_t i = 0; i < n; ++i) lost += !NearAMode(y[2 * i], y[2 * i + 1]);
      r.AddMetric(kLostTerm, static_cast<double>(lost) / static_cast<double>(n));
    });
  }

  bool NearAMode(double x, double y) const {
    const double reach = 0.5 * config_.radius() * std::sin(std::numbers::pi / kModes);  // a quarter of the distance to the next mode
    for (int mode = 0; mode < kModes; ++mode) {
      const std::array<double, 2> at = ModeAt(mode, config_.radius());
      if (std::hypot(x - at[0], y - at[1]) < reach) return true;
    }
    return false;
  }

  EightGaussiansConfig config_;
  int workers_;
  std::vector<LinearLayer> generator_, critic_;
  std::vector<ProblemConstant> starts_;  // by layer of the critic: where power steps begin
};

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> MakeEightGaussians(const EightGaussiansConfig& config, const ModelContext& context) {
  return std::make_unique<EightGaussians>(config, context);
}

}  // namespace conclave
