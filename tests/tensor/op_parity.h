// Parity of an op with a naive oracle, in f64 and f32, and of its f32 gradients with the f64 ones (which CheckGradients checks).
#ifndef CONCLAVE_TESTS_TENSOR_OP_PARITY_H_
#define CONCLAVE_TESTS_TENSOR_OP_PARITY_H_

#include <algorithm>
#include <cmath>
#include <functional>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include "tests/tensor/gradient_check.h"

namespace conclave {

using Doubles = std::vector<double>;
// Values of the inputs in, values of the output out.
using Oracle = std::function<Doubles(const std::vector<Doubles>&)>;

struct OpResult {
  Doubles value;
  std::vector<Doubles> gradients;
};

// Elements of an f32 or f64 tensor as double.
inline Doubles ValuesOf(const Tensor& x) {
  return DispatchFloat(x.dtype(), [&](auto t) {
    const auto values = x.span<decltype(t)>();
    return Doubles(values.begin(), values.end());
  });
}

// Runs the op on inputs of type T; the output cotangent of element i is cos(i).
template <typename T>
OpResult RunOp(const std::vector<GradientInput>& inputs, const GradientFunction& f) {
  Arena arena;
  Tape tape(&arena);
  std::vector<OwnedTensor> slots;
  std::vector<Var> vars;
  for (const GradientInput& input : inputs) {
    const Tensor value = arena.New(input.shape, DTypeOf<T>());
    std::ranges::transform(input.values, value.data<T>(), [](double v) { return static_cast<T>(v); });
    slots.emplace_back(input.shape, DTypeOf<T>());
    vars.push_back(tape.Parameter({static_cast<int>(vars.size())}, value, {.first = *slots.back()}));
  }
  const Var y = f(tape, vars);
  const Tensor out = tape.value(y), sum = arena.NewZeroed({1}, DType::kF64);
  const Var loss = tape.Record(sum, {y});
  tape.OnBackward(loss, [y](Tape& t) {
    const Tensor dy = t.gradient(y);
    DispatchFloat(dy.dtype(), [&](auto u) {
      using U = decltype(u);
      for (int64_t i = 0; i < dy.elements(); ++i) dy.data<U>()[i] += static_cast<U>(std::cos(static_cast<double>(i)));
    });
  });
  const Seed seed{.var = loss};
  EXPECT_TRUE(tape.Backward(std::span(&seed, 1), [](BlockId) { return absl::OkStatus(); }).ok());
  OpResult result{ValuesOf(out), {}};
  for (const OwnedTensor& slot : slots) result.gradients.push_back(ValuesOf(*slot));
  return result;
}

// |got - want| <= tolerance * max(1, |want|) everywhere; NaN equals NaN.
inline ::testing::AssertionResult Near(const Doubles& got, const Doubles& want, double tolerance) {
  if (got.size() != want.size()) return ::testing::AssertionFailure() << got.size() << " elements, expected " << want.size();
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(got[i]) && std::isnan(want[i])) continue;
    if (got[i] == want[i] || std::abs(got[i] - want[i]) <= tolerance * std::max(1.0, std::abs(want[i]))) continue;
    return ::testing::AssertionFailure() << "element " << i << ": " << got[i] << ", expected " << want[i] << ", tolerance " << tolerance;
  }
  return ::testing::AssertionSuccess();
}

inline void CheckParity(std::vector<GradientInput> inputs, const GradientFunction& f, const Oracle& oracle, double f32_tolerance = 2e-6) {
  std::vector<Doubles> values;
  for (GradientInput& input : inputs) {
    for (double& v : input.values) v = static_cast<float>(v);
    values.push_back(input.values);
  }
  const Doubles want = oracle(values);
  const OpResult f64 = RunOp<double>(inputs, f), f32 = RunOp<float>(inputs, f);
  EXPECT_TRUE(Near(f64.value, want, 1e-12)) << "f64";
  EXPECT_TRUE(Near(f32.value, want, f32_tolerance)) << "f32";
  for (size_t k = 0; k < inputs.size(); ++k)
    EXPECT_TRUE(Near(f32.gradients[k], f64.gradients[k], 4 * f32_tolerance)) << "gradient of input " << k;
}

// Row i of the result depends on row i of the first input alone, bit for bit: rows in reverse order, and each row by itself, give the same
// rows.
template <typename T>
void CheckRowsIndependent(const std::vector<GradientInput>& inputs, const GradientFunction& f) {
  const int64_t n = inputs[0].shape[0], h = inputs[0].shape.elements() / n;
  const OpResult whole = RunOp<T>(inputs, f);
  const int64_t width = static_cast<int64_t>(whole.value.size()) / n;
  std::vector<GradientInput> reversed = inputs, single = inputs;
  for (int64_t i = 0; i < n; ++i) std::copy_n(&inputs[0].values[i * h], h, &reversed[0].values[(n - 1 - i) * h]);
  const OpResult backwards = RunOp<T>(reversed, f);
  std::vector<int64_t> dims{1};
  for (int d = 1; d < inputs[0].shape.dims(); ++d) dims.push_back(inputs[0].shape[d]);
  single[0].shape = Shape(std::span<const int64_t>(dims));
  for (int64_t i = 0; i < n; ++i) {
    single[0].values.assign(&inputs[0].values[i * h], &inputs[0].values[i * h] + h);
    const OpResult alone = RunOp<T>(single, f);
    for (int64_t j = 0; j < width; ++j) {
      ASSERT_EQ(whole.value[i * width + j], backwards.value[(n - 1 - i) * width + j]) << "row " << i << " column " << j;
      ASSERT_EQ(whole.value[i * width + j], alone.value[j]) << "row " << i << " column " << j;
    }
  }
}

}  // namespace conclave

#endif  // CONCLAVE_TESTS_TENSOR_OP_PARITY_H_
