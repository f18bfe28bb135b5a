#include <gtest/gtest.h>

#include "tensor/ops/ops.h"
#include "tests/tensor/op_parity.h"

namespace conclave {
namespace {

constexpr double kEpsilon = 1e-3;

Var Layer(Tape& t, std::span<const Var> v) { return LayerNorm(t, v[0], v[1], v[2], kEpsilon); }
Var LayerWithoutBias(Tape& t, std::span<const Var> v) { return LayerNorm(t, v[0], v[1], {}, kEpsilon); }
Var Rms(Tape& t, std::span<const Var> v) { return RmsNorm(t, v[0], v[1], kEpsilon); }

// (x - mean) / sqrt(var + eps) gain + bias; without mean and bias for RMS.
Doubles NormOracle(const std::vector<Doubles>& in, bool center) {
  const size_t h = in[1].size();
  Doubles out;
  for (size_t i = 0; i * h < in[0].size(); ++i) {
    double mean = 0, variance = 0;
    for (size_t j = 0; j < h && center; ++j) mean += in[0][i * h + j] / h;
    for (size_t j = 0; j < h; ++j) variance += (in[0][i * h + j] - mean) * (in[0][i * h + j] - mean) / h;
    for (size_t j = 0; j < h; ++j) {
      out.push_back((in[0][i * h + j] - mean) / std::sqrt(variance + kEpsilon) * in[1][j] + (in.size() > 2 ? in[2][j] : 0));
    }
  }
  return out;
}

}  // namespace

TEST(Norm, Gradients) {
  for (const int64_t n : {0, 1, 3}) {
    for (const int64_t h : {1, 7, 35}) {
      SCOPED_TRACE(h);
      const GradientInput x = RandomInput({n, h}, 1), gain = RandomInput({h}, 2), bias = RandomInput({h}, 3);
      const GradientCheckOptions loose{.tolerance = 1e-6};  // a row of one element is a step of width sqrt(epsilon)
      EXPECT_TRUE(CheckGradients({x, gain, bias}, Layer, loose));
      EXPECT_TRUE(CheckGradients({x, gain}, LayerWithoutBias, loose));
      EXPECT_TRUE(CheckGradients({x, gain}, Rms, loose));
    }
  }
}

TEST(Norm, EqualsTheOracle) {
  for (const int64_t n : {0, 1, 7}) {
    for (const int64_t h : {1, 7, 100}) {
      const GradientInput x = RandomInput({n, h}, 1, -1, 3), gain = RandomInput({h}, 2), bias = RandomInput({h}, 3);
      SCOPED_TRACE(x.shape.ToString());
      const double tolerance =
          h == 1 ? 2e-5 : 4e-6;  // one element: the mean is the element, what is left is rounding times 1/sqrt(epsilon)
      CheckParity(
          {x, gain, bias}, Layer, [](const std::vector<Doubles>& in) { return NormOracle(in, true); }, tolerance);
      CheckParity(
          {x, gain}, LayerWithoutBias, [](const std::vector<Doubles>& in) { return NormOracle(in, true); }, tolerance);
      CheckParity(
          {x, gain}, Rms, [](const std::vector<Doubles>& in) { return NormOracle(in, false); }, tolerance);
    }
  }
}

TEST(Norm, RowsAreIndependent) {
  const std::vector<GradientInput> inputs{RandomInput({9, 35}, 1), RandomInput({35}, 2), RandomInput({35}, 3)};
  CheckRowsIndependent<float>(inputs, Layer);
  CheckRowsIndependent<double>(inputs, Layer);
  CheckRowsIndependent<float>({inputs[0], inputs[1]}, Rms);
}

}  // namespace conclave
