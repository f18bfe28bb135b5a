#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include <gtest/gtest.h>

#include "tensor/ops/ops.h"
#include "tests/tensor/gradient_check.h"

namespace conclave {
namespace {

template <typename T>
std::vector<int32_t> TopOf(const std::vector<T>& scores, int64_t rows, int k) {
  OwnedTensor ids({rows, k}, DType::kI32);
  const int64_t e = static_cast<int64_t>(scores.size()) / rows;
  TopK(Tensor(const_cast<T*>(scores.data()), {rows, e}, DTypeOf<T>()), k, *ids);
  return {ids->data<int32_t>(), ids->data<int32_t>() + rows * k};
}

}  // namespace

TEST(TopK, EqualsAStableSort) {
  const RngKey key{.seed = 3};
  for (const int e : {1, 7, 64, 100}) {
    std::vector<double> scores(5 * e);
    for (size_t i = 0; i < scores.size(); ++i) scores[i] = static_cast<double>(key.Below(8, i));  // many ties
    for (const int k : {0, 1, std::min(e, 6), e}) {
      const std::vector<int32_t> got = TopOf(scores, 5, k);
      for (int row = 0; row < 5; ++row) {
        std::vector<int32_t> order(e);
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return scores[row * e + a] > scores[row * e + b]; });
        for (int j = 0; j < k; ++j) EXPECT_EQ(got[row * k + j], order[j]) << "e " << e << " k " << k << " row " << row;
      }
    }
  }
}

TEST(TopK, TiesTakeTheLowerIndex) {
  EXPECT_EQ(TopOf<float>({1, 2, 2, 2, 1}, 1, 4), (std::vector<int32_t>{1, 2, 3, 0}));
  EXPECT_EQ(TopOf<float>({0.0f, -0.0f, 0.0f}, 1, 2), (std::vector<int32_t>{0, 1}));
}

TEST(TopK, NanLosesAgainstEveryNumber) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(TopOf<float>({nan, -infinity, nan, 5, infinity}, 1, 5), (std::vector<int32_t>{4, 3, 1, 0, 2}));
  EXPECT_EQ(TopOf<float>({nan, nan, nan}, 1, 2), (std::vector<int32_t>{0, 1}));
}

TEST(TopK, NoRowsWriteNothing) {
  int32_t beyond = 77;
  TopK(Tensor(nullptr, {0, 5}, DType::kF32), 2, Tensor(&beyond, {0, 2}, DType::kI32));
  EXPECT_EQ(beyond, 77);
}

}  // namespace conclave
