// matrix_game: min_x max_y (1/M) sum_m x'A_m y over mixed strategies: both blocks belong on the simplex, which the config's prox says.
// Workers differ by A_m - A, which sums to zero over them. The duality gap max_j (A'x)_j - min_i (A y)_i is exact.

#include <algorithm>
#include <cmath>
#include <span>

#include "models/model.h"
#include "models/problem_algebra.h"

namespace conclave {
namespace {

struct PayoffTable {
  int64_t rows = 0, columns = 0;
  Matrix a;  // what the row player pays
};

PayoffTable RockPaperScissors() { return {3, 3, {0, 1, -1, -1, 0, 1, 1, -1, 0}}; }

// The second player wins the first one's house's wealth unless the guard's post is near: w_i (1 - exp(-theta |i - j|)). Rows: guards.
PayoffTable PolicemanAndBurglar(int64_t n, const RngKey& key) {
  constexpr double kTheta = 0.8;
  PayoffTable table{n, n, Matrix(n * n)};
  for (int64_t j = 0; j < n; ++j) {
    const double wealth = std::abs(key.Normal(j));
    for (int64_t i = 0; i < n; ++i) table.a[i * n + j] = wealth * (1 - std::exp(-kTheta * static_cast<double>(std::abs(i - j))));
  }
  return table;
}

// Kuhn's poker of three cards, ante 1, bet 1. A row is one plan for each card: 0 bet; 1 check, then fold; 2 check, then call. A column is
// one for each card: 2 * (call a bet?) + (bet after a check?). The value for the first player is -1/18, so it pays 1/18.
double KuhnPayoff(int64_t row, int64_t column) {
  constexpr int64_t kPowersOf3[] = {1, 3, 9}, kPowersOf4[] = {1, 4, 16};
  double won = 0;
  for (int first = 0; first < 3; ++first) {
    for (int second = 0; second < 3; ++second) {
      if (first == second) continue;
      const int64_t plan = row / kPowersOf3[first] % 3, answer = column / kPowersOf4[second] % 4;
      const double higher = first > second ? 1 : -1;
      if (plan == 0) {
        won += answer / 2 == 1 ? 2 * higher : 1;
      } else if (answer % 2 == 0) {
        won += higher;
      } else {
        won += plan == 2 ? 2 * higher : -1;
      }
    }
  }
  return won / 6;
}

PayoffTable KuhnPoker() {
  PayoffTable table{27, 64, Matrix(27 * 64)};
  for (int64_t i = 0; i < 27; ++i) {
    for (int64_t j = 0; j < 64; ++j) table.a[i * 64 + j] = -KuhnPayoff(i, j);
  }
  return table;
}

PayoffTable RandomPayoffs(int64_t n, const RngKey& key) {
  PayoffTable table{n, n, Matrix(n * n)};
  for (int64_t i = 0; i < n * n; ++i) table.a[i] = 2 * key.UniformDouble(i) - 1;
  return table;
}

PayoffTable MakePayoffs(const MatrixGameConfig& config, uint64_t seed) {
  const RngKey key = ProblemKey(seed, kSharedWorker, 0);
  switch (config.payoffs()) {
    case MatrixGameConfig::KUHN_POKER:
      return KuhnPoker();
    case MatrixGameConfig::POLICEMAN_AND_BURGLAR:
      return PolicemanAndBurglar(config.size(), key);
    case MatrixGameConfig::RANDOM:
      return RandomPayoffs(config.size(), key);
    default:
      return RockPaperScissors();
  }
}

// Negative parts cut off, the rest scaled to sum 1.
std::vector<double> StrategyOf(const Tensor& block) {
  std::vector<double> s(block.elements());
  DispatchFloat(block.dtype(), [&](auto t) { std::ranges::copy(block.span<decltype(t)>(), s.begin()); });
  double sum = 0;
  for (double& v : s) sum += v = std::max(v, 0.0);
  for (double& v : s) v = sum > 0 ? v / sum : 1.0 / static_cast<double>(s.size());
  return s;
}

class MatrixGame : public Model {
 public:
  MatrixGame(const MatrixGameConfig& config, const ModelContext& context) : config_(config), table_(MakePayoffs(config, context.seed)) {
    terms_ = {{"loss", TermScale::kOnce, 1.0, true}};
    const Init start{Init::Kind::kNormal, config.init_std()};
    x_ = parameters_.Add({.name = "x", .shape = {table_.rows}, .player = Player::kMin, .init = start});
    y_ = parameters_.Add({.name = "y", .shape = {table_.columns}, .player = Player::kMax, .init = start});
    for (int m = 0; m < context.workers; ++m) {
      Matrix own = ZeroSumShift(ProblemKey(context.seed, 0, 1), m, context.workers, table_.rows * table_.columns, config.heterogeneity());
      for (size_t i = 0; i < own.size(); ++i) own[i] += table_.a[i];
      workers_.emplace_back(std::move(own));
    }
  }

  SampleShape sample_shape() const override { return {}; }

  absl::Status Record(Recorder& r) const override {
    if (!r.present()) return absl::OkStatus();
    Tape& tape = r.tape();
    const int64_t n = table_.rows, k = table_.columns;
    const Var x = Reshape(tape, r.Parameter(x_), {1, n}), y = Reshape(tape, r.Parameter(y_), {1, k});
    r.AddTerm(0, Dot(tape, x, Linear(tape, y, workers_[r.batch().worker.value].Record(r, {n, k}))));
    return absl::OkStatus();
  }

  // Frobenius norms, which are at least the spectral ones.
  std::optional<ProblemConstants> constants() const override {
    const auto norm = [](std::span<const double> a) {
      double squares = 0;
      for (const double v : a) squares += v * v;
      return std::sqrt(squares);
    };
    double squares = 0;
    for (const ProblemConstant& w : workers_) squares += norm(w.values()) * norm(w.values());
    return ProblemConstants{.lipschitz = norm(table_.a),
                            .mean_square_lipschitz = std::sqrt(squares / static_cast<double>(workers_.size())),
                            .strong_monotonicity = 0};
  }

  // Of rock, paper, scissors; the other games may have several.
  std::vector<double> Solution(BlockId) const override {
    return config_.payoffs() == MatrixGameConfig::ROCK_PAPER_SCISSORS ? std::vector<double>(3, 1.0 / 3) : std::vector<double>{};
  }

  std::optional<double> Gap(const FlatVector& point) const override {
    const std::vector<double> x = StrategyOf(point.block(x_)), y = StrategyOf(point.block(y_));
    std::vector<double> ax(table_.columns, 0.0), ay(table_.rows, 0.0);
    for (int64_t i = 0; i < table_.rows; ++i) {
      for (int64_t j = 0; j < table_.columns; ++j) {
        ax[j] += table_.a[i * table_.columns + j] * x[i];
        ay[i] += table_.a[i * table_.columns + j] * y[j];
      }
    }
    return *std::ranges::max_element(ax) - *std::ranges::min_element(ay);
  }

 private:
  MatrixGameConfig config_;
  PayoffTable table_;
  BlockId x_, y_;
  std::vector<ProblemConstant> workers_;  // A_m
};

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> MakeMatrixGame(const MatrixGameConfig& config, const ModelContext& context) {
  return std::make_unique<MatrixGame>(config, context);
}

}  // namespace conclave
