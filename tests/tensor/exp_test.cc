#include "tensor/kernels/exp.h"

#include <bit>
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace conclave {
namespace {

// |got - want| in units of the last place of the float nearest to want.
double UlpsOff(float got, double want) {
  const float nearest = static_cast<float>(want);
  const float next = std::nextafterf(std::fabs(nearest), std::numeric_limits<float>::infinity());
  return std::fabs(static_cast<double>(got) - want) / (static_cast<double>(next) - std::fabs(nearest));
}

// The largest error of f over every `stride`-th float of [low, high].
template <typename F, typename G>
double WorstUlps(F f, G exact, float low, float high) {
  double worst = 0;
  for (int i = 0; i <= 400000; ++i) {
    const float x = low + (high - low) * (static_cast<float>(i) / 400000);
    worst = std::max(worst, UlpsOff(f(x), exact(static_cast<double>(x))));
  }
  return worst;
}

}  // namespace

TEST(Exp, WithinTwoUlp) {
  const auto f = [](float x) { return cpu::Exp(x); };
  const auto exact = [](double x) { return std::exp(x); };
  EXPECT_LE(WorstUlps(f, exact, -87.0f, 88.7f), 2.0);
  EXPECT_LE(WorstUlps(f, exact, -1.0f, 1.0f), 1.5);
  EXPECT_LE(WorstUlps(f, exact, -103.9f, -87.0f), 1.5);  // denormal results
}

TEST(Exp, Limits) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(cpu::Exp(0.0f), 1.0f);
  EXPECT_EQ(cpu::Exp(infinity), infinity);
  EXPECT_EQ(cpu::Exp(88.8f), infinity);
  EXPECT_EQ(cpu::Exp(-infinity), 0.0f);
  EXPECT_EQ(cpu::Exp(-200.0f), 0.0f);
  EXPECT_TRUE(std::isnan(cpu::Exp(std::numeric_limits<float>::quiet_NaN())));
}

TEST(Exp, OfScoresHasTheSameBits) {
  for (int i = 0; i <= 400000; ++i) {
    const float x = -87.0f + 175.0f * (static_cast<float>(i) / 400000);
    EXPECT_EQ(cpu::ExpOfScore(x), cpu::Exp(x)) << x;
    EXPECT_EQ(cpu::NormalExp(x), cpu::Exp(x)) << x;
  }
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(cpu::NormalExp(100.0f), infinity);
  EXPECT_EQ(cpu::NormalExp(infinity), infinity);
  EXPECT_EQ(cpu::NormalExp(-infinity), cpu::Exp(-87.0f));
  EXPECT_EQ(cpu::ExpOfScore(-infinity), cpu::Exp(-87.0f));
  EXPECT_TRUE(std::isnan(cpu::NormalExp(std::numeric_limits<float>::quiet_NaN())));
}

TEST(LogOfSum, WithinTwoUlp) {
  const auto f = [](float x) { return cpu::LogOfSum(x); };
  const auto exact = [](double x) { return std::log(x); };
  EXPECT_LE(WorstUlps(f, exact, 1.0f, 3.0f), 2.0);
  EXPECT_LE(WorstUlps(f, exact, 3.0f, 1e5f), 2.0);
  EXPECT_LE(WorstUlps(f, exact, 1e5f, 3e38f), 2.0);
  EXPECT_EQ(cpu::LogOfSum(1.0f), 0.0f);
  EXPECT_EQ(cpu::LogOfSum(std::numeric_limits<float>::infinity()), std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(cpu::LogOfSum(std::numeric_limits<float>::quiet_NaN())));
}

TEST(Tanh, WithinThreeUlp) {
  const auto f = [](float x) { return cpu::Tanh(x); };
  const auto exact = [](double x) { return std::tanh(x); };
  EXPECT_LE(WorstUlps(f, exact, -12.0f, 12.0f), 3.0);
  EXPECT_LE(WorstUlps(f, exact, -1e-3f, 1e-3f), 1.0);
  EXPECT_EQ(cpu::Tanh(100.0f), 1.0f);
  EXPECT_EQ(cpu::Tanh(-std::numeric_limits<float>::infinity()), -1.0f);
  EXPECT_TRUE(std::isnan(cpu::Tanh(std::numeric_limits<float>::quiet_NaN())));
}

TEST(Sigmoid, WithinThreeUlp) {
  const auto f = [](float x) { return cpu::Sigmoid(x); };
  const auto exact = [](double x) { return 1 / (1 + std::exp(-x)); };
  EXPECT_LE(WorstUlps(f, exact, -80.0f, 30.0f), 3.0);
  EXPECT_EQ(cpu::Sigmoid(-200.0f), 0.0f);
  EXPECT_EQ(cpu::Sigmoid(200.0f), 1.0f);
}

}  // namespace conclave
