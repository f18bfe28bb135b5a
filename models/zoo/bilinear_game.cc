// bilinear_game: min_x max_y (1/M) sum_m f_m, f_m = x'A_m y + a_m'x + b_m'y + lambda/2 (|x|^2 - |y|^2), with A_m = (1 - h) A_0 + h E_m
// symmetric of a given spectrum. Its operator is F(z) = (A y + a + lambda x, -A'x - b + lambda y): strongly monotone with mu = lambda, L =
// sqrt(lambda^2 + |A|^2).

#include <cmath>

#include "models/model.h"
#include "models/problem_algebra.h"

namespace conclave {
namespace {

Matrix RandomGameMatrix(const BilinearGameConfig& config, const RngKey& key) {
  return RandomSymmetric(
      config.dim(), {.low = config.sigma_min(), .high = config.sigma_max(), .uniform = config.spectrum() == BilinearGameConfig::UNIFORM},
      key);
}

struct BilinearShare {
  ProblemConstant matrix;  // A_m
  ProblemConstant a, b;
};

class BilinearGame : public Model {
 public:
  BilinearGame(const BilinearGameConfig& config, const ModelContext& context) : config_(config) {
    terms_ = {{"loss", TermScale::kOnce, 1.0, true}};
    const Init start{Init::Kind::kNormal, config.init_std()};
    x_ = parameters_.Add({.name = "x", .shape = {config.dim()}, .player = Player::kMin, .init = start});
    y_ = parameters_.Add({.name = "y", .shape = {config.dim()}, .player = Player::kMax, .init = start});
    const Matrix shared = RandomGameMatrix(config, ProblemKey(context.seed, kSharedWorker, 0));
    for (int m = 0; m < context.workers; ++m) workers_.push_back(MakeWorker(shared, context.seed, m));
  }

  SampleShape sample_shape() const override { return {}; }

  absl::Status Record(Recorder& r) const override {
    if (!r.present()) return absl::OkStatus();
    Tape& tape = r.tape();
    const BilinearShare& w = workers_[r.batch().worker.value];
    const int64_t d = config_.dim();
    const Var x = Reshape(tape, r.Parameter(x_), {1, d}), y = Reshape(tape, r.Parameter(y_), {1, d});
    const Var ay = Linear(tape, y, w.matrix.Record(r, {d, d}));  // [1, d] = A y
    r.AddTerm(0, Dot(tape, x, ay));
    r.AddTerm(0, Dot(tape, x, w.a.Record(r, {1, d})));
    r.AddTerm(0, Dot(tape, y, w.b.Record(r, {1, d})));
    if (config_.lambda() > 0) {
      r.AddTerm(0, Dot(tape, x, x), 0.5 * config_.lambda());
      r.AddTerm(0, Dot(tape, y, y), -0.5 * config_.lambda());
    }
    return absl::OkStatus();
  }

  std::optional<ProblemConstants> constants() const override {
    const double bound = std::hypot(config_.lambda(), config_.sigma_max());  // of every F_m
    return ProblemConstants{.lipschitz = bound, .mean_square_lipschitz = bound, .strong_monotonicity = config_.lambda()};
  }

  std::vector<double> Solution(BlockId block) const override {
    const int64_t d = config_.dim();
    Matrix m(4 * d * d, 0.0);
    std::vector<double> rhs(2 * d, 0.0);
    const double share = 1.0 / static_cast<double>(workers_.size());
    for (const BilinearShare& w : workers_) {
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
  BilinearShare MakeWorker(const Matrix& shared, uint64_t seed, int worker) const {
    const double h = config_.heterogeneity();
    Matrix matrix = shared;
    if (h > 0) {
      const Matrix own = RandomGameMatrix(config_, ProblemKey(seed, static_cast<uint32_t>(worker), 1));
      for (size_t i = 0; i < own.size(); ++i) matrix[i] = (1 - h) * shared[i] + h * own[i];
    }
    const RngKey offsets = ProblemKey(seed, static_cast<uint32_t>(worker), 2);
    std::vector<double> a, b;
    for (int64_t i = 0; i < config_.dim(); ++i) {
      a.push_back(config_.offset_scale() * offsets.UniformDouble(2 * i));
      b.push_back(config_.offset_scale() * offsets.UniformDouble(2 * i + 1));
    }
    return {ProblemConstant(std::move(matrix)), ProblemConstant(std::move(a)), ProblemConstant(std::move(b))};
  }

  BilinearGameConfig config_;
  BlockId x_, y_;
  std::vector<BilinearShare> workers_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> MakeBilinearGame(const BilinearGameConfig& config, const ModelContext& context) {
  return std::make_unique<BilinearGame>(config, context);
}

}  // namespace conclave
