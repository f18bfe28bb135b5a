// Games of the zoo against their solutions, gaps and constants.
#include <cmath>
#include <functional>

#include <gtest/gtest.h>

#include "models/problem_rows.h"
#include "tests/models/one_leaf.h"

namespace conclave {
namespace {

using Values = std::vector<double>;
using Point = std::function<Values(BlockId)>;

// F(z): the mean over workers of the gradients, signed by player, all blocks one after the other.
Values MeanFieldAt(const Model& model, int workers, const Point& z) {
  Values field;
  OnOneRank(model, DType::kF64, [&](OneLeaf& leaf) -> absl::Status {
    BatchBuffer buffer({}, 1, DType::kF64);
    for (int m = 0; m < workers; ++m) {
      Batch batch = buffer.batch();
      batch.worker = {m};
      size_t next = 0;
      for (int b = 0; b < model.parameters().size(); ++b) std::ranges::copy(z({b}), leaf.point().block({b}).data<double>());
      RETURN_IF_ERROR(leaf.Differentiate(batch).status());
      for (int b = 0; b < model.parameters().size(); ++b) {
        const double sign = model.parameters()[{b}].player == Player::kMax ? -1 : 1;
        for (const double g : ValuesOf(leaf.gradient().block({b}))) {
          if (m == 0) field.push_back(0);
          field[next++] += sign * g / workers;
        }
      }
    }
    return absl::OkStatus();
  });
  return field;
}

double NormOf(const Values& v) {
  double sum = 0;
  for (const double x : v) sum += x * x;
  return std::sqrt(sum);
}

Point RandomPoint(const Model& model, uint32_t draw) {
  return [&model, draw](BlockId id) {
    Values v(model.parameters()[id].shape.elements());
    for (size_t i = 0; i < v.size(); ++i) v[i] = RngKey{.seed = 6, .site = static_cast<uint32_t>(id.value), .draw = draw}.Normal(i);
    return v;
  };
}

// The gap at z of a game whose blocks are all on one rank.
double GapAt(const Model& model, const Point& z) {
  const Layout layout = ReplicatedLayout(&model.parameters(), 0, 1);
  FlatVector point(&layout, DType::kF64);
  for (int b = 0; b < model.parameters().size(); ++b) std::ranges::copy(z({b}), point.block({b}).data<double>());
  const std::optional<double> gap = model.Gap(point);
  EXPECT_TRUE(gap.has_value());
  return gap.value_or(NAN);
}

TEST(Games, FieldsVanishAtSolutions) {
  for (const char* text :
       {"quadratic_game { dim: 5 heterogeneity: 0.5 }", "auc_saddle { dim: 4 rows: 40 }", "dirac_gan { dim: 3 heterogeneity: 0.5 }",
        "dirac_gan { dim: 2 loss: LOGISTIC penalty: 0.3 }", "gaussian_wgan { dim: 3 heterogeneity: 0.7 }"}) {
    SCOPED_TRACE(text);
    const auto model = ModelFromText(text, {.seed = 4, .workers = 3});
    ASSERT_NE(model, nullptr);
    EXPECT_LE(NormOf(MeanFieldAt(*model, 3, [&](BlockId id) { return model->Solution(id); })), 1e-12);
    EXPECT_GT(NormOf(MeanFieldAt(*model, 3, RandomPoint(*model, 1))), 0.05);
  }
}

// Unequal data are a symmetric spread around the game of equal ones.
TEST(Games, WhatWorkersDifferBySumsToZero) {
  for (const char* text : {"matrix_game { payoffs: RANDOM size: 5 ", "group_robust { groups: 3 dim: 4 ", "dirac_gan { dim: 3 "}) {
    SCOPED_TRACE(text);
    const auto equal = ModelFromText(std::string(text) + "heterogeneity: 0 }", {.seed = 4, .workers = 3});
    const auto spread = ModelFromText(std::string(text) + "heterogeneity: 2 }", {.seed = 4, .workers = 3});
    ASSERT_TRUE(equal != nullptr && spread != nullptr);
    const Values a = MeanFieldAt(*equal, 3, RandomPoint(*equal, 1)), b = MeanFieldAt(*spread, 3, RandomPoint(*spread, 1));
    for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-13) << i;
    EXPECT_NE(MeanFieldAt(*equal, 1, RandomPoint(*equal, 1)), MeanFieldAt(*spread, 1, RandomPoint(*spread, 1)));
  }
}

// |B| of worker m's affine field B z + c. With the signs of the players taken back B is symmetric, so the power method finds it.
double WorkerLipschitz(const Model& model, int m) {
  const ParameterSet& parameters = model.parameters();
  const auto field = [&](const Values& flat) {
    const Point z = [&](BlockId id) {
      size_t first = 0;
      for (int b = 0; b < id.value; ++b) first += parameters[{b}].shape.elements();
      return Values(flat.begin() + first, flat.begin() + first + parameters[id].shape.elements());
    };
    Values own = MeanFieldAt(model, m + 1, z);
    const Values before = m == 0 ? Values(own.size(), 0.0) : MeanFieldAt(model, m, z);
    size_t next = 0;
    for (int b = 0; b < parameters.size(); ++b) {
      for (int64_t i = 0; i < parameters[{b}].shape.elements(); ++i, ++next) {
        own[next] = ((m + 1) * own[next] - m * before[next]) * (parameters[{b}].player == Player::kMax ? -1 : 1);
      }
    }
    return own;
  };
  const Values at_zero = field(Values(parameters.elements(), 0.0));
  Values v(at_zero.size(), 1.0);
  double norm = 0;
  for (int iteration = 0; iteration < 60; ++iteration) {
    Values next = field(v);
    for (size_t i = 0; i < v.size(); ++i) next[i] -= at_zero[i];
    norm = NormOf(next) / NormOf(v);
    const double length = NormOf(next);
    for (size_t i = 0; i < v.size(); ++i) v[i] = next[i] / length;
  }
  return norm;
}

TEST(Games, MeanSquareConstantsAreOfSingleWorkers) {
  for (const char* text : {"quadratic_game { dim: 3 heterogeneity: 0.5 }", "auc_saddle { dim: 6 rows: 4 }"}) {
    const auto model = ModelFromText(text, {.seed = 4, .workers = 3});
    ASSERT_NE(model, nullptr);
    double squares = 0;
    for (int m = 0; m < 3; ++m) squares += std::pow(WorkerLipschitz(*model, m), 2);
    EXPECT_NEAR(model->constants()->mean_square_lipschitz, std::sqrt(squares / 3), 1e-3 * std::sqrt(squares / 3)) << text;
  }
}

// <F(z) - F(w), z - w> >= mu |z - w|^2 and |F(z) - F(w)| <= L |z - w|, and both are attained up to what 200 random directions miss.
TEST(Games, DeclaredConstantsBoundTheField) {
  for (const char* text : {"quadratic_game { dim: 3 heterogeneity: 0.5 }", "auc_saddle { dim: 2 rows: 40 }"}) {
    SCOPED_TRACE(text);
    const auto model = ModelFromText(text, {.seed = 4, .workers = 2});
    ASSERT_NE(model, nullptr);
    const ProblemConstants constants = *model->constants();
    EXPECT_GE(constants.mean_square_lipschitz, constants.lipschitz * (1 - 1e-12));
    double least = INFINITY, most = 0;
    const Values at_zero = MeanFieldAt(*model, 2, [&](BlockId id) { return Values(model->parameters()[id].shape.elements(), 0.0); });
    for (uint32_t draw = 0; draw < 16; ++draw) {
      for (uint32_t step = 0; step < 12; ++step) {
        const Point z = [&](BlockId id) {
          Values v(model->parameters()[id].shape.elements());
          for (size_t i = 0; i < v.size(); ++i) {
            v[i] = RngKey{.seed = 6, .site = static_cast<uint32_t>(id.value), .step = step, .draw = draw}.Normal(i);
          }
          return v;
        };
        Values flat, field = MeanFieldAt(*model, 2, z);
        for (int b = 0; b < model->parameters().size(); ++b) std::ranges::copy(z({b}), std::back_inserter(flat));
        double inner = 0;
        for (size_t i = 0; i < flat.size(); ++i) {
          field[i] -= at_zero[i];
          inner += field[i] * flat[i];
        }
        least = std::min(least, inner / (NormOf(flat) * NormOf(flat)));
        most = std::max(most, NormOf(field) / NormOf(flat));
      }
    }
    EXPECT_GE(least, constants.strong_monotonicity * (1 - 1e-12));
    EXPECT_LE(most, constants.lipschitz * (1 + 1e-12));
    EXPECT_GE(most, 0.8 * constants.lipschitz);
  }
}

TEST(QuadraticGame, ConstantsAreThoseOfItsSpectrum) {
  const auto model = ModelFromText("quadratic_game { dim: 6 heterogeneity: 0 curvature_min: 0.2 curvature_max: 0.2 coupling: 1.5 }",
                                   {.seed = 2, .workers = 2});
  ASSERT_NE(model, nullptr);
  EXPECT_NEAR(model->constants()->strong_monotonicity, 0.2, 1e-12);
  EXPECT_NEAR(model->constants()->lipschitz, std::hypot(0.2, 1.5), 1e-12);
  EXPECT_NEAR(model->constants()->mean_square_lipschitz, std::hypot(0.2, 1.5), 1e-12);
}

TEST(MatrixGame, TheGapIsZeroAtEquilibriaOnly) {
  const auto model = ModelFromText("matrix_game {}", {.seed = 4, .workers = 2});
  ASSERT_NE(model, nullptr);
  EXPECT_NEAR(GapAt(*model, [&](BlockId id) { return model->Solution(id); }), 0, 1e-15);
  EXPECT_NEAR(GapAt(*model, [](BlockId) { return Values{1, 0, 0}; }), 2, 1e-15);
  EXPECT_NEAR(GapAt(*model, [](BlockId id) { return id.value == 0 ? Values{0.5, 0.5, -3} : Values{2, 2, 2}; }), 0.5, 1e-15);
}

// An equilibrium of Kuhn's poker (Kuhn 1950): the first player never bets, calls with the queen a third of the time and with the king
// always; the second one bluffs with the jack and calls with the queen a third of the time.
TEST(MatrixGame, KuhnPokerHasItsEquilibriumAndItsValue) {
  const auto model = ModelFromText("matrix_game { payoffs: KUHN_POKER }");
  ASSERT_NE(model, nullptr);
  Values x(27, 0.0), y(64, 0.0);
  x[1 + 3 * 1 + 9 * 2] = 2.0 / 3, x[1 + 3 * 2 + 9 * 2] = 1.0 / 3;
  for (const int jack : {0, 1}) {
    for (const int queen : {0, 2}) y[jack + 4 * queen + 16 * 3] = (jack == 0 ? 2.0 : 1.0) * (queen == 0 ? 2.0 : 1.0) / 9;
  }
  EXPECT_NEAR(GapAt(*model, [&](BlockId id) { return id.value == 0 ? x : y; }), 0, 1e-15);
  const Values field = MeanFieldAt(*model, 1, [&](BlockId id) { return id.value == 0 ? x : y; });  // (A y, -A'x)
  double value = 0;
  for (int i = 0; i < 27; ++i) value += x[i] * field[i];
  EXPECT_NEAR(value, 1.0 / 18, 1e-15);
}

TEST(GroupRobust, TheMiddleOfTwoIsTheCentre) {
  const auto model = ModelFromText("group_robust { groups: 2 dim: 3 }", {.seed = 4, .workers = 3});
  ASSERT_NE(model, nullptr);
  EXPECT_NEAR(GapAt(*model, [&](BlockId id) { return model->Solution(id); }), 0, 1e-14);
  EXPECT_GT(GapAt(*model, RandomPoint(*model, 2)), 0.1);
  // At the solution the field is orthogonal to the simplex and zero in x.
  const Values field = MeanFieldAt(*model, 3, [&](BlockId id) { return model->Solution(id); });
  EXPECT_NEAR(NormOf({field[0], field[1], field[2]}), 0, 1e-14);
  EXPECT_NEAR(field[3], field[4], 1e-14);
}

Batch KeyedBatch(const SampleKey& key) {
  Batch batch;
  batch.key = key;
  return batch;
}

// Rows are drawn by the key alone; FULL takes all of them, and the mean over many draws is the value of all.
TEST(ProblemRows, SamplesAreUnbiasedAndAddressedByTheirKey) {
  const auto all = ModelFromText("robust_least_squares { dim: 3 rows: 12 init_std: 1 }");
  const auto some = ModelFromText("robust_least_squares { dim: 3 rows: 12 batch: 5 init_std: 1 }");
  ASSERT_TRUE(all != nullptr && some != nullptr);
  const auto objective = [](const Model& model, const SampleKey& key) {
    double value = 0;
    OnOneRank(model, DType::kF64, [&](OneLeaf& leaf) -> absl::Status {
      ASSIGN_OR_RETURN(value, leaf.Objective(KeyedBatch(key)));
      return absl::OkStatus();
    });
    return value;
  };
  const double whole = objective(*all, {.step = 3});
  EXPECT_EQ(objective(*some, {.step = 3, .full = true}), whole);
  EXPECT_EQ(objective(*some, {.step = 3}), objective(*some, {.step = 3}));
  EXPECT_NE(objective(*some, {.step = 3}), objective(*some, {.step = 4}));
  EXPECT_NE(objective(*some, {.step = 3}), objective(*some, {.step = 3, .draw = 1}));
  double sum = 0, squares = 0;
  constexpr int kDraws = 3000;
  OnOneRank(*some, DType::kF64, [&](OneLeaf& leaf) -> absl::Status {
    for (uint32_t step = 0; step < kDraws; ++step) {
      ASSIGN_OR_RETURN(const double value, leaf.Objective(KeyedBatch({.step = step})));
      sum += value;
      squares += value * value;
    }
    return absl::OkStatus();
  });
  const double mean = sum / kDraws, deviation = std::sqrt((squares / kDraws - mean * mean) / kDraws);
  EXPECT_NEAR(mean, whole, 4 * deviation);
  EXPECT_GT(deviation, 0);
}

TEST(ProblemRows, LibSvmTextIsSharedInOrder) {
  const auto shares = ParseLibSvm("+1 1:0.5 3:2\n\n-1 2:1\n1\n", "rows", 3, 2);
  ASSERT_TRUE(shares.ok()) << shares.status();
  ASSERT_EQ(shares->size(), 2u);
  EXPECT_EQ((*shares)[0].rows(), 1);
  EXPECT_EQ((*shares)[0].feature(0, 2), 2);
  EXPECT_EQ((*shares)[1].rows(), 2);
  EXPECT_EQ((*shares)[1].target(0), -1);
  EXPECT_EQ((*shares)[1].feature(0, 1), 1);
  for (const auto& [text, error] : std::vector<std::pair<const char*, const char*>>{{"x 1:1\n", "rows:1: the label 'x'"},
                                                                                    {"1 1:1\n1 4:1\n", "rows:2: index 4 is not in 1..3"},
                                                                                    {"1 2:1 1:1\n", "rows:1: index 1 is not in 3..3"},
                                                                                    {"1 2\n", "rows:1: '2' is no index:value"},
                                                                                    {"1\n", "rows: 1 rows for 2 workers"}}) {
    const absl::Status status = ParseLibSvm(text, "rows", 3, 2).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(std::string(status.message()).find(error), std::string::npos) << status;
  }
}

TEST(ProblemAlgebra, EigenvaluesAreThoseOfTheSpectrum) {
  const Matrix m = RandomSymmetric(7, {.low = -1, .high = 2}, ProblemKey(3, 0, 0));
  const Values values = SymmetricEigenvalues(m, 7);
  for (int i = 0; i < 7; ++i) EXPECT_NEAR(values[i], -1 + 0.5 * i, 1e-12);
  EXPECT_NEAR(SpectralNorm(m, 7), 2, 1e-12);
}

}  // namespace
}  // namespace conclave
