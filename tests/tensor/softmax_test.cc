#include <limits>

#include <gtest/gtest.h>

#include "tensor/ops/ops.h"
#include "tests/tensor/op_parity.h"

namespace conclave {
namespace {

Var SoftmaxOf(Tape& t, std::span<const Var> v) { return Softmax(t, v[0]); }
Var LogSumExpOf(Tape& t, std::span<const Var> v) { return LogSumExp(t, v[0]); }
Var NormalizedRows(Tape& t, std::span<const Var> v) { return NormalizeRows(t, v[0]); }
Var SwiGluOf(Tape& t, std::span<const Var> v) { return SwiGlu(t, v[0]); }

// Calls row(begin, out) for each row of width h.
Oracle RowOracle(size_t h, std::function<void(const double*, Doubles*)> row) {
  return [=](const std::vector<Doubles>& in) {
    Doubles out;
    for (size_t i = 0; i * h < in[0].size(); ++i) row(&in[0][i * h], &out);
    return out;
  };
}

double SumOfExp(const double* x, int64_t h) {
  double sum = 0;
  for (int64_t j = 0; j < h; ++j) sum += std::exp(x[j]);
  return sum;
}

}  // namespace

TEST(Softmax, Gradients) {
  for (const Shape& shape : {Shape{0, 5}, Shape{1, 1}, Shape{3, 7}, Shape{2, 40}}) {
    EXPECT_TRUE(CheckGradients({RandomInput(shape, 1, -2, 2)}, SoftmaxOf)) << shape.ToString();
    EXPECT_TRUE(CheckGradients({RandomInput(shape, 1, -2, 2)}, LogSumExpOf)) << shape.ToString();
    EXPECT_TRUE(CheckGradients({RandomInput(shape, 1, 0.2, 2)}, NormalizedRows)) << shape.ToString();
  }
  EXPECT_TRUE(CheckGradients({RandomInput({3, 14}, 1, -2, 2)}, SwiGluOf));
  EXPECT_TRUE(CheckGradients({RandomInput({0, 14}, 1)}, SwiGluOf));
}

TEST(Softmax, EqualsTheOracle) {
  for (const int64_t n : {0, 1, 7}) {
    for (const int64_t h : {1, 7, 100, 600}) {
      const GradientInput x = RandomInput({n, h}, h, -9, 9), positive = RandomInput({n, h}, h, 0.1, 1);
      SCOPED_TRACE(x.shape.ToString());
      CheckParity({x}, SoftmaxOf, RowOracle(h, [h](const double* row, Doubles* out) {
                    for (int64_t j = 0; j < h; ++j) out->push_back(std::exp(row[j]) / SumOfExp(row, h));
                  }));
      CheckParity({x}, LogSumExpOf, RowOracle(h, [h](const double* row, Doubles* out) { out->push_back(std::log(SumOfExp(row, h))); }));
      CheckParity({positive}, NormalizedRows, RowOracle(h, [h](const double* row, Doubles* out) {
                    double sum = 0;
                    for (int64_t j = 0; j < h; ++j) sum += row[j];
                    for (int64_t j = 0; j < h; ++j) out->push_back(row[j] / sum);
                  }));
      if (h % 2 == 0) {
        CheckParity({x}, SwiGluOf, RowOracle(h, [h](const double* row, Doubles* out) {
                      for (int64_t j = 0; j < h / 2; ++j) out->push_back(row[j] / (1 + std::exp(-row[j])) * row[h / 2 + j]);
                    }));
      }
    }
  }
}

TEST(Softmax, LargeScoresDoNotOverflow) {
  const OpResult f32 = RunOp<float>({{.shape = {1, 3}, .values = {1e4, 1e4, -1e4}}}, SoftmaxOf);
  EXPECT_EQ(f32.value, (Doubles{0.5, 0.5, 0}));
  const OpResult lse = RunOp<double>({{.shape = {1, 2}, .values = {1e4, 1e4}}}, LogSumExpOf);
  EXPECT_NEAR(lse.value[0], 1e4 + std::log(2.0), 1e-11);
}

TEST(Softmax, RowsAreIndependent) {
  for (const auto f : {SoftmaxOf, LogSumExpOf, NormalizedRows, SwiGluOf}) {
    CheckRowsIndependent<float>({RandomInput({9, 70}, 1, 0.1, 3)}, f);
    CheckRowsIndependent<double>({RandomInput({9, 70}, 1, 0.1, 3)}, f);
  }
}

TEST(CrossEntropy, GradientAndIgnoredRows) {
  OwnedTensor targets({4}, DType::kI32);
  const int32_t wanted[] = {2, -1, 0, 6};
  std::copy_n(wanted, 4, targets->data<int32_t>());
  const auto f = [&](Tape& t, std::span<const Var> v) { return CrossEntropy(t, v[0], *targets); };
  EXPECT_TRUE(CheckGradients({RandomInput({4, 7}, 1, -2, 2)}, f));
  CheckParity({RandomInput({4, 7}, 1, -2, 2)}, f, [&](const std::vector<Doubles>& in) {
    double loss = 0;
    for (int i = 0; i < 4; ++i) {
      if (wanted[i] >= 0) loss += std::log(SumOfExp(&in[0][i * 7], 7)) - in[0][i * 7 + wanted[i]];
    }
    return Doubles{loss};
  });
  // Every row ignored: loss 0, no gradient.
  std::fill_n(targets->data<int32_t>(), 4, -1);
  const OpResult none = RunOp<float>({RandomInput({4, 7}, 1)}, f);
  EXPECT_EQ(none.value, Doubles{0});
  EXPECT_EQ(none.gradients[0], Doubles(28, 0.0));
}

// Rows over three pieces, the last of one row; the loss has the bits of the two ops, the gradients are those of the two ops to rounding.
TEST(LinearCrossEntropy, IsCrossEntropyOfLinear) {
  constexpr int64_t kRows = 513, kWidth = 5, kWords = 11;
  OwnedTensor targets({kRows}, DType::kI32);
  for (int i = 0; i < kRows; ++i) targets->data<int32_t>()[i] = i % 12 - 1;
  const std::vector<GradientInput> inputs = {RandomInput({kRows, kWidth}, 1, -2, 2), RandomInput({kWords, kWidth}, 2, -2, 2)};
  const auto f = [&](Tape& t, std::span<const Var> v) { return LinearCrossEntropy(t, v[0], v[1], *targets); };
  const auto two = [&](Tape& t, std::span<const Var> v) { return CrossEntropy(t, Linear(t, v[0], v[1]), *targets); };
  const OpResult one = RunOp<float>(inputs, f), other = RunOp<float>(inputs, two);
  EXPECT_EQ(one.value, other.value);
  for (int i = 0; i < 2; ++i) {
    for (size_t j = 0; j < one.gradients[i].size(); ++j) EXPECT_NEAR(one.gradients[i][j], other.gradients[i][j], 2e-4) << i << ' ' << j;
  }
}

TEST(LinearCrossEntropy, Gradient) {
  OwnedTensor targets({4}, DType::kI32);
  const int32_t wanted[] = {2, -1, 0, 6};
  std::copy_n(wanted, 4, targets->data<int32_t>());
  const auto weighted = [&](Tape& t, std::span<const Var> v) {
    // Twice, with other gradients in x and w: what flows in is added.
    const Var twice = Add(t, LinearCrossEntropy(t, v[0], v[1], *targets), LinearCrossEntropy(t, Tanh(t, v[0]), v[1], *targets));
    return Add(t, Affine(t, twice, 0.3, 0), SumAll(t, v[0]));
  };
  EXPECT_TRUE(CheckGradients({RandomInput({4, 3}, 1, -2, 2), RandomInput({7, 3}, 2, -2, 2)}, weighted));
}

TEST(LinearCrossEntropy, HoldsAPieceOfTheLogits) {
  constexpr int64_t kRows = 4096, kWidth = 4, kWords = 300;
  Arena arena;
  Tape tape(&arena);
  OwnedTensor x({kRows, kWidth}, DType::kF32), w({kWords, kWidth}, DType::kF32), targets({kRows}, DType::kI32);
  const Var loss = LinearCrossEntropy(tape, tape.Constant(*x), tape.Constant(*w), *targets);
  EXPECT_NEAR(*tape.value(loss).data<double>(), kRows * std::log(static_cast<double>(kWords)), 1e-2);
  EXPECT_LT(arena.peak_bytes(), kRows * kWords * 4 / 8);
}

TEST(CrossEntropy, NoRows) {
  OwnedTensor targets({0}, DType::kI32);
  const auto f = [&](Tape& t, std::span<const Var> v) { return CrossEntropy(t, v[0], *targets); };
  EXPECT_EQ(RunOp<float>({RandomInput({0, 7}, 1)}, f).value, Doubles{0});
}

TEST(CrossEntropy, UniformLogitsCostLogV) {
  OwnedTensor targets({3}, DType::kI32);
  const auto f = [&](Tape& t, std::span<const Var> v) { return CrossEntropy(t, v[0], *targets); };
  const OpResult r = RunOp<float>({{.shape = {3, 1000}, .values = Doubles(3000, 2.5)}}, f);
  EXPECT_NEAR(r.value[0], 3 * std::log(1000.0), 1e-12);
}

}  // namespace conclave
