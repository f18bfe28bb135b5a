// quadratic_game: min_x max_y (1/M) sum_m f_m, f_m = x'P_m x / 2 + x'A_m y - y'R_m y / 2 + a_m'x + b_m'y, every matrix (1 - h) shared + h
// own. Its operator is affine, F(z) = B z + (a, -b) with B = (P, A; -A', R): mu is the least eigenvalue of P and R, L the spectral norm of
// B.

#include <algorithm>

#include "models/model.h"
#include "models/problem_algebra.h"

namespace conclave {
namespace {

struct QuadraticShare {
  ProblemConstant p, a_matrix, r;  // P_m, A_m, R_m: symmetric
  ProblemConstant a, b;
};

class QuadraticGame : public Model {
 public:
  QuadraticGame(const QuadraticGameConfig& config, const ModelContext& context) : config_(config) {
    terms_ = {{"loss", TermScale::kOnce, 1.0, true}};
    const Init start{Init::Kind::kNormal, config.init_std()};
    x_ = parameters_.Add({.name = "x", .shape = {config.dim()}, .player = Player::kMin, .init = start});
    y_ = parameters_.Add({.name = "y", .shape = {config.dim()}, .player = Player::kMax, .init = start});
    const QuadraticMatrices shared = Draw(ProblemKey(context.seed, kSharedWorker, 0));
    for (int m = 0; m < context.workers; ++m) workers_.push_back(MakeShare(shared, context.seed, m));
  }

  SampleShape sample_shape() const override { return {}; }

  absl::Status Record(Recorder& r) const override {
    if (!r.present()) return absl::OkStatus();
    Tape& tape = r.tape();
    const QuadraticShare& w = workers_[r.batch().worker.value];
    const int64_t d = config_.dim();
    const Var x = Reshape(tape, r.Parameter(x_), {1, d}), y = Reshape(tape, r.Parameter(y_), {1, d});
    r.AddTerm(0, Dot(tape, x, Linear(tape, x, w.p.Record(r, {d, d}))), 0.5);
    r.AddTerm(0, Dot(tape, x, Linear(tape, y, w.a_matrix.Record(r, {d, d}))));
    r.AddTerm(0, Dot(tape, y, Linear(tape, y, w.r.Record(r, {d, d}))), -0.5);
    r.AddTerm(0, Dot(tape, x, w.a.Record(r, {1, d})));
    r.AddTerm(0, Dot(tape, y, w.b.Record(r, {1, d})));
    return absl::OkStatus();
  }

  std::optional<ProblemConstants> constants() const override {
    const int64_t d = config_.dim();
    const Affine mean = Mean(workers_);
    ProblemConstants constants{.lipschitz = SpectralNorm(mean.matrix, 2 * d)};
    Matrix p(d * d), r(d * d);
    for (int64_t i = 0; i < d; ++i) {
      for (int64_t j = 0; j < d; ++j) {
        p[i * d + j] = mean.matrix[i * 2 * d + j];
        r[i * d + j] = mean.matrix[(d + i) * 2 * d + d + j];
      }
    }
    constants.strong_monotonicity = std::min(SymmetricEigenvalues(std::move(p), d).front(), SymmetricEigenvalues(std::move(r), d).front());
    double squares = 0;
    for (const QuadraticShare& w : workers_) {
      const double l = SpectralNorm(Mean({&w, 1}).matrix, 2 * d);
      squares += l * l;
    }
    constants.mean_square_lipschitz = std::sqrt(squares / static_cast<double>(workers_.size()));
    return constants;
  }

  std::vector<double> Solution(BlockId block) const override {
    const int64_t d = config_.dim();
    Affine mean = Mean(workers_);
    for (double& v : mean.offset) v = -v;
    const std::vector<double> z = SolveDense(std::move(mean.matrix), std::move(mean.offset));
    if (z.empty()) return {};
    const int64_t begin = block == y_ ? d : 0;
    return std::vector<double>(z.begin() + begin, z.begin() + begin + d);
  }

 private:
  struct QuadraticMatrices {
    Matrix p, a, r;
  };
  struct Affine {
    Matrix matrix;               // B: [2 d, 2 d]
    std::vector<double> offset;  // (a, -b)
  };

  QuadraticMatrices Draw(RngKey key) const {
    const SpectrumRange curvature{.low = config_.curvature_min(), .high = config_.curvature_max()};
    const SpectrumRange coupling{.low = -config_.coupling(), .high = config_.coupling()};
    QuadraticMatrices drawn{.p = RandomSymmetric(config_.dim(), curvature, key)};
    key.site += 8;
    drawn.a = RandomSymmetric(config_.dim(), coupling, key);
    key.site += 8;
    drawn.r = RandomSymmetric(config_.dim(), curvature, key);
    return drawn;
  }

  QuadraticShare MakeShare(const QuadraticMatrices& shared, uint64_t seed, int worker) const {
    const double h = config_.heterogeneity();
    QuadraticMatrices own = Draw(ProblemKey(seed, static_cast<uint32_t>(worker), 1));
    const auto mix = [h](Matrix& mine, const Matrix& common) {
      for (size_t i = 0; i < mine.size(); ++i) mine[i] = (1 - h) * common[i] + h * mine[i];
    };
    mix(own.p, shared.p);
    mix(own.a, shared.a);
    mix(own.r, shared.r);
    const RngKey offsets = ProblemKey(seed, static_cast<uint32_t>(worker), 2);
    std::vector<double> a, b;
    for (int64_t i = 0; i < config_.dim(); ++i) {
      a.push_back(config_.offset_scale() * offsets.UniformDouble(2 * i));
      b.push_back(config_.offset_scale() * offsets.UniformDouble(2 * i + 1));
    }
    return {ProblemConstant(std::move(own.p)), ProblemConstant(std::move(own.a)), ProblemConstant(std::move(own.r)),
            ProblemConstant(std::move(a)), ProblemConstant(std::move(b))};
  }

  Affine Mean(std::span<const QuadraticShare> workers) const {
    const int64_t d = config_.dim(), n = 2 * d;
    Affine mean{.matrix = Matrix(n * n, 0.0), .offset = std::vector<double>(n, 0.0)};
    const double share = 1.0 / static_cast<double>(workers.size());
    for (const QuadraticShare& w : workers) {
      for (int64_t i = 0; i < d; ++i) {
        for (int64_t j = 0; j < d; ++j) {
          mean.matrix[i * n + j] += share * w.p[i * d + j];
          mean.matrix[i * n + d + j] += share * w.a_matrix[i * d + j];
          mean.matrix[(d + j) * n + i] -= share * w.a_matrix[i * d + j];
          mean.matrix[(d + i) * n + d + j] += share * w.r[i * d + j];
        }
        mean.offset[i] += share * w.a[i];
        mean.offset[d + i] -= share * w.b[i];
      }
    }
    return mean;
  }

  QuadraticGameConfig config_;
  BlockId x_, y_;
  std::vector<QuadraticShare> workers_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> MakeQuadraticGame(const QuadraticGameConfig& config, const ModelContext& context) {
  return std::make_unique<QuadraticGame>(config, context);
}

}  // namespace conclave
