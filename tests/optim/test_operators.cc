#include "tests/optim/test_operators.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "base/rng.h"

namespace conclave {
namespace {

constexpr int kExpertWidth = 3;
constexpr BlockId kX{0}, kY{1};

double Normal(const RngKey& key, int i) { return key.Normal(static_cast<uint64_t>(i)); }

double GameSigma(const GameOptions& o, int i) { return o.n == 1 ? o.sigma_max : o.sigma_min + (o.sigma_max - o.sigma_min) * i / (o.n - 1); }

double GameShift(const GameOptions& o, int worker, uint32_t site, int i) {
  const auto draw = [&](int m) {
    return o.heterogeneity * Normal({.seed = o.seed, .site = site, .worker = static_cast<uint32_t>(m), .kind = RngKind::kProblem}, i);
  };
  if (worker < o.workers - 1) return draw(worker);
  double sum = 0;
  for (int m = 0; m < o.workers - 1; ++m) sum += draw(m);
  return -sum;
}

// A_m, row by row.
std::vector<double> GameMatrix(const GameOptions& o, int worker) {
  std::vector<double> matrix;
  for (int i = 0; i < o.n; ++i) {
    for (int j = 0; j < o.n; ++j) matrix.push_back((i == j ? GameSigma(o, i) : 0) + GameShift(o, worker, 1, i * o.n + j));
  }
  return matrix;
}

}  // namespace

ParameterSet GameParameters(const GameOptions& options) {
  ParameterSet parameters;
  const Init init{.kind = Init::Kind::kNormal, .value = 1};
  parameters.Add({.name = "x.weight", .shape = {options.n, 1}, .init = init});
  parameters.Add({.name = "y.bias", .shape = {options.n}, .player = Player::kMax, .init = init});
  for (int e = 0; e < options.experts; ++e) {
    parameters.Add({.name = absl::StrFormat("layer.experts.%d.w", e),
                    .shape = {kExpertWidth},
                    .kind = BlockKind::kExpert,
                    .expert = e,
                    .moe_layer = 0,
                    .init = init});
  }
  return parameters;
}

double WorkerLipschitz(const GameOptions& options, int worker) {
  const int n = options.n;
  const std::vector<double> a = GameMatrix(options, worker);
  std::vector<double> v(n, 1), av(n);
  double norm = 0;
  for (int iteration = 0; iteration < 200; ++iteration) {
    std::ranges::fill(av, 0);
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < n; ++j) av[i] += a[i * n + j] * v[j];
    }
    std::ranges::fill(v, 0);
    double squares = 0;
    for (int j = 0; j < n; ++j) {
      for (int i = 0; i < n; ++i) v[j] += a[i * n + j] * av[i];
      squares += v[j] * v[j];
    }
    norm = std::sqrt(std::sqrt(squares));  // of A^T A v, v of length 1, towards |A|^2
    for (double& x : v) x /= std::sqrt(squares);
  }
  return std::hypot(options.lambda, norm);
}

AffineGame::AffineGame(const GameOptions& options, const WorkerMap& workers, const Layout* layout)
    : options_(options), workers_(workers), layout_(layout), out_({std::max(options.n, kExpertWidth)}, options.dtype) {
  const int n = options.n;
  for (int m = 0; m < options.workers; ++m) {
    const std::vector<double> matrix = GameMatrix(options, m);
    matrices_.insert(matrices_.end(), matrix.begin(), matrix.end());
  }
  FlatVector solution(layout, DType::kF64);
  Solution(solution);
  const double* x = solution.block(kX).data<double>();
  const double* y = solution.block(kY).data<double>();
  for (int m = 0; m < options.workers; ++m) {
    for (int i = 0; i < n; ++i) {
      double field = options.lambda * x[i];
      for (int j = 0; j < n; ++j) field += Matrix(m, i, j) * y[j];
      offsets_.push_back(Shift(m, 2, i) - field);
    }
    for (int i = 0; i < n; ++i) {
      double field = options.lambda * y[i];
      for (int j = 0; j < n; ++j) field -= Matrix(m, j, i) * x[j];
      offsets_.push_back(Shift(m, 2, n + i) - field);
    }
  }
}

double AffineGame::Sigma(int i) const { return GameSigma(options_, i); }
double AffineGame::Shift(int worker, uint32_t site, int i) const { return GameShift(options_, worker, site, i); }

double AffineGame::Matrix(int worker, int row, int column) const {
  return matrices_[(static_cast<size_t>(worker) * options_.n + row) * options_.n + column];
}
double AffineGame::Offset(int worker, int i) const { return offsets_[static_cast<size_t>(worker) * 2 * options_.n + i]; }
double AffineGame::Target(int expert, int i) const {
  return Normal({.seed = options_.seed, .site = static_cast<uint32_t>(100 + expert), .kind = RngKind::kProblem}, i);
}

