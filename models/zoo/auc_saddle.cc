// auc_saddle: the area under the ROC curve of a linear score w'x as a saddle point (Ying, Wen, Lyu 2016, with p the share of positive
// rows):
//   min_{w, a, b} max_alpha of the mean over rows of
//     positive: (1 - p) ((w'x - a)^2 - 2 (1 + alpha) w'x);  negative: p ((w'x - b)^2 + 2 (1 + alpha) w'x)
//   - p (1 - p) alpha^2 + lambda/2 |w|^2
// Quadratic, so the solution is one linear solve. Rows: normal, the positive ones shifted; a sample of them or all an evaluation.

#include <cmath>
#include <span>

#include "models/model.h"
#include "models/problem_rows.h"

namespace conclave {
namespace {

class AucSaddle : public Model {
 public:
  AucSaddle(const AucSaddleConfig& config, const ModelContext& context) : config_(config) {
    terms_ = {{"loss", TermScale::kOnce, 1.0, true}};
    const Init start{Init::Kind::kNormal, config.init_std()};
    w_ = parameters_.Add({.name = "w", .shape = {config.dim()}, .player = Player::kMin, .init = start});
    centres_ = parameters_.Add({.name = "centres", .shape = {2}, .player = Player::kMin});  // a, b
    alpha_ = parameters_.Add({.name = "alpha", .shape = {1}, .player = Player::kMax});
    for (int m = 0; m < context.workers; ++m) workers_.push_back(MakeRows(context.seed, m));
    int64_t positive = 0;
    for (const ProblemRows& rows : workers_) {
      for (int64_t i = 0; i < rows.rows(); ++i) positive += rows.target(i) > 0 ? 1 : 0;
    }
    share_ = static_cast<double>(positive) / static_cast<double>(config.rows() * context.workers);
  }

  SampleShape sample_shape() const override { return {}; }
  double sample_share() const override { return SampleShare(workers_, config_.batch()); }

  // Of the columns (1, 0) of positive rows and (0, 1) of negative ones, times their weights 1 - p and p.
  absl::Status Record(Recorder& r) const override {
    if (!r.present()) return absl::OkStatus();
    Tape& tape = r.tape();
    const ProblemRows::Sample rows = workers_[r.batch().worker.value].Record(r, config_.batch());
    const double each = 1 / static_cast<double>(rows.rows);
    const Var w = r.Parameter(w_), alpha = r.Parameter(alpha_);
    const Var score = Linear(tape, rows.features, Reshape(tape, w, {1, config_.dim()}));  // [rows, 1]
    // Targets are 1 and -1: (1 + t) / 2 and (1 - t) / 2 pick one class each.
    const Var positive = Affine(tape, rows.targets, 0.5 * (1 - share_), 0.5 * (1 - share_));
    const Var negative = Affine(tape, rows.targets, -0.5 * share_, 0.5 * share_);
    const Var centres = Reshape(tape, r.Parameter(centres_), {2, 1});
    const Var a = Reshape(tape, SliceRows(tape, centres, 0, 1), {1}), b = Reshape(tape, SliceRows(tape, centres, 1, 1), {1});
    r.AddTerm(0, Dot(tape, positive, Square(tape, Sub(tape, score, a))), each);
    r.AddTerm(0, Dot(tape, negative, Square(tape, Sub(tape, score, b))), each);
    const Var margin = Dot(tape, Sub(tape, negative, positive), score);  // scalar
    const Var factor = Affine(tape, alpha, 2, 2);
    r.AddTerm(0, SumAll(tape, Mul(tape, factor, margin)), each);
    r.AddTerm(0, Dot(tape, alpha, alpha), -share_ * (1 - share_));
    r.AddTerm(0, Dot(tape, w, w), 0.5 * config_.lambda());
    return absl::OkStatus();
  }

  std::vector<double> Solution(BlockId block) const override {
    const int64_t d = config_.dim();
    const std::vector<double> z = SolveDense(Field(workers_), Offset());
    if (z.empty()) return {};
    const int64_t begin = block == w_ ? 0 : block == centres_ ? d : d + 2;
    const int64_t count = block == w_ ? d : block == centres_ ? 2 : 1;
    return std::vector<double>(z.begin() + begin, z.begin() + begin + count);
  }

