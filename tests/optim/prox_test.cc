#include "optim/prox.h"

#include <cmath>
#include <cstring>
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
  auto prox = MakeProx(ParseConfig<OptimConfig>(absl::StrFormat("prox { %s }", config)).prox());
  CHECK_OK(prox.status());
  return *std::move(prox);
}

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

TEST(ProxFamilyTest, EveryMemberHasACase) {
  const auto* kind = ProxConfig::descriptor()->FindOneofByName("kind");
  EXPECT_EQ(kind->field_count(), static_cast<int>(std::size(kCases)));
  for (int i = 0; i < kind->field_count(); ++i) {
    bool found = false;
    for (const ProxCase& c : kCases) found |= std::string(c.config).starts_with(kind->field(i)->name() + " ");
    EXPECT_TRUE(found) << "no case for optim.prox." << kind->field(i)->name();
  }
}

TEST(ProxFamilyTest, BadConstantsAreRefused) {
  for (const char* text : {"prox { l1 { weight: -1 } }", "prox { l2_squared { weight: -1 } }", "prox { box { lower: 1 upper: 0 } }"}) {
    EXPECT_EQ(MakeProx(ParseConfig<OptimConfig>(text).prox()).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace conclave