void AffineGame::Solution(const FlatVector& z) const {
  DispatchFloat(z.dtype(), [&](auto t) {
    using T = decltype(t);
    for (const BlockId id : layout_->local_blocks()) {
      T* out = z.block(id).template data<T>();
      const BlockSpec& spec = layout_->parameters()[id];
      for (int i = 0; i < spec.shape.elements(); ++i) {
        out[i] = static_cast<T>(Normal({.seed = options_.seed, .site = 7u + id.value, .kind = RngKind::kProblem}, i));
        // The root of (1 + lambda) (e - target) + coupling x*.
        if (spec.expert >= 0) {
          const double x = Normal({.seed = options_.seed, .site = 7u, .kind = RngKind::kProblem}, i);
          out[i] = static_cast<T>(Target(spec.expert, i) - options_.coupling * x / (1 + options_.lambda));
        }
      }
    }
  });
}

void AffineGame::EvaluateBlock(WorkerId worker, BlockId block, const FlatVector& point, const SampleKey& key,
                               std::vector<double>* out) const {
  const int n = options_.n, m = worker.value;
  const BlockSpec& spec = layout_->parameters()[block];
  out->assign(spec.shape.elements(), 0);
  DispatchFloat(point.dtype(), [&](auto t) {
    using T = decltype(t);
    const T* x = point.block(kX).template data<T>();
    const T* y = point.block(kY).template data<T>();
    const T* own = point.block(block).template data<T>();
    for (int i = 0; i < spec.shape.elements(); ++i) {
      double& f = (*out)[i];
      if (spec.expert >= 0) {
        f = (1 + options_.lambda) * (own[i] - Target(spec.expert, i) + Shift(m, 3 + spec.expert, i)) + options_.coupling * x[i];
        continue;
      }
      f = options_.lambda * own[i] + Offset(m, block == kX ? i : n + i);
      for (int j = 0; j < n; ++j) f += block == kX ? Matrix(m, i, j) * y[j] : -Matrix(m, j, i) * x[j];
    }
  });
  const RngKey noise{.seed = options_.seed,
                     .site = static_cast<uint32_t>(block.value),
                     .step = key.step,
                     .worker = static_cast<uint32_t>(m),
                     .kind = RngKind::kNoise,
                     .draw = key.draw};
  const bool marked = static_cast<int>(key.step) == options_.poison_step;
  for (size_t i = 0; i < out->size(); ++i) {
    if (options_.noise > 0 && !key.full) (*out)[i] += options_.noise * Normal(noise, static_cast<int>(i));
    if (marked) (*out)[i] *= options_.spike;
  }
  if (marked && options_.spike == 1 && m == 1 && block == kY) (*out)[0] = std::numeric_limits<double>::quiet_NaN();
}

absl::StatusOr<Evaluation> AffineGame::Evaluate(const FlatVector& point, const SampleKey& key, bool /*each_worker*/,
                                                const OnBlock& on_block) {
  const int64_t evaluated =
      selected_.empty() ? options_.workers : std::ranges::count_if(selected_, [](char selected) { return selected != 0; });
  evaluations_ += evaluated;
  const int rank = layout_->rank();
  const int column = rank / workers_.expert_axis;
  std::vector<double> values;
  for (const BlockId block : layout_->local_blocks()) {
    const BlockSpec& spec = layout_->parameters()[block];
    const bool expert = spec.kind == BlockKind::kExpert;
    const int first = expert ? workers_.ColumnFirst(column) : workers_.First(rank);
    const int count = expert ? workers_.ColumnCount(column) : workers_.Count(rank);
    for (int m = first; m < first + count; ++m) {
      if (!selected_.empty() && !selected_[m]) continue;
      EvaluateBlock({m}, block, point, key, &values);
      const Tensor out = out_->Slice(0, spec.shape.elements()).Reshape(spec.shape);
      DispatchFloat(options_.dtype, [&](auto t) {
        using T = decltype(t);
        for (size_t i = 0; i < values.size(); ++i) out.data<T>()[i] = static_cast<T>(values[i]);
      });
      RETURN_IF_ERROR(on_block({m}, block, out, false));
    }
  }
  Evaluation evaluation;
  evaluation.samples = options_.workers;
  const double value = DispatchFloat(options_.dtype, [&](auto t) {
    using T = decltype(t);
    double sum = 0;
    for (int i = 0; i < options_.n; ++i) {
      const double x = point.block(kX).template data<T>()[i], y = point.block(kY).template data<T>()[i];
      sum += options_.lambda / 2 * (x * x - y * y) + Sigma(i) * x * y;
    }
    return sum;
  });
  evaluation.by_worker.assign(options_.workers, value / options_.workers);  // of equal weight
  evaluation.objective = evaluated == options_.workers ? value : value * static_cast<double>(evaluated) / options_.workers;
  evaluation.terms.push_back({.name = "saddle", .value = evaluation.objective});
  return evaluation;
}

}  // namespace conclave
