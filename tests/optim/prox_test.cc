#include "optim/prox.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "base/rng.h"
#include "gtest/gtest.h"
#include "tests/optim/test_operators.h"

namespace conclave {
namespace {

struct ProxCase {
  const char* config;
  double (*h)(double);  // on one coordinate; infinite outside its domain
  bool indicator;
};

double Box(double x) { return x >= -0.5 && x <= 1 ? 0 : INFINITY; }

const ProxCase kCases[] = {
    {"zero {}", [](double) { return 0.0; }, false},
    {"l1 { weight: 0.7 }", [](double x) { return 0.7 * std::abs(x); }, false},
    {"l2_squared { weight: 0.7 }", [](double x) { return 0.35 * x * x; }, false},
    {"box { lower: -0.5 upper: 1 }", Box, true},
};

std::unique_ptr<Prox> Make(const char* config) {
  auto prox = MakeProx(ParseConfig<OptimConfig>(absl::StrFormat("prox { %s }", config)).prox(), GameParameters({.n = 37}));
  CHECK_OK(prox.status());
  return *std::move(prox);
}

// An indicator of a set in the space of a block, given by its support function max { <d, w> : w in the set }.
struct SetCase {
  const char* config;
  double (*support)(std::span<const double> d);
};

double LargestMagnitude(std::span<const double> d) {
  double most = 0;
  for (const double x : d) most = std::max(most, std::abs(x));
  return most;
}
double Length(std::span<const double> d) {
  double squares = 0;
  for (const double x : d) squares += x * x;
  return std::sqrt(squares);
}

const SetCase kSets[] = {
    {"l1_ball { radius: 2.5 }", [](std::span<const double> d) { return 2.5 * LargestMagnitude(d); }},
    {"l2_ball { radius: 2.5 }", [](std::span<const double> d) { return 2.5 * Length(d); }},
    {"simplex { total: 3 }", [](std::span<const double> d) { return 3 * *std::max_element(d.begin(), d.end()); }},
};

class ProxTest : public testing::TestWithParam<ProxCase> {
 protected:
  ProxTest() : parameters_(GameParameters({.n = 37})), layout_(ReplicatedLayout(&parameters_, 0, 1)) {}
  FlatVector Random(uint32_t site) const {
    FlatVector v(&layout_, DType::kF64);
    for (const BlockId id : layout_.local_blocks()) {
      const auto values = v.block(id).span<double>();
      for (size_t i = 0; i < values.size(); ++i) values[i] = 2 * RngKey{.site = site + id.value}.Normal(i);
    }
    return v;
  }
  std::span<double> Values(const FlatVector& v) const { return v.flat().span<double>(); }

