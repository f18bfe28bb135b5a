// Update rules against the plainest scalar code of their published formulas.
#include "optim/rules.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "base/rng.h"
#include "gtest/gtest.h"
#include "tests/optim/test_operators.h"

namespace conclave {
namespace {

constexpr int64_t kElements = 101;  // no multiple of a vector's lanes
constexpr int kSteps = 7;

// One parameter's trajectory: (x, g, t) -> new x, state inside.
using Oracle = std::function<double(double x, double g, const RuleArgs& args)>;

struct RuleCase {
  const char* config;
  std::function<Oracle()> oracle;
};

Oracle Sgd(double momentum, bool nesterov) {
  return [=, v = 0.0](double x, double g, const RuleArgs& args) mutable {
    g *= args.gradient_scale;
    v = momentum * v + g;
    const double d = nesterov ? g + momentum * v : v;
    return x - args.learning_rate * args.weight_decay * x - args.learning_rate * d;
  };
}

Oracle AdamW(double beta1, double beta2, double eps) {
  return [=, m = 0.0, v = 0.0](double x, double g, const RuleArgs& args) mutable {
    g *= args.gradient_scale;
    m = beta1 * m + (1 - beta1) * g;
    v = beta2 * v + (1 - beta2) * g * g;
    const double m_hat = m / (1 - std::pow(beta1, args.t)), v_hat = v / (1 - std::pow(beta2, args.t));
    return x - args.learning_rate * args.weight_decay * x - args.learning_rate * m_hat / (std::sqrt(v_hat) + eps);
  };
}

// From update `freeze` on v stays and g is a momentum.
Oracle FrozenAdamW(double beta1, double beta2, int freeze) {
  return [=, m = 0.0, v = 0.0](double x, double g, const RuleArgs& args) mutable {
    const bool frozen = args.t > freeze;
    g *= args.gradient_scale;
    m = frozen ? g : beta1 * m + (1 - beta1) * g;
    v = frozen ? v : beta2 * v + (1 - beta2) * g * g;
    const double m_hat = m / (1 - std::pow(beta1, args.t)), v_hat = v / (1 - std::pow(beta2, std::min<double>(args.t, freeze)));
    return x - args.learning_rate * args.weight_decay * x - args.learning_rate * m_hat / (std::sqrt(v_hat) + 1e-8);
  };
}

const std::vector<RuleCase>& Cases() {
  static const std::vector<RuleCase> cases = {
      {"sgd {}", [] { return Sgd(0, false); }},
      {"sgd { momentum: 0.9 }", [] { return Sgd(0.9, false); }},
      {"sgd { momentum: 0.9 nesterov: true }", [] { return Sgd(0.9, true); }},
      {"adamw {}", [] { return AdamW(0.9, 0.95, 1e-8); }},
      {"adamw { freeze_after: 3 }", [] { return FrozenAdamW(0.9, 0.95, 3); }},
      {"adamw { beta1: 0 beta2: 0.5 eps: 0.1 }", [] { return AdamW(0, 0.5, 0.1); }},
  };
  return cases;
}

RuleConfig Config(const std::string& rule) {
  return ParseConfig<OptimConfig>("first_order { lr: 1 rule { " + rule + " } }").first_order().rule();
}

template <typename T>
void CheckAgainstOracle(const RuleCase& c, double tolerance) {
  ParameterSet parameters;
  const BlockId other = parameters.Add({.name = "other", .shape = {3}});
  const BlockId block = parameters.Add({.name = "w", .shape = {kElements}});
  const Layout layout = ReplicatedLayout(&parameters, 0, 1);
  const DType dtype = DTypeOf<T>();
  const auto rule = MakeUpdateRule(Config(c.config), &layout, dtype);
  ASSERT_TRUE(rule.ok()) << rule.status();
  FlatVector x(&layout, dtype), g(&layout, dtype);
  std::vector<double> expected(kElements);
  std::vector<Oracle> oracles;
  for (int64_t i = 0; i < kElements; ++i) {
    oracles.push_back(c.oracle());
    x.block(block).data<T>()[i] = static_cast<T>(RngKey{.site = 1}.Normal(i));
    expected[i] = x.block(block).data<T>()[i];
  }
  x.block(other).Fill(5);
  for (int step = 1; step <= kSteps; ++step) {
    const RuleArgs args{.learning_rate = 0.1 / step, .weight_decay = 0.2, .gradient_scale = step == 3 ? 0.25 : 1, .t = step};
    for (int64_t i = 0; i < kElements; ++i) {
      g.block(block).data<T>()[i] = static_cast<T>(RngKey{.site = 2, .step = static_cast<uint32_t>(step)}.Normal(i));
      expected[i] = oracles[i](expected[i], g.block(block).data<T>()[i], args);
    }
    (*rule)->Apply(block, x.block(block), g.block(block), args);
    for (int64_t i = 0; i < kElements; ++i) {
      ASSERT_NEAR(x.block(block).data<T>()[i], expected[i], tolerance * std::max(1.0, std::abs(expected[i])))
          << c.config << " step " << step << " element " << i;
    }
  }
  for (const T value : x.block(other).span<T>()) EXPECT_EQ(value, T{5});
}

TEST(RulesTest, AgreeWithTheirScalarFormulasInDouble) {
  for (const RuleCase& c : Cases()) CheckAgainstOracle<double>(c, 1e-14);
}

TEST(RulesTest, AgreeWithTheirScalarFormulasInFloat) {
  for (const RuleCase& c : Cases()) CheckAgainstOracle<float>(c, 2e-6);  // a few roundings of 6e-8 a step, 7 steps
}

TEST(RulesTest, TheFirstAdamStepHasTheSizeOfTheLearningRate) {
  ParameterSet parameters;
  const BlockId block = parameters.Add({.name = "w", .shape = {2}});
  const Layout layout = ReplicatedLayout(&parameters, 0, 1);
  FlatVector x(&layout, DType::kF64), g(&layout, DType::kF64);
  g.block(block).data<double>()[0] = 1e6;
  g.block(block).data<double>()[1] = -1e-3;
  const auto rule = MakeUpdateRule(Config("adamw { eps: 1e-12 }"), &layout, DType::kF64);
  (*rule)->Apply(block, x.block(block), g.block(block), {.learning_rate = 0.5, .t = 1});
  EXPECT_NEAR(x.block(block).data<double>()[0], -0.5, 1e-9);
  EXPECT_NEAR(x.block(block).data<double>()[1], 0.5, 1e-9);
}

TEST(RulesTest, EveryMemberHasACase) {
  const auto* kind = RuleConfig::descriptor()->FindOneofByName("kind");
  for (int i = 0; i < kind->field_count(); ++i) {
    bool found = kind->field(i)->name() == "muon";  // of whole matrices: muon_test.cc
    for (const RuleCase& c : Cases()) found |= std::string(c.config).starts_with(kind->field(i)->name() + " ");
    EXPECT_TRUE(found) << "no case for rule." << kind->field(i)->name();
  }
  ParameterSet parameters;
  const Layout layout = ReplicatedLayout(&parameters, 0, 1);
  EXPECT_EQ(MakeUpdateRule(RuleConfig(), &layout, DType::kF32).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace conclave
