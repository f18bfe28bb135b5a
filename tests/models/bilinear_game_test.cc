#include <cmath>

#include <gtest/gtest.h>

#include "tests/models/one_leaf.h"

namespace conclave {
namespace {

// The mean over workers of the signed gradients (g_x, -g_y) at z = (x, y).
std::vector<double> FieldAt(const Model& model, int workers, const std::vector<double>& x, const std::vector<double>& y) {
  std::vector<double> field(x.size() + y.size(), 0.0);
  OnOneRank(model, DType::kF64, [&](OneLeaf& leaf) -> absl::Status {
    const BlockId bx = model.parameters().Find("x"), by = model.parameters().Find("y");
    EXPECT_EQ(model.parameters()[bx].player, Player::kMin);
    EXPECT_EQ(model.parameters()[by].player, Player::kMax);
    std::ranges::copy(x, leaf.point().block(bx).data<double>());
    std::ranges::copy(y, leaf.point().block(by).data<double>());
    BatchBuffer buffer({}, 1, DType::kF64);
    for (int m = 0; m < workers; ++m) {
      Batch batch = buffer.batch();
      batch.worker = {m};
      RETURN_IF_ERROR(leaf.Differentiate(batch).status());
      const std::vector<double> gx = ValuesOf(leaf.gradient().block(bx)), gy = ValuesOf(leaf.gradient().block(by));
      for (size_t i = 0; i < gx.size(); ++i) field[i] += gx[i] / workers;
      for (size_t i = 0; i < gy.size(); ++i) field[gx.size() + i] -= gy[i] / workers;
    }
    return absl::OkStatus();
  });
  return field;
}

double Norm(const std::vector<double>& v) {
  double sum = 0;
  for (const double x : v) sum += x * x;
  return std::sqrt(sum);
}

std::vector<double> Random(int n, uint32_t site) {
  std::vector<double> v(n);
  for (int i = 0; i < n; ++i) v[i] = RngKey{.seed = 6, .site = site}.Normal(i);
  return v;
}

std::vector<double> Difference(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> d(a.size());
  for (size_t i = 0; i < a.size(); ++i) d[i] = a[i] - b[i];
  return d;
}

TEST(BilinearGame, FieldVanishesAtTheSolution) {
  for (const char* text :
       {"bilinear_game { dim: 6 sigma_min: 0.2 }", "bilinear_game { dim: 5 lambda: 0.3 heterogeneity: 0.5 }", "bilinear_game { dim: 1 }"}) {
    const auto model = ModelFromText(text, {.seed = 4, .workers = 3});
    ASSERT_NE(model, nullptr);
    const std::vector<double> x = model->Solution(model->parameters().Find("x")), y = model->Solution(model->parameters().Find("y"));
    ASSERT_FALSE(x.empty()) << text;
    EXPECT_LE(Norm(FieldAt(*model, 3, x, y)), 1e-12 * (1 + Norm(x) + Norm(y))) << text;
    EXPECT_GT(Norm(FieldAt(*model, 3, std::vector<double>(x.size()), std::vector<double>(y.size()))), 0.1) << text;
  }
}

TEST(BilinearGame, ASingularGameHasNoSolution) {
  const auto singular = ModelFromText("bilinear_game { dim: 3 sigma_min: 0 }"),
             regular = ModelFromText("bilinear_game { dim: 3 sigma_min: 0 lambda: 0.1 }");
  ASSERT_TRUE(singular != nullptr && regular != nullptr);
  EXPECT_TRUE(singular->Solution({0}).empty());
  EXPECT_EQ(regular->Solution({0}).size(), 3u);
}

// <F(z) - F(w), z - w> = lambda |z - w|^2 and |F(z) - F(w)| <= L |z - w|; with sigma_min = sigma_max equality.
TEST(BilinearGame, ConstantsAreThoseOfTheField) {
  for (const double sigma_min : {0.1, 2.0}) {
    const auto model = ModelFromText("bilinear_game { dim: 5 lambda: 0.25 sigma_min: " + std::to_string(sigma_min) + " sigma_max: 2 }",
                                     {.seed = 2, .workers = 2});
    ASSERT_NE(model, nullptr);
    const ProblemConstants constants = *model->constants();
    EXPECT_DOUBLE_EQ(constants.lipschitz, std::hypot(0.25, 2.0));
    EXPECT_DOUBLE_EQ(constants.strong_monotonicity, 0.25);
    const std::vector<double> x = Random(5, 1), y = Random(5, 2), u = Random(5, 3), v = Random(5, 4);
    const std::vector<double> df = Difference(FieldAt(*model, 2, x, y), FieldAt(*model, 2, u, v));
    std::vector<double> dz = Difference(x, u);
    const std::vector<double> dy = Difference(y, v);
    dz.insert(dz.end(), dy.begin(), dy.end());
    double inner = 0;
    for (size_t i = 0; i < dz.size(); ++i) inner += df[i] * dz[i];
    EXPECT_NEAR(inner, 0.25 * Norm(dz) * Norm(dz), 1e-12);
    EXPECT_LE(Norm(df), constants.lipschitz * Norm(dz) * (1 + 1e-12));
    EXPECT_GE(Norm(df), std::hypot(0.25, sigma_min) * Norm(dz) * (1 - 1e-12));
  }
}

// Worker m's problem depends on m and the seed alone, not on how many workers there are.
TEST(BilinearGame, WorkersHaveTheirOwnProblems) {
  const std::string text = "bilinear_game { dim: 4 heterogeneity: 0.5 }";
  const auto two = ModelFromText(text, {.seed = 4, .workers = 2}), five = ModelFromText(text, {.seed = 4, .workers = 5});
  ASSERT_TRUE(two != nullptr && five != nullptr);
  const std::vector<double> x = Random(4, 1), y = Random(4, 2);
  EXPECT_EQ(FieldAt(*two, 2, x, y), FieldAt(*five, 2, x, y));
  EXPECT_NE(FieldAt(*five, 1, x, y), FieldAt(*five, 2, x, y));
}

TEST(BilinearGame, RefusesAnEmptySpectrum) {
  const absl::Status status = MakeModel(ParseModelConfig("bilinear_game { dim: 3 sigma_min: 2 sigma_max: 1 }"), {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(status.message()).find("sigma_min 2 is above sigma_max 1"), std::string::npos) << status;
}

}  // namespace
}  // namespace conclave
