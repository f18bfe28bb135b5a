#include <gtest/gtest.h>

#include "tensor/ops/ops.h"
#include "tests/tensor/op_parity.h"

namespace conclave {

TEST(Sums, Gradients) {
  for (const Shape& shape : {Shape{0, 5}, Shape{1, 1}, Shape{3, 7}, Shape{2, 40}}) {
    SCOPED_TRACE(shape.ToString());
    const GradientInput x = RandomInput(shape, 1), y = RandomInput(shape, 2);
    EXPECT_TRUE(CheckGradients({x}, [](Tape& t, std::span<const Var> v) { return SumAll(t, v[0]); }));
    EXPECT_TRUE(CheckGradients({x, y}, [](Tape& t, std::span<const Var> v) { return Dot(t, v[0], v[1]); }));
    EXPECT_TRUE(CheckGradients({x}, [](Tape& t, std::span<const Var> v) { return Dot(t, v[0], v[0]); }));
    EXPECT_TRUE(CheckGradients({x}, [](Tape& t, std::span<const Var> v) { return SumLast(t, v[0]); }));
    EXPECT_TRUE(CheckGradients({x}, [](Tape& t, std::span<const Var> v) { return SumFirst(t, v[0]); }));
  }
  EXPECT_TRUE(CheckGradients({RandomInput({2, 3, 5}, 1)}, [](Tape& t, std::span<const Var> v) { return SumLast(t, v[0]); }));
  EXPECT_TRUE(CheckGradients({RandomInput({5}, 1)}, [](Tape& t, std::span<const Var> v) { return SumLast(t, v[0]); }));
}

TEST(Sums, EqualTheOracle) {
  for (const int64_t n : {0, 1, 7}) {
    for (const int64_t h : {1, 7, 100}) {
      const GradientInput x = RandomInput({n, h}, 1), y = RandomInput({n, h}, 2);
      SCOPED_TRACE(x.shape.ToString());
      CheckParity(
          {x}, [](Tape& t, std::span<const Var> v) { return SumAll(t, v[0]); },
          [](const std::vector<Doubles>& in) {
            double s = 0;
            for (const double a : in[0]) s += a;
            return Doubles{s};
          });
      CheckParity(
          {x, y}, [](Tape& t, std::span<const Var> v) { return Dot(t, v[0], v[1]); },
          [](const std::vector<Doubles>& in) {
            double s = 0;
            for (size_t i = 0; i < in[0].size(); ++i) s += in[0][i] * in[1][i];
            return Doubles{s};
          });
      CheckParity(
          {x}, [](Tape& t, std::span<const Var> v) { return SumLast(t, v[0]); },
          [&](const std::vector<Doubles>& in) {
            Doubles out(n, 0.0);
            for (int64_t i = 0; i < n * h; ++i) out[i / h] += in[0][i];
            return out;
          });
      CheckParity(
          {x}, [](Tape& t, std::span<const Var> v) { return SumFirst(t, v[0]); },
          [&](const std::vector<Doubles>& in) {
            Doubles out(h, 0.0);
            for (int64_t i = 0; i < n * h; ++i) out[i % h] += in[0][i];
            return out;
          });
    }
  }
}

// Sums of f32 in f64: a small number is not lost beside a large one.
TEST(Sums, AccumulateInDouble) {
  const GradientInput x{.shape = {3}, .values = {1e8, 1, -1e8}};
  EXPECT_EQ(RunOp<float>({x}, [](Tape& t, std::span<const Var> v) { return SumAll(t, v[0]); }).value, Doubles{1});
  EXPECT_EQ(RunOp<float>({x}, [](Tape& t, std::span<const Var> v) { return Dot(t, v[0], v[0]); }).value, Doubles{2e16 + 1});
}

TEST(Sums, RowsAreIndependent) {
  const auto f = [](Tape& t, std::span<const Var> v) { return SumLast(t, v[0]); };
  CheckRowsIndependent<float>({RandomInput({9, 35}, 1)}, f);
}

}  // namespace conclave