  std::optional<ProblemConstants> constants() const override {
    const int64_t n = config_.dim() + 3;
    const Matrix field = Field(workers_);
    Matrix symmetric(n * n);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) symmetric[i * n + j] = 0.5 * (field[i * n + j] + field[j * n + i]);
    }
    double squares = 0;
    for (const ProblemRows& own : workers_) {
      const double l = SpectralNorm(Field({&own, 1}), n);
      squares += l * l;
    }
    return ProblemConstants{.lipschitz = SpectralNorm(field, n),
                            .mean_square_lipschitz = std::sqrt(squares / static_cast<double>(workers_.size())),
                            .strong_monotonicity = std::max(0.0, SymmetricEigenvalues(std::move(symmetric), n).front())};
  }

 private:
  ProblemRows MakeRows(uint64_t seed, int worker) const {
    const int64_t d = config_.dim();
    const RngKey direction = ProblemKey(seed, kSharedWorker, 0), rows = ProblemKey(seed, static_cast<uint32_t>(worker), 1),
                 labels = ProblemKey(seed, static_cast<uint32_t>(worker), 2);
    std::vector<double> features(config_.rows() * d), targets(config_.rows());
    for (int64_t i = 0; i < config_.rows(); ++i) {
      targets[i] = labels.UniformDouble(i) < config_.positive_share() ? 1 : -1;
      for (int64_t j = 0; j < d; ++j) {
        features[i * d + j] =
            (rows.Normal(i * d + j) + 0.5 * targets[i] * config_.separation() * direction.Normal(j)) / std::sqrt(static_cast<double>(d));
      }
    }
    return {std::move(features), std::move(targets)};
  }

  // Calls f(weight, x, positive) for every row of these workers, N together; the weights are (1 - p) / N and p / N.
  template <typename F>
  void ForEachRow(std::span<const ProblemRows> workers, F f) const {
    const double each = 1 / static_cast<double>(config_.rows() * static_cast<int64_t>(workers.size()));
    for (const ProblemRows& rows : workers) {
      for (int64_t i = 0; i < rows.rows(); ++i) {
        const bool positive = rows.target(i) > 0;
        f(
            each * (positive ? 1 - share_ : share_), [&](int64_t j) { return rows.feature(i, j); }, positive);
      }
    }
  }

  // F(z) = B z - c, z = (w, a, b, alpha): B of the mean of these workers' F_m.
  Matrix Field(std::span<const ProblemRows> workers) const {
    const int64_t d = config_.dim(), n = d + 3;
    Matrix field(n * n, 0.0);
    ForEachRow(workers, [&](double weight, const auto& x, bool positive) {
      const int64_t centre = positive ? d : d + 1;
      const double side = positive ? -1 : 1;
      for (int64_t i = 0; i < d; ++i) {
        for (int64_t j = 0; j < d; ++j) field[i * n + j] += 2 * weight * x(i) * x(j);
        field[i * n + centre] -= 2 * weight * x(i);
        field[centre * n + i] -= 2 * weight * x(i);
        field[i * n + d + 2] += 2 * side * weight * x(i);
        field[(d + 2) * n + i] -= 2 * side * weight * x(i);
      }
      field[centre * n + centre] += 2 * weight;
    });
    for (int64_t i = 0; i < d; ++i) field[i * n + i] += config_.lambda();
    field[(d + 2) * n + d + 2] = 2 * share_ * (1 - share_);
    return field;
  }
  // c.
  std::vector<double> Offset() const {
    const int64_t d = config_.dim();
    std::vector<double> offset(d + 3, 0.0);
    ForEachRow(workers_, [&](double weight, const auto& x, bool positive) {
      for (int64_t i = 0; i < d; ++i) offset[i] += (positive ? 2 : -2) * weight * x(i);
    });
    return offset;
  }

  AucSaddleConfig config_;
  BlockId w_, centres_, alpha_;
  std::vector<ProblemRows> workers_;
  double share_ = 0.5;  // p
};

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> MakeAucSaddle(const AucSaddleConfig& config, const ModelContext& context) {
  return std::make_unique<AucSaddle>(config, context);
}

}  // namespace conclave
