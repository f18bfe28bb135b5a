// bilinear_game: min_x max_y (1/M) sum_m f_m, f_m = x'A_m y + a_m'x + b_m'y + lambda/2 (|x|^2 - |y|^2), with A_m = (1 - h) A_0 + h E_m
// symmetric of a given spectrum. Its operator is F(z) = (A y + a + lambda x, -A'x - b + lambda y): strongly monotone with mu = lambda, L =
// sqrt(lambda^2 + |A|^2).

#include <algorithm>
#include <cmath>

#include "models/model.h"

namespace conclave {
namespace {

using Matrix = std::vector<double>;  // [d, d] row-major

// Q diag(sigma) Q' with Q from the modified Gram-Schmidt orthogonalisation of a normal matrix.
Matrix RandomSymmetric(const BilinearGameConfig& config, const RngKey& key) {
  const int64_t d = config.dim();
  Matrix q(d * d);
  for (int64_t i = 0; i < d * d; ++i) q[i] = key.Normal(i);
  for (int64_t i = 0; i < d; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      double dot = 0;
      for (int64_t c = 0; c < d; ++c) dot += q[i * d + c] * q[j * d + c];
      for (int64_t c = 0; c < d; ++c) q[i * d + c] = j < i ? q[i * d + c] - dot * q[j * d + c] : q[i * d + c] / std::sqrt(dot);
    }
  }
  Matrix a(d * d, 0.0);
  for (int64_t m = 0; m < d; ++m) {
    const double even = d > 1 ? static_cast<double>(m) / static_cast<double>(d - 1) : 1.0;
    const double t = config.spectrum() == BilinearGameConfig::UNIFORM ? key.UniformDouble(d * d + m) : even;
    const double sigma = config.sigma_min() + t * (config.sigma_max() - config.sigma_min());
    for (int64_t i = 0; i < d; ++i) {
      for (int64_t j = 0; j < d; ++j) a[i * d + j] += sigma * q[m * d + i] * q[m * d + j];
    }
  }
  return a;
}

// Solves m x = rhs (n unknowns) by Gaussian elimination with partial pivoting. Returns an empty vector for a matrix that is singular to
// rounding.
std::vector<double> SolveDense(Matrix m, std::vector<double> rhs) {
  const int64_t n = static_cast<int64_t>(rhs.size());
  double largest = 0;
  for (const double v : m) largest = std::max(largest, std::abs(v));
  for (int64_t k = 0; k < n; ++k) {
    int64_t pivot = k;
    for (int64_t i = k + 1; i < n; ++i) pivot = std::abs(m[i * n + k]) > std::abs(m[pivot * n + k]) ? i : pivot;
    if (!(std::abs(m[pivot * n + k]) > 1e-13 * largest)) return {};
    for (int64_t j = 0; j < n; ++j) std::swap(m[k * n + j], m[pivot * n + j]);
    std::swap(rhs[k], rhs[pivot]);
    for (int64_t i = k + 1; i < n; ++i) {
      const double factor = m[i * n + k] / m[k * n + k];
      for (int64_t j = k; j < n; ++j) m[i * n + j] -= factor * m[k * n + j];
      rhs[i] -= factor * rhs[k];
    }
  }
  for (int64_t k = n - 1; k >= 0; --k) {
    for (int64_t j = k + 1; j < n; ++j) rhs[k] -= m[k * n + j] * rhs[j];
    rhs[k] /= m[k * n + k];
  }
  return rhs;
}

struct WorkerProblem {
  Matrix matrix;  // A_m
  std::vector<double> a, b;
  std::vector<float> matrix_f32, a_f32, b_f32;
};

class BilinearGame : public Model {
 public:
  BilinearGame(const BilinearGameConfig& config, const ModelContext& context) : config_(config) {
    terms_ = {{"loss", TermScale::kOnce, 1.0, true}};
    const Init start{Init::Kind::kNormal, config.init_std()};
    x_ = parameters_.Add({.name = "x", .shape = {config.dim()}, .player = Player::kMin, .init = start});
    y_ = parameters_.Add({.name = "y", .shape = {config.dim()}, .player = Player::kMax, .init = start});
    const Matrix shared = RandomSymmetric(config, Key(context.seed, kSharedWorker, 0));
    for (int m = 0; m < context.workers; ++m) workers_.push_back(MakeWorker(shared, context.seed, m));
  }

  SampleShape sample_shape() const override { return {}; }

