// robust_least_squares: min_x max_y of the mean over rows of (x'(a_i + y) - b_i)^2 / 2 + lambda/2 |x|^2 - beta/2 |y|^2: regression against
// one common shift of the features. Concave in y while |x|^2 < beta. With a prox on x or y the constrained form. Rows are synthetic, b =
// a'u_m + noise, or of a file in LIBSVM's format; an evaluation takes all of a worker's rows or a sample.

#include <cmath>

#include "models/model.h"
#include "models/problem_rows.h"

namespace conclave {
namespace {

class RobustLeastSquares : public Model {
 public:
  RobustLeastSquares(const RobustLeastSquaresConfig& config, std::vector<ProblemRows> workers)
      : config_(config), workers_(std::move(workers)) {
    terms_ = {{"loss", TermScale::kOnce, 1.0, true}};
    const Init start{Init::Kind::kNormal, config.init_std()};
    x_ = parameters_.Add({.name = "x", .shape = {config.dim()}, .player = Player::kMin, .init = start});
    y_ = parameters_.Add({.name = "y", .shape = {config.dim()}, .player = Player::kMax});
  }

  SampleShape sample_shape() const override { return {}; }
  double sample_share() const override { return SampleShare(workers_, config_.batch()); }

  absl::Status Record(Recorder& r) const override {
    if (!r.present()) return absl::OkStatus();
    Tape& tape = r.tape();
    const int64_t d = config_.dim();
    const ProblemRows::Sample rows = workers_[r.batch().worker.value].Record(r, config_.batch());
    const Var x = r.Parameter(x_), y = r.Parameter(y_);
    const Var product = Linear(tape, rows.features, Reshape(tape, x, {1, d}));  // [rows, 1]
    const Var residual = Sub(tape, Add(tape, product, Dot(tape, x, y)), rows.targets);
    r.AddTerm(0, SumAll(tape, Square(tape, residual)), 0.5 / static_cast<double>(rows.rows));
    r.AddTerm(0, Dot(tape, x, x), 0.5 * config_.lambda());
    r.AddTerm(0, Dot(tape, y, y), -0.5 * config_.beta());
    return absl::OkStatus();
  }

 private:
  RobustLeastSquaresConfig config_;
  std::vector<ProblemRows> workers_;
  BlockId x_, y_;
};

std::vector<ProblemRows> SyntheticRows(const RobustLeastSquaresConfig& config, const ModelContext& context) {
  const int64_t d = config.dim();
  const double h = config.heterogeneity(), scale = 1 / std::sqrt(static_cast<double>(d));
  std::vector<ProblemRows> workers;
  for (int m = 0; m < context.workers; ++m) {
    const RngKey shared = ProblemKey(context.seed, kSharedWorker, 0), own = ProblemKey(context.seed, static_cast<uint32_t>(m), 1),
                 rows = ProblemKey(context.seed, static_cast<uint32_t>(m), 2),
                 noise = ProblemKey(context.seed, static_cast<uint32_t>(m), 3);
    std::vector<double> features(config.rows() * d), targets(config.rows(), 0.0);
    for (int64_t i = 0; i < config.rows(); ++i) {
      for (int64_t j = 0; j < d; ++j) {
        features[i * d + j] = config.feature_std() * rows.Normal(i * d + j);
        targets[i] += features[i * d + j] * scale * ((1 - h) * shared.Normal(j) + h * own.Normal(j));
      }
      targets[i] += config.offset() + config.noise() * noise.Normal(i);
    }
    workers.emplace_back(std::move(features), std::move(targets));
  }
  return workers;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> MakeRobustLeastSquares(const RobustLeastSquaresConfig& config, const ModelContext& context) {
  if (config.libsvm().empty()) return std::make_unique<RobustLeastSquares>(config, SyntheticRows(config, context));
  ASSIGN_OR_RETURN(std::vector<ProblemRows> rows, ReadLibSvm(config.libsvm(), config.dim(), context.workers));
  return std::make_unique<RobustLeastSquares>(config, std::move(rows));
}

}  // namespace conclave
