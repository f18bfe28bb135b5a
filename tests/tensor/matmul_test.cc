#include "tensor/ops/ops.h"
#include "tests/tensor/gradient_check.h"
#include "tests/tensor/naive_oracle.h"

namespace conclave {
namespace {

Shape FactorShape(int64_t batch, int64_t rows, int64_t columns, bool transpose) {
  if (transpose) std::swap(rows, columns);
  return batch == 0 ? Shape{rows, columns} : Shape{batch, rows, columns};
}

TEST(MatMul, Gradients) {
  for (const bool ta : {false, true}) {
    for (const bool tb : {false, true}) {
      for (const int64_t batch : {0, 1, 3}) {  // 0: two-dimensional
        const std::vector<GradientInput> inputs = {RandomInput(FactorShape(batch, 4, 3, ta), 1),
                                                   RandomInput(FactorShape(batch, 3, 5, tb), 2)};
        EXPECT_TRUE(CheckGradients(
            inputs, [&](Tape& t, std::span<const Var> v) { return MatMul(t, v[0], v[1], {.transpose_a = ta, .transpose_b = tb}); }))
            << ta << tb << ' ' << batch;
      }
    }
  }
}

TEST(MatMul, GradientOfASquare) {  // the same value as both factors
  EXPECT_TRUE(CheckGradients({RandomInput({4, 4}, 1)},
                             [](Tape& t, std::span<const Var> v) { return MatMul(t, v[0], v[0], {.transpose_a = true}); }));
}

TEST(MatMul, EmptySizes) {
  const auto product = [](Tape& t, std::span<const Var> v) { return MatMul(t, v[0], v[1]); };
  EXPECT_TRUE(CheckGradients({RandomInput({0, 3}, 1), RandomInput({3, 2}, 2)}, product));
  EXPECT_TRUE(CheckGradients({RandomInput({2, 2, 0}, 1), RandomInput({2, 0, 3}, 2)}, product));  // a sum of nothing is zero
}

TEST(MatMul, AgreesWithNaiveLoops) {
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    for (const bool ta : {false, true}) {
      for (const bool tb : {false, true}) {
        const int64_t batch = 2, m = 37, n = 300, k = 270;
        const OwnedTensor a = RandomTensor(FactorShape(batch, m, k, ta), dtype, 1),
                          b = RandomTensor(FactorShape(batch, k, n, tb), dtype, 2);
        Arena arena;
        Tape tape(&arena);
        const Var c = MatMul(tape, tape.Constant(*a), tape.Constant(*b), {.transpose_a = ta, .transpose_b = tb});
        for (int64_t i = 0; i < batch; ++i) {
          const std::vector<double> want = NaiveProduct(Values(a->Slice(i, 1)), Values(b->Slice(i, 1)), {m, n, k, ta, tb});
          EXPECT_TRUE(Near(tape.value(c).Slice(i, 1), want, dtype == DType::kF32 ? 2e-5 : 1e-13)) << NameOf(dtype) << ta << tb;
        }
      }
    }
  }
}

}  // namespace
}  // namespace conclave