  ParameterSet parameters_;
  Layout layout_;
};

TEST_P(ProxTest, SolvesItsProblem) {
  const auto prox = Make(GetParam().config);
  for (const double gamma : {0.1, 1.0, 3.0}) {
    const FlatVector v = Random(1), u = Random(1);
    prox->Apply(u, gamma);
    for (int64_t i = 0; i < v.flat().elements(); ++i) {
      const double at = Values(v)[i];
      const auto objective = [&](double x) { return gamma * GetParam().h(x) + 0.5 * (x - at) * (x - at); };
      const double best = objective(Values(u)[i]);
      for (double x = -8; x <= 8; x += 0.01)
        ASSERT_LE(best, objective(x) + 1e-12) << "coordinate " << i << " gamma " << gamma << " beaten by " << x;
    }
  }
}

TEST_P(ProxTest, IsFirmlyNonExpansive) {
  const auto prox = Make(GetParam().config);
  const FlatVector a = Random(1), b = Random(30), pa = Random(1), pb = Random(30);
  prox->Apply(pa, 0.8);
  prox->Apply(pb, 0.8);
  double moved = 0, inner = 0;
  for (int64_t i = 0; i < a.flat().elements(); ++i) {
    const double p = Values(pa)[i] - Values(pb)[i];
    moved += p * p;
    inner += p * (Values(a)[i] - Values(b)[i]);
  }
  EXPECT_LE(moved, inner * (1 + 1e-14));
}

TEST_P(ProxTest, IsIdempotentForIndicatorsAndTheIdentityForZero) {
  const auto prox = Make(GetParam().config);
  const FlatVector once = Random(1), twice = Random(1);
  prox->Apply(once, 0.8);
  prox->Apply(twice, 0.8);
  prox->Apply(twice, 0.8);
  if (GetParam().indicator) {
    EXPECT_EQ(std::memcmp(once.flat().raw(), twice.flat().raw(), once.flat().bytes()), 0);
  }
  EXPECT_EQ(std::memcmp(once.flat().raw(), Random(1).flat().raw(), once.flat().bytes()) == 0, prox->is_zero());
}

INSTANTIATE_TEST_SUITE_P(All, ProxTest, testing::ValuesIn(kCases));

class SetTest : public testing::TestWithParam<SetCase> {
 protected:
  // Random vectors of very different sizes: far outside, about at the boundary, inside.
  static std::vector<double> Random(uint32_t site, int n) {
    std::vector<double> v(n);
    const double size = std::pow(10.0, static_cast<double>(site % 5) - 2) / n;
    for (int i = 0; i < n; ++i) v[i] = size * RngKey{.site = site}.Normal(i);
    return v;
  }
  template <typename T>
  static std::vector<T> Project(const Prox& prox, std::vector<T> v) {
    prox.ApplyToBlock({0}, Tensor(v.data(), {static_cast<int64_t>(v.size())}, DTypeOf<T>()), 0.8);
    return v;
  }
};
INSTANTIATE_TEST_SUITE_P(All, SetTest, testing::ValuesIn(kSets));

// u is the projection of v iff u is in the set, <d, u> <= support(d) for all d, and v - u points straight out: <v - u, u> = support(v - u).
TEST_P(SetTest, Projects) {
  const auto prox = Make(GetParam().config);
  for (uint32_t site = 0; site < 60; ++site) {
    const std::vector<double> v = Random(site, 1 + static_cast<int>(site * 7 % 40)), u = Project(*prox, v);
    std::vector<double> out(v.size());
    double along = 0, inside = 0;
    const std::vector<double> probe = Random(site + 100, static_cast<int>(v.size()));
    for (size_t i = 0; i < v.size(); ++i) {
      out[i] = v[i] - u[i];
      along += out[i] * u[i];
      inside += probe[i] * u[i];
    }
    EXPECT_NEAR(along, GetParam().support(out), 1e-13 * (1 + Length(v))) << GetParam().config << " site " << site;
    EXPECT_LE(inside, GetParam().support(probe) + 1e-13 * (1 + Length(probe))) << GetParam().config << " site " << site;
    EXPECT_LE(Length(u), GetParam().support(u) / std::max(Length(u), 1e-300) + 1e-13) << GetParam().config << " site " << site;
  }
}

TEST_P(SetTest, ProjectingTwiceGivesTheBitsOfProjectingOnce) {
  const auto prox = Make(GetParam().config);
  for (uint32_t site = 0; site < 60; ++site) {
    const std::vector<double> once = Project(*prox, Random(site, 1000));
    EXPECT_EQ(Project(*prox, once), once) << GetParam().config << " site " << site;
    std::vector<float> narrow;
    for (const double x : Random(site, 1000)) narrow.push_back(static_cast<float>(x));
    narrow = Project(*prox, narrow);
    EXPECT_EQ(Project(*prox, narrow), narrow) << GetParam().config << " site " << site;
  }
}

TEST_P(SetTest, IsFirmlyNonExpansive) {
  const auto prox = Make(GetParam().config);
  for (uint32_t site = 0; site < 60; ++site) {
    const std::vector<double> a = Random(site, 30), b = Random(site + 61, 30), pa = Project(*prox, a), pb = Project(*prox, b);
    double moved = 0, inner = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      moved += (pa[i] - pb[i]) * (pa[i] - pb[i]);
      inner += (pa[i] - pb[i]) * (a[i] - b[i]);
    }
    EXPECT_LE(moved, inner + 1e-12 * (1 + Length(a) + Length(b))) << GetParam().config << " site " << site;
  }
}

TEST_P(SetTest, APointThatIsNotFiniteGivesOneThatIsNot) {
  const auto prox = Make(GetParam().config);
  for (const double bad : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
    const std::vector<double> u = Project(*prox, std::vector<double>{1.0, bad, 5.0});
    const bool finite = std::isfinite(u[0]) && std::isfinite(u[1]) && std::isfinite(u[2]);
    // No simplex knows how far below it a coordinate lies.
    EXPECT_EQ(finite, bad == -HUGE_VAL && std::string(GetParam().config).starts_with("simplex")) << GetParam().config << ' ' << bad;
  }
}

TEST_F(ProxTest, AProductTreatsEveryBlockByItsOwn) {
  const auto product =
      Make(R"(product { factors { pattern: "y.*" prox { l1 { weight: 0.5 } } } factors { pattern: "*" prox { simplex {} } } })");
  const auto l1 = Make("l1 { weight: 0.5 }"), simplex = Make("simplex {}");
  const FlatVector v = Random(1), expected = Random(1);
  product->Apply(v, 0.8);
  simplex->ApplyToBlock({0}, expected.block({0}), 0.8);
  l1->ApplyToBlock({1}, expected.block({1}), 0.8);
  EXPECT_EQ(std::memcmp(v.flat().raw(), expected.flat().raw(), v.flat().bytes()), 0);
  const auto partial = Make(R"(product { factors { pattern: "x.*" prox { box { lower: 0 upper: 1 } } } })");
  const FlatVector w = Random(1);
  partial->Apply(w, 0.8);
  EXPECT_EQ(std::memcmp(w.block({1}).raw(), Random(1).block({1}).raw(), w.block({1}).bytes()), 0) << "no factor names it: h = 0";
}

TEST(ProxFamilyTest, EveryMemberHasACase) {
  std::vector<std::string> configs = {"product {"};
  for (const ProxCase& c : kCases) configs.emplace_back(c.config);
  for (const SetCase& c : kSets) configs.emplace_back(c.config);
  const auto* kind = ProxConfig::descriptor()->FindOneofByName("kind");
  EXPECT_EQ(kind->field_count(), static_cast<int>(configs.size()));
  for (int i = 0; i < kind->field_count(); ++i) {
    bool found = false;
    for (const std::string& c : configs) found |= c.starts_with(kind->field(i)->name() + " ");
    EXPECT_TRUE(found) << "no case for optim.prox." << kind->field(i)->name();
  }
}

TEST(ProxFamilyTest, BadConstantsAreRefused) {
  for (const char* text : {"l1 { weight: -1 }", "l2_squared { weight: -1 }", "box { lower: 1 upper: 0 }", "l1_ball { radius: 0 }",
                           "l2_ball { radius: -1 }", "simplex { total: 0 }", "product { factors { pattern: \"w.*\" prox { zero {} } } }",
                           "product { factors { pattern: \"*\" prox { zero {} } } factors { pattern: \"x.*\" prox { zero {} } } }",
                           "product { factors { pattern: \"*\" prox { product {} } } }",
                           "product { factors { pattern: \"*\" prox { l1 { weight: -1 } } } }"}) {
    const auto prox = MakeProx(ParseConfig<OptimConfig>(absl::StrFormat("prox { %s }", text)).prox(), GameParameters({}));
    EXPECT_EQ(prox.status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace conclave
