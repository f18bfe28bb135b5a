#include "models/modules/perturbation.h"

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include "tests/models/one_leaf.h"

namespace conclave {
namespace {

Perturbation MakePerturbation(const std::string& text, int64_t width, bool ranged) {
  const ModelConfig config = ParseModelConfig("robust_mlp { perturbation { " + text + " } }");
  Perturbation::Options options{.width = width};
  if (ranged) options.range = std::pair(0.0, 1.0);
  return Perturbation(config.robust_mlp().perturbation(), options);
}

// Features in [0, 1], some of them at its ends.
BatchBuffer Pixels(int64_t rows, int64_t width, int64_t first_row) {
  BatchBuffer buffer({SampleShape::Kind::kLabelled, width}, rows, DType::kF64);
  Batch& batch = buffer.Resize(rows);
  batch.first_row = first_row;
  for (int64_t i = 0; i < rows * width; ++i) {
    const double u = RngKey{.seed = 4}.UniformDouble(static_cast<uint64_t>(first_row * width + i));
    batch.features.data<double>()[i] = std::clamp(1.5 * u - 0.25, 0.0, 1.0);
  }
  return buffer;
}

double NormOf(const Tensor& rows, int64_t row) {
  double squares = 0;
  for (const double v : rows.Slice(row, 1).span<double>()) squares += v * v;
  return std::sqrt(squares);
}

void ExpectInside(const Batch& batch, const Tensor& values, double radius, bool euclid, bool ranged) {
  for (int64_t row = 0; row < batch.sequences; ++row) {
    EXPECT_LE(euclid ? NormOf(values, row) : 0.0, radius * (1 + 1e-12));
    for (int64_t j = 0; j < values.dim(1); ++j) {
      const double v = values.data<double>()[row * values.dim(1) + j], x = batch.features.data<double>()[row * values.dim(1) + j];
      EXPECT_LE(std::abs(v), radius * (1 + 1e-12));
      if (!ranged) continue;
      EXPECT_GE(x + v, -1e-15);
      EXPECT_LE(x + v, 1 + 1e-15);
    }
  }
}

TEST(Perturbation, StaysInItsBallAndRange) {
  for (const char* norm : {"LINF", "L2"}) {
    for (const bool ranged : {false, true}) {
      SCOPED_TRACE(norm);
      const bool euclid = norm[1] == '2';
      const Perturbation perturbation = MakePerturbation(absl::StrFormat("norm: %s radius: 0.3 step: 0.2", norm), 7, ranged);
      const BatchBuffer buffer = Pixels(5, 7, 0);
      OwnedTensor values({5, 7}, DType::kF64), along({5, 7}, DType::kF64);
      perturbation.Start(buffer.batch(), {.seed = 2}, *values);
      ExpectInside(buffer.batch(), *values, 0.3, euclid, ranged);
      for (uint64_t move = 0; move < 6; ++move) {
        for (int64_t i = 0; i < 35; ++i) along->data<double>()[i] = RngKey{.seed = 9}.Normal(35 * move + static_cast<uint64_t>(i));
        perturbation.Move(buffer.batch(), *along, *values);
        ExpectInside(buffer.batch(), *values, 0.3, euclid, ranged);
      }
    }
  }
}

// A sample's start is its own, wherever a batch is cut.
TEST(Perturbation, StartsAreAddressedBySample) {
  const Perturbation perturbation = MakePerturbation("radius: 0.3 start: 0.5", 300, true);
  const BatchBuffer all = Pixels(6, 300, 0), some = Pixels(2, 300, 3);
  OwnedTensor of_all({6, 300}, DType::kF64), of_some({2, 300}, DType::kF64);
  perturbation.Start(all.batch(), {.seed = 2}, *of_all);
  perturbation.Start(some.batch(), {.seed = 2}, *of_some);
  double largest = 0;
  for (int64_t i = 0; i < 600; ++i) {
    EXPECT_EQ(of_some->data<double>()[i], of_all->data<double>()[900 + i]);
    largest = std::max(largest, std::abs(of_some->data<double>()[i]));
  }
  EXPECT_LE(largest, 0.15);
  EXPECT_GT(largest, 0.14);
}

// Along a direction that stays, the walk ends where the ball touches it: at a corner of the cube, at the direction's end of the sphere.
TEST(Perturbation, WalksToTheEndOfItsBall) {
  const std::vector<double> along = {3, -0.1, 0, 1};
  const double length = std::sqrt(9 + 0.01 + 1);
  for (const bool euclid : {false, true}) {
    const Perturbation perturbation = MakePerturbation(euclid ? "norm: L2 radius: 0.2 step: 0.15" : "radius: 0.2 step: 0.15", 4, false);
    BatchBuffer buffer({SampleShape::Kind::kTokens, 1}, 1, DType::kF64);
    OwnedTensor values({1, 4}, DType::kF64), way({1, 4}, DType::kF64);
    values->Zero();
    std::ranges::copy(along, way->data<double>());
    for (int move = 0; move < 30; ++move) perturbation.Move(buffer.batch(), *way, *values);
    for (size_t j = 0; j < 4; ++j) {
      const double corner = along[j] > 0 ? 0.2 : along[j] < 0 ? -0.2 : 0;
      EXPECT_NEAR(values->data<double>()[j], euclid ? 0.2 * along[j] / length : corner, 1e-12) << j;
    }
  }
}

}  // namespace
}  // namespace conclave
