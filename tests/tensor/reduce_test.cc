#include "tensor/reduce.h"

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "base/rng.h"

namespace conclave {
namespace {

template <typename T>
Tensor View(std::vector<T>& v) {
  return Tensor(v.data(), {static_cast<int64_t>(v.size())}, DTypeOf<T>());
}

template <typename T>
std::vector<T> Normals(int64_t n) {
  const RngKey key{.seed = 11};
  std::vector<T> v(n);
  for (int64_t i = 0; i < n; ++i) v[i] = static_cast<T>(key.Normal(i));
  return v;
}

// The definition, element by element.
template <typename T>
double Definition(const std::vector<T>& x) {
  double sum = 0;
  for (size_t begin = 0; begin < x.size(); begin += 4096) {
    volatile double lanes[32] = {};  // volatile: every product and every sum is rounded by itself
    for (size_t i = begin; i < std::min(x.size(), begin + 4096); ++i) {
      const volatile double square = static_cast<double>(x[i]) * static_cast<double>(x[i]);
      lanes[(i - begin) % 32] = lanes[(i - begin) % 32] + square;
    }
    for (int half = 16; half > 0; half /= 2) {
      for (int l = 0; l < half; ++l) lanes[l] = lanes[l] + lanes[l + half];
    }
    sum += lanes[0];
  }
  return sum;
}

}  // namespace

TEST(SumOfSquares, BitsOfTheDefinition) {
  for (const int64_t n : {0, 1, 31, 33, 4095, 4096, 4097, 20000}) {
    std::vector<float> f32 = Normals<float>(n);
    std::vector<double> f64 = Normals<double>(n);
    EXPECT_EQ(std::bit_cast<uint64_t>(SumOfSquares(View(f32))), std::bit_cast<uint64_t>(Definition(f32))) << n;
    EXPECT_EQ(std::bit_cast<uint64_t>(SumOfSquares(View(f64))), std::bit_cast<uint64_t>(Definition(f64))) << n;
  }
}

// A chunk's sum does not depend on what stands before it: blocks cut at chunks add up to the whole, bit for bit.
TEST(SumOfSquares, ChunksAddUp) {
  std::vector<float> x = Normals<float>(3 * 4096 + 5);
  double sum = 0;
  for (size_t begin = 0; begin < x.size(); begin += 4096) {
    std::vector<float> chunk(x.begin() + begin, x.begin() + std::min(x.size(), begin + 4096));
    sum += SumOfSquares(View(chunk));
  }
  EXPECT_EQ(sum, SumOfSquares(View(x)));
}

TEST(AllFinite, FindsASingleBadElementAnywhere) {
  const double bad[] = {std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity(), std::nan("")};
  for (const size_t n : {1, 7, 100}) {
    std::vector<float> f32(n, std::numeric_limits<float>::max());
    std::vector<double> f64(n, -std::numeric_limits<double>::max());
    std::vector<BFloat16> bf16(n, {0x7F7F});
    ASSERT_TRUE(AllFinite(View(f32)) && AllFinite(View(f64)) && AllFinite(View(bf16)));
    for (size_t i = 0; i < n; ++i) {
      for (const double b : bad) {
        std::vector<float> x = f32;
        x[i] = static_cast<float>(b);
        EXPECT_FALSE(AllFinite(View(x))) << i;
        std::vector<double> y = f64;
        y[i] = b;
        EXPECT_FALSE(AllFinite(View(y))) << i;
      }
      std::vector<BFloat16> z = bf16;
      z[i] = {0xFF80};
      EXPECT_FALSE(AllFinite(View(z))) << i;
    }
  }
  std::vector<float> none;
  EXPECT_TRUE(AllFinite(View(none)));
  std::vector<int32_t> integers{-1};
  EXPECT_TRUE(AllFinite(View(integers)));
}

}  // namespace conclave
