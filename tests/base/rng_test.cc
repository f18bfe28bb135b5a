#include "base/rng.h"

#include <cmath>
#include <numbers>
#include <set>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"

namespace conclave {
namespace {

using Words = std::array<uint32_t, 4>;

// Random123's published known answers (kat_vectors, philox4x32 10).
TEST(PhiloxTest, MatchesPublishedVectors) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RngKeyTest, CounterLayout) {
  const RngKey key{.seed = 0x1122334455667788, .site = 0xABCDEF, .step = 0x01020304, .worker = 0x9876, .kind = RngKind::kCodec, .draw = 5};
  const uint64_t element = 0x12'3456'789A;  // block = element / 4, in the low 40 bits of the index
  const uint64_t index = (uint64_t{0xABCDEF} << 40) | (element >> 2);
  const Words words = Philox4x32({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), 0x01020304, 0x98760000u | (4 << 4) | 5},
                                 {0x55667788, 0x11223344});
  EXPECT_EQ(key.Bits(element), words[element & 3]);
  EXPECT_EQ(key.Uniform(element), static_cast<float>(words[element & 3] >> 8) / 16777216.0f);
}

TEST(RngKeyTest, EveryFieldSelectsOtherNumbers) {
  const RngKey base{.seed = 7, .site = 3, .step = 9, .worker = 2, .kind = RngKind::kNoise, .draw = 1};
  std::vector<RngKey> keys(7, base);
  keys[1].seed = uint64_t{7} + (uint64_t{1} << 32);
  keys[2].site = 4;
  keys[3].step = 10;
  keys[4].worker = kSharedWorker;
  keys[5].kind = RngKind::kInit;
  keys[6].draw = 0;
  std::set<std::tuple<uint32_t, uint32_t, uint32_t, uint32_t>> seen;
  for (const RngKey& key : keys) seen.emplace(key.Bits(0), key.Bits(1), key.Bits(2), key.Bits(3));
  EXPECT_EQ(seen.size(), keys.size());
}

TEST(RngKeyTest, FillGivesTheSameNumbers) {
  const RngKey key{.seed = 0x123456789ABCDEF, .site = 77, .step = 9, .worker = 3, .draw = 2};
  for (const uint64_t first : {uint64_t{0}, uint64_t{1}, uint64_t{2}, uint64_t{3}, uint64_t{5}, uint64_t{1000}, (uint64_t{1} << 39) - 7}) {
    for (const size_t n : {0, 1, 2, 3, 4, 5, 17, 127, 128, 300, 1029}) {
      std::vector<uint32_t> bits(n);
      std::vector<float> uniforms(n), rounded(n);
      std::vector<double> normals(n);
      key.FillBits(first, bits);
      key.FillUniform(first, uniforms);
      key.FillNormal(first, normals);
      key.FillNormal(first, rounded);
      for (size_t i = 0; i < n; ++i) {
        ASSERT_EQ(bits[i], key.Bits(first + i)) << first << ' ' << n << ' ' << i;
        ASSERT_EQ(uniforms[i], key.Uniform(first + i)) << first << ' ' << n << ' ' << i;
        ASSERT_EQ(normals[i], key.Normal(first + i)) << first << ' ' << n << ' ' << i;
        ASSERT_EQ(rounded[i], static_cast<float>(normals[i])) << first << ' ' << n << ' ' << i;
      }
    }
  }
}

// Against the C library; the bound is a few units in the last place of either factor.
TEST(RngKeyTest, NormalsAreBoxAndMullers) {
  const RngKey key{.seed = 5};
  std::vector<double> normals(100000);
  key.FillNormal(0, normals);
  for (size_t i = 0; i < normals.size(); ++i) {
    const double u = (key.Bits(2 * i) + 0.5) * 0x1p-32, v = key.Bits(2 * i + 1) * 0x1p-32;
    const double radius = std::sqrt(-2 * std::log(u));
    ASSERT_NEAR(normals[i], radius * std::cos(2 * std::numbers::pi * v), 1e-15 * radius) << u << ' ' << v;
  }
}

