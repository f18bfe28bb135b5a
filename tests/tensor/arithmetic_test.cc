#include <gtest/gtest.h>

#include "tensor/ops/ops.h"
#include "tests/tensor/op_parity.h"

namespace conclave {
namespace {

struct BinaryCase {
  const char* name;
  Var (*op)(Tape&, Var, Var);
  double (*oracle)(double, double);
};

const BinaryCase kCases[] = {
    {"add", Add, [](double x, double y) { return x + y; }},
    {"sub", Sub, [](double x, double y) { return x - y; }},
    {"mul", Mul, [](double x, double y) { return x * y; }},
    {"div", Div, [](double x, double y) { return x / y; }},
};

struct Shapes {
  Shape x, y;
};
const Shapes kShapes[] = {{{3, 7}, {3, 7}}, {{3, 7}, {7}}, {{2, 3, 5}, {3, 5}}, {{3, 7}, {1}}, {{3, 1}, {1}},
                          {{1}, {1}},       {{0, 7}, {7}}, {{0, 7}, {1}},       {{100}, {100}}};

}  // namespace

TEST(Arithmetic, Gradients) {
  for (const BinaryCase& c : kCases) {
    for (const Shapes& s : kShapes) {
      const std::vector<GradientInput> inputs{RandomInput(s.x, 1), RandomInput(s.y, 2, 0.5, 2)};
      EXPECT_TRUE(CheckGradients(inputs, [&](Tape& t, std::span<const Var> v) { return c.op(t, v[0], v[1]); }))
          << c.name << ' ' << s.x.ToString() << ' ' << s.y.ToString();
    }
  }
}

// y is fresh from an op, as it has to be.
TEST(Arithmetic, SumsInPlaceAreSums) {
  const std::vector<GradientInput> inputs{RandomInput({3, 7}, 1), RandomInput({3, 7}, 2)};
  const auto fresh = [](Tape& t, std::span<const Var> v) { return Affine(t, v[1], 3, 1); };
  EXPECT_TRUE(CheckGradients(inputs, [&](Tape& t, std::span<const Var> v) { return AddInto(t, v[0], fresh(t, v)); }));
  CheckParity(
      {RandomInput({3, 7}, 3), RandomInput({3, 7}, 4)}, [&](Tape& t, std::span<const Var> v) { return AddInto(t, v[0], fresh(t, v)); },
      [](const std::vector<Doubles>& in) {
        Doubles out;
        for (size_t i = 0; i < in[0].size(); ++i) out.push_back(in[0][i] + (3 * in[1][i] + 1));
        return out;
      });
}

// A residual: the gradient of the sum is both x's, to which more is added, and y's, which its op must not turn into its own in place.
TEST(Arithmetic, SumsInPlaceLendTheirGradient) {
  EXPECT_TRUE(CheckGradients({RandomInput({3, 7}, 1)}, [](Tape& t, std::span<const Var> v) {
    const Var x = Affine(t, v[0], 2, 1), z = AddInto(t, x, Gelu(t, Square(t, x)));
    return AddInto(t, z, Gelu(t, z));
  }));
}

TEST(Arithmetic, OneVariableTwice) {
  for (const BinaryCase& c : kCases) {
    EXPECT_TRUE(CheckGradients({RandomInput({3, 7}, 1, 0.5, 2)}, [&](Tape& t, std::span<const Var> v) { return c.op(t, v[0], v[0]); }))
        << c.name;
  }
}

TEST(Arithmetic, EqualsTheOracle) {
  for (const BinaryCase& c : kCases) {
    for (const Shapes& s : kShapes) {
      SCOPED_TRACE(c.name + s.x.ToString() + s.y.ToString());
      CheckParity(
          {RandomInput(s.x, 3), RandomInput(s.y, 4, 0.5, 2)}, [&](Tape& t, std::span<const Var> v) { return c.op(t, v[0], v[1]); },
          [&](const std::vector<Doubles>& in) {
            Doubles out;
            for (size_t i = 0; i < in[0].size(); ++i) out.push_back(c.oracle(in[0][i], in[1][i % in[1].size()]));
            return out;
          });
    }
  }
}

// Losses are f64 scalars whatever the model's dtype, so they meet f32 tensors.
TEST(Arithmetic, ScalarOfAnotherDtype) {
  Arena arena;
  Tape tape(&arena);
  OwnedTensor x({3}, DType::kF32), y({1}, DType::kF64), dx({3}, DType::kF32), dy({1}, DType::kF64);
  for (int i = 0; i < 3; ++i) x->data<float>()[i] = static_cast<float>(i + 1);
  *y->data<double>() = 0.5;
  const Var vx = tape.Parameter({0}, *x, {.first = *dx}), vy = tape.Parameter({1}, *y, {.first = *dy});
  const Seed seed{.var = SumAll(tape, Mul(tape, vx, vy)), .weight = 2};
  ASSERT_TRUE(tape.Backward(std::span(&seed, 1), [](BlockId) { return absl::OkStatus(); }).ok());
  EXPECT_EQ(*tape.value(seed.var).data<double>(), 3.0);
  EXPECT_EQ(*dy->data<double>(), 12.0);
  EXPECT_EQ(dx->data<float>()[2], 1.0f);
}

}  // namespace conclave
