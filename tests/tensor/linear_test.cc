#include "tensor/ops/ops.h"
#include "tests/tensor/gradient_check.h"
#include "tests/tensor/naive_oracle.h"

namespace conclave {
namespace {

TEST(Linear, Gradients) {
  const auto with_bias = [](Tape& t, std::span<const Var> v) { return Linear(t, v[0], v[1], v[2]); };
  const auto without = [](Tape& t, std::span<const Var> v) { return Linear(t, v[0], v[1]); };
  EXPECT_TRUE(CheckGradients({RandomInput({5, 3}, 1), RandomInput({4, 3}, 2), RandomInput({4}, 3)}, with_bias));
  EXPECT_TRUE(CheckGradients({RandomInput({1, 1}, 1), RandomInput({1, 1}, 2), RandomInput({1}, 3)}, with_bias));
  EXPECT_TRUE(CheckGradients({RandomInput({7, 33}, 1), RandomInput({2, 33}, 2)}, without));
  EXPECT_TRUE(CheckGradients({RandomInput({0, 3}, 1), RandomInput({4, 3}, 2), RandomInput({4}, 3)}, with_bias));
}

// y = W x as the caller sees it, in both dtypes, with gradients that were not zero before.
TEST(Linear, AgreesWithNaiveLoops) {
  const int64_t n = 70, in = 33, out = 130;
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    const double tolerance = dtype == DType::kF32 ? 1e-5 : 1e-13;
    const OwnedTensor x = RandomTensor({n, in}, dtype, 1), w = RandomTensor({out, in}, dtype, 2), bias = RandomTensor({out}, dtype, 3);
    const OwnedTensor dx = RandomTensor({n, in}, dtype, 4), dw = RandomTensor({out, in}, dtype, 5), db = RandomTensor({out}, dtype, 6);
    const std::vector<double> before_x = Values(*dx), before_w = Values(*dw), before_b = Values(*db);
    Arena arena;
    Tape tape(&arena);
    const Var vx = tape.Parameter({0}, *x, {.first = *dx}), vw = tape.Parameter({1}, *w, {.first = *dw});
    const Var vb = tape.Parameter({2}, *bias, {.first = *db});
    const Var y = Linear(tape, vx, vw, vb);
    std::vector<double> want = NaiveProduct(Values(*x), Values(*w), {n, out, in, false, true});
    for (int64_t i = 0; i < n * out; ++i) want[i] += Values(*bias)[i % out];
    EXPECT_TRUE(Near(tape.value(y), want, tolerance));

    const Seed seed{.var = SumAll(tape, Mul(tape, y, y)), .weight = 0.5};  // dy = y
    ASSERT_TRUE(tape.Backward(std::span(&seed, 1), [](BlockId) { return absl::OkStatus(); }).ok());
    EXPECT_TRUE(Near(*dx, Plus(before_x, NaiveProduct(want, Values(*w), {n, in, out})), tolerance));
    EXPECT_TRUE(Near(*dw, Plus(before_w, NaiveProduct(want, Values(*x), {out, in, n, true})), tolerance));
    EXPECT_TRUE(Near(*db, Plus(before_b, NaiveProduct(std::vector<double>(n, 1.0), want, {1, out, n})), tolerance));
  }
}

}  // namespace
}  // namespace conclave