// Bounds are 5 standard errors of the estimate.
TEST(RngKeyTest, UniformMoments) {
  const RngKey key{.seed = 1};
  const int n = 200000;
  double sum = 0, squares = 0, sum_double = 0;
  for (int i = 0; i < n; ++i) {
    const double u = key.Uniform(i), d = key.UniformDouble(i);
    ASSERT_TRUE(u >= 0 && u < 1 && d >= 0 && d < 1) << i;
    sum += u;
    squares += u * u;
    sum_double += d;
  }
  EXPECT_NEAR(sum / n, 0.5, 5 * std::sqrt(1.0 / 12 / n));
  EXPECT_NEAR(sum_double / n, 0.5, 5 * std::sqrt(1.0 / 12 / n));
  EXPECT_NEAR(squares / n, 1.0 / 3, 5 * std::sqrt(4.0 / 45 / n));
}

TEST(RngKeyTest, NormalMoments) {
  const RngKey key{.seed = 2};
  const int n = 200000;
  double m1 = 0, m2 = 0, m3 = 0, m4 = 0, lag = 0, before = 0;
  for (int i = 0; i < n; ++i) {
    const double x = key.Normal(i);
    m1 += x;
    m2 += x * x;
    m3 += x * x * x;
    m4 += x * x * x * x;
    lag += x * before;
    before = x;
  }
  EXPECT_NEAR(m1 / n, 0, 5 * std::sqrt(1.0 / n));
  EXPECT_NEAR(m2 / n, 1, 5 * std::sqrt(2.0 / n));
  EXPECT_NEAR(m3 / n, 0, 5 * std::sqrt(15.0 / n));
  EXPECT_NEAR(m4 / n, 3, 5 * std::sqrt(96.0 / n));
  EXPECT_NEAR(lag / n, 0, 5 * std::sqrt(1.0 / n));
}

TEST(RngKeyTest, BelowIsUniform) {
  const RngKey key{.seed = 3};
  const int n = 70000;
  std::vector<int> counts(7);
  for (int i = 0; i < n; ++i) ++counts[key.Below(7, i)];
  double chi_square = 0;
  for (const int c : counts) chi_square += (c - 10000.0) * (c - 10000.0) / 10000.0;
  EXPECT_LT(chi_square, 30);  // 6 degrees of freedom: exceeded with probability 4e-5
  EXPECT_EQ(key.Below(1, 12345), 0u);
}

TEST(IndexPermutationTest, IsABijectionOfEverySize) {
  for (const uint64_t n : {1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 1000, 4097}) {
    const IndexPermutation permutation({.seed = 5, .kind = RngKind::kShuffle}, n);
    std::vector<bool> hit(n);
    for (uint64_t i = 0; i < n; ++i) {
      const uint64_t j = permutation(i);
      ASSERT_LT(j, n);
      EXPECT_FALSE(hit[j]) << "n " << n << " i " << i;
      hit[j] = true;
    }
  }
}

TEST(IndexPermutationTest, DependsOnTheKeyAndFixesFewPoints) {
  const uint64_t n = 10000;
  const IndexPermutation a({.seed = 5, .step = 0}, n), b({.seed = 5, .step = 1}, n);
  int fixed = 0, equal = 0;
  for (uint64_t i = 0; i < n; ++i) {
    fixed += a(i) == i;
    equal += a(i) == b(i);
  }
  EXPECT_LT(fixed, 10);  // expected 1
  EXPECT_LT(equal, 10);
}

TEST(IndexPermutationTest, LargeDomain) {
  const uint64_t n = (uint64_t{1} << 40) + 12345;
  const IndexPermutation permutation({.seed = 8}, n);
  std::set<uint64_t> images;
  for (uint64_t i = n - 1000; i < n; ++i) {
    const uint64_t j = permutation(i);
    EXPECT_LT(j, n);
    images.insert(j);
  }
  EXPECT_EQ(images.size(), 1000u);
}

}  // namespace
}  // namespace conclave