  absl::Status Record(Recorder& r) const override {
    if (!r.present()) return absl::OkStatus();
    Tape& tape = r.tape();
    const WorkerProblem& w = workers_[r.batch().worker.value];
    const int64_t d = config_.dim();
    const Var x = Reshape(tape, r.Parameter(x_), {1, d}), y = Reshape(tape, r.Parameter(y_), {1, d});
    const auto constant = [&](const std::vector<double>& f64, const std::vector<float>& f32, const Shape& shape) {
      const void* data = r.dtype() == DType::kF64 ? static_cast<const void*>(f64.data()) : static_cast<const void*>(f32.data());
      return tape.Constant(Tensor(const_cast<void*>(data), shape, r.dtype()));
    };
    const Var ay = Linear(tape, y, constant(w.matrix, w.matrix_f32, {d, d}));  // [1, d] = A y
    r.AddTerm(0, Dot(tape, x, ay));
    r.AddTerm(0, Dot(tape, x, constant(w.a, w.a_f32, {1, d})));
    r.AddTerm(0, Dot(tape, y, constant(w.b, w.b_f32, {1, d})));
    if (config_.lambda() > 0) {
      r.AddTerm(0, Dot(tape, x, x), 0.5 * config_.lambda());
      r.AddTerm(0, Dot(tape, y, y), -0.5 * config_.lambda());
    }
    return absl::OkStatus();
  }

  std::optional<ProblemConstants> constants() const override {
    return ProblemConstants{.lipschitz = std::hypot(config_.lambda(), config_.sigma_max()), .strong_monotonicity = config_.lambda()};
  }

  std::vector<double> Solution(BlockId block) const override {
    const int64_t d = config_.dim();
    Matrix m(4 * d * d, 0.0);
    std::vector<double> rhs(2 * d, 0.0);
    const double share = 1.0 / static_cast<double>(workers_.size());
    for (const WorkerProblem& w : workers_) {
      for (int64_t i = 0; i < d; ++i) {
        for (int64_t j = 0; j < d; ++j) {
          m[i * 2 * d + d + j] += share * w.matrix[i * d + j];
          m[(d + j) * 2 * d + i] -= share * w.matrix[i * d + j];
        }
        rhs[i] -= share * w.a[i];
        rhs[d + i] += share * w.b[i];
      }
    }
    for (int64_t i = 0; i < 2 * d; ++i) m[i * 2 * d + i] += config_.lambda();
    const std::vector<double> z = SolveDense(std::move(m), std::move(rhs));
    if (z.empty()) return {};
    const int64_t begin = block == y_ ? d : 0;
    return std::vector<double>(z.begin() + begin, z.begin() + begin + d);
  }

 private:
  static RngKey Key(uint64_t seed, uint32_t worker, uint32_t site) {
    return {.seed = seed, .site = site, .worker = worker, .kind = RngKind::kProblem};
  }

  WorkerProblem MakeWorker(const Matrix& shared, uint64_t seed, int worker) const {
    const double h = config_.heterogeneity();
    WorkerProblem w{.matrix = shared};
    if (h > 0) {
      const Matrix own = RandomSymmetric(config_, Key(seed, static_cast<uint32_t>(worker), 1));
      for (size_t i = 0; i < own.size(); ++i) w.matrix[i] = (1 - h) * shared[i] + h * own[i];
    }
    const RngKey offsets = Key(seed, static_cast<uint32_t>(worker), 2);
    for (int64_t i = 0; i < config_.dim(); ++i) {
      w.a.push_back(config_.offset_scale() * offsets.UniformDouble(2 * i));
      w.b.push_back(config_.offset_scale() * offsets.UniformDouble(2 * i + 1));
    }
    w.matrix_f32.assign(w.matrix.begin(), w.matrix.end());
    w.a_f32.assign(w.a.begin(), w.a.end());
    w.b_f32.assign(w.b.begin(), w.b.end());
    return w;
  }

  BilinearGameConfig config_;
  BlockId x_, y_;
  std::vector<WorkerProblem> workers_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> MakeBilinearGame(const BilinearGameConfig& config, const ModelContext& context) {
  if (config.sigma_min() > config.sigma_max()) {
    return InvalidArgument("model.bilinear_game: sigma_min %g exceeds sigma_max %g", config.sigma_min(), config.sigma_max());
  }
  return std::make_unique<BilinearGame>(config, context);
}

}  // namespace conclave
