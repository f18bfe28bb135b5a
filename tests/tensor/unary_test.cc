#include <gtest/gtest.h>

#include "tensor/ops/ops.h"
#include "tests/tensor/op_parity.h"

namespace conclave {
namespace {

struct UnaryCase {
  const char* name;
  Var (*op)(Tape&, Var);
  double (*oracle)(double);
  double low = -6, high = 6;
};

const UnaryCase kCases[] = {
    {"exp", Exp, [](double x) { return std::exp(x); }},
    {"log", Log, [](double x) { return std::log(x); }, 0.1, 9},
    {"tanh", Tanh, [](double x) { return std::tanh(x); }},
    {"sigmoid", Sigmoid, [](double x) { return 1 / (1 + std::exp(-x)); }},
    {"softplus", Softplus, [](double x) { return std::log(1 + std::exp(x)); }},
    {"square", Square, [](double x) { return x * x; }},
    {"gelu", Gelu, [](double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x))); }},
    {"affine", [](Tape& t, Var x) { return Affine(t, x, -1.5, 0.25); }, [](double x) { return -1.5 * x + 0.25; }},
};

}  // namespace

TEST(Unary, Gradients) {
  for (const UnaryCase& c : kCases) {
    const auto f = [&](Tape& t, std::span<const Var> v) { return c.op(t, v[0]); };
    for (const Shape& shape : {Shape{0, 3}, Shape{1}, Shape{3, 7}}) {
      EXPECT_TRUE(CheckGradients({RandomInput(shape, 1, std::max(c.low, -3.0), std::min(c.high, 3.0))}, f)) << c.name;
    }
  }
}

TEST(Unary, EqualsTheOracle) {
  for (const UnaryCase& c : kCases) {
    SCOPED_TRACE(c.name);
    for (const int64_t n : {0, 1, 7, 100}) {
      CheckParity(
          {RandomInput({n}, n + 1, c.low, c.high)}, [&](Tape& t, std::span<const Var> v) { return c.op(t, v[0]); },
          [&](const std::vector<Doubles>& in) {
            Doubles out;
            for (const double x : in[0]) out.push_back(c.oracle(x));
            return out;
          });
    }
  }
}

// The vector loop and its scalar tail must agree to the bit.
TEST(Unary, ElementsAreIndependent) {
  for (const UnaryCase& c : kCases) {
    SCOPED_TRACE(c.name);
    const auto f = [&](Tape& t, std::span<const Var> v) { return c.op(t, v[0]); };
    CheckRowsIndependent<float>({RandomInput({101, 1}, 5, c.low, c.high)}, f);
    CheckRowsIndependent<double>({RandomInput({101, 1}, 5, c.low, c.high)}, f);
  }
}

}  // namespace conclave
