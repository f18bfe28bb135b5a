// Muon against its formulas in plain loops of doubles.
#include <algorithm>
#include <cmath>
#include <vector>

#include "base/rng.h"
#include "gtest/gtest.h"
#include "optim/rules.h"
#include "tests/optim/test_operators.h"

namespace conclave {
namespace {

struct Plain {  // row by row
  int64_t rows = 0, columns = 0;
  std::vector<double> v;
  double& at(int64_t r, int64_t c) { return v[r * columns + c]; }
  double at(int64_t r, int64_t c) const { return v[r * columns + c]; }
};

Plain Times(const Plain& a, const Plain& b) {
  Plain c{a.rows, b.columns, std::vector<double>(a.rows * b.columns)};
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t j = 0; j < b.columns; ++j) {
      for (int64_t k = 0; k < a.columns; ++k) c.at(i, j) += a.at(i, k) * b.at(k, j);
    }
  }
  return c;
}

Plain Turned(const Plain& a) {
  Plain t{a.columns, a.rows, std::vector<double>(a.v.size())};
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t j = 0; j < a.columns; ++j) t.at(j, i) = a.at(i, j);
  }
  return t;
}

// a X + (b A + c A A) X with A = X X^T, five times, on the matrix over its Frobenius norm.
Plain NewtonSchulz(Plain x) {
  double squares = 0;
  for (const double e : x.v) squares += e * e;
  for (double& e : x.v) e /= std::sqrt(squares) + 1e-7;
  const bool tall = x.rows > x.columns;
  if (tall) x = Turned(x);
  for (int step = 0; step < 5; ++step) {
    const Plain a = Times(x, Turned(x)), aa = Times(a, a), ax = Times(a, x), aax = Times(aa, x);
    for (size_t i = 0; i < x.v.size(); ++i) x.v[i] = 3.4445 * x.v[i] - 4.7750 * ax.v[i] + 2.0315 * aax.v[i];
  }
  return tall ? Turned(x) : x;
}

RuleConfig MuonRule(const std::string& fields) {
  return ParseConfig<OptimConfig>("first_order { lr: 1 rule { muon { " + fields + " } } }").first_order().rule();
}

struct OneBlock {
  OneBlock(int64_t rows, int64_t columns, DType dtype, const std::string& fields = "")
      : id(parameters.Add({.name = "w", .shape = {rows, columns}})),
        layout(ReplicatedLayout(&parameters, 0, 1)),
        x(&layout, dtype),
        g(&layout, dtype) {
    auto made = MakeUpdateRule(MuonRule(fields), &layout, dtype);
    EXPECT_TRUE(made.ok()) << made.status();
    rule = *std::move(made);
  }
  ParameterSet parameters;
  BlockId id;
  Layout layout;
  FlatVector x, g;
  std::unique_ptr<UpdateRule> rule;
};

template <typename T>
void CheckThreeSteps(int64_t rows, int64_t columns, bool nesterov, double tolerance) {
  OneBlock block(rows, columns, DTypeOf<T>(), nesterov ? "" : "nesterov: false");
  T* x = block.x.block(block.id).template data<T>();
  T* g = block.g.block(block.id).template data<T>();
  Plain w{rows, columns, std::vector<double>(rows * columns)}, m = w, u = w;
  for (int64_t i = 0; i < rows * columns; ++i) w.v[i] = x[i] = static_cast<T>(RngKey{.site = 1}.Normal(i));
  for (int step = 1; step <= 3; ++step) {
    const RuleArgs args{.learning_rate = 0.1 / step, .weight_decay = 0.2, .gradient_scale = step == 2 ? 0.25 : 1, .t = step};
    for (int64_t i = 0; i < rows * columns; ++i) {
      g[i] = static_cast<T>(RngKey{.site = 2, .step = static_cast<uint32_t>(step)}.Normal(i));
      const double scaled = args.gradient_scale * g[i];
      m.v[i] = 0.95 * m.v[i] + 0.05 * scaled;
      u.v[i] = nesterov ? 0.05 * scaled + 0.95 * m.v[i] : m.v[i];
    }
    const Plain o = NewtonSchulz(u);
    const double size = args.learning_rate * std::sqrt(std::max(1.0, static_cast<double>(rows) / static_cast<double>(columns)));
    block.rule->Apply(block.id, block.x.block(block.id), block.g.block(block.id), args);
    for (int64_t i = 0; i < rows * columns; ++i) {
      w.v[i] = (1 - args.learning_rate * args.weight_decay) * w.v[i] - size * o.v[i];
      ASSERT_NEAR(x[i], w.v[i], tolerance) << rows << 'x' << columns << " step " << step << " element " << i;
    }
  }
}

TEST(Muon, AgreesWithPlainLoops) {
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{7, 7}, {5, 33}, {40, 9}, {1, 12}, {12, 1}}) {
    for (const bool nesterov : {true, false}) {
      CheckThreeSteps<double>(rows, columns, nesterov, 1e-11);
      CheckThreeSteps<float>(rows, columns, nesterov, 2e-4);
    }
  }
}

// On diag(s, sqrt(1 - s^2)), of Frobenius norm 1, each singular value goes its own way: the published images of .5 and .1, and of what is
// left beside them.
TEST(Muon, MovesSingularValuesTowardsOne) {
  for (const auto& [s, image] : {std::pair{0.5, 0.7654}, {0.1, 0.7121}}) {
    OneBlock block(2, 2, DType::kF64);
    double* g = block.g.block(block.id).data<double>();
    g[0] = s, g[3] = -std::sqrt(1 - s * s);
    block.rule->Apply(block.id, block.x.block(block.id), block.g.block(block.id), {.learning_rate = 1});
    const double* x = block.x.block(block.id).data<double>();
    EXPECT_NEAR(-x[0], image, 2e-4);
    EXPECT_GT(x[3], 0.68);
    EXPECT_LT(x[3], 1.14);
    EXPECT_EQ(x[1], 0);
    EXPECT_EQ(x[2], 0);
  }
}

TEST(Muon, TakesMatricesOnly) {
  ParameterSet parameters;
  parameters.Add({.name = "blocks.0.norm.weight", .shape = {8}});
  const Layout layout = ReplicatedLayout(&parameters, 0, 1);
  const auto rule = MakeUpdateRule(MuonRule(""), &layout, DType::kF32);
  ASSERT_EQ(rule.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(rule.status().message().find("blocks.0.norm.weight"), std::string::npos) << rule.status();
  EXPECT_NE(rule.status().message().find("groups"), std::string::npos) << rule.status();
}

}  // namespace
}  // namespace conclave
