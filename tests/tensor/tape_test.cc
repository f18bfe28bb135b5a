#include "tensor/tape.h"

#include <cmath>

#include <gtest/gtest.h>

#include "tensor/ops/ops.h"
#include "tests/tensor/gradient_check.h"

namespace conclave {
namespace {

const auto kIgnore = [](BlockId) { return absl::OkStatus(); };

// A parameter [1] in f64 with its own memory.
struct Scalar {
  explicit Scalar(double v) : value({1}, DType::kF64), gradient({1}, DType::kF64) { *value->data<double>() = v; }
  Var On(Tape& tape, int block) { return tape.Parameter({block}, *value, {.first = *gradient}); }
  double grad() const { return *gradient->data<double>(); }
  OwnedTensor value, gradient;
};

absl::Status BackwardFrom(Tape& tape, Var y, const Tape::OnFinal& on_final = kIgnore, double weight = 1) {
  const Seed seed{y, weight};
  return tape.Backward(std::span(&seed, 1), on_final);
}

}  // namespace

TEST(Tape, ChainOfOps) {
  EXPECT_TRUE(CheckGradients({RandomInput({3, 4}, 1), RandomInput({4}, 2, 0.5, 1)}, [](Tape& t, std::span<const Var> v) {
    const Var y = Mul(t, Tanh(t, v[0]), v[1]);
    return Add(t, Softmax(t, y), Div(t, Square(t, v[0]), v[1]));
  }));
}

TEST(Tape, SeedsAddUpWithTheirWeights) {
  Arena arena;
  Tape tape(&arena);
  Scalar x(3);
  const Var v = x.On(tape, 0), square = Square(tape, v), triple = Affine(tape, v, 3, 0);
  const Seed seeds[] = {{square, 2}, {triple, 0.5}, {square, 1}};
  ASSERT_TRUE(tape.Backward(seeds, kIgnore).ok());
  EXPECT_EQ(x.grad(), 3 * 6 + 0.5 * 3);
}

// Only the gradients around the running step take memory, however long the recording is.
TEST(Tape, GradientsThatWereReadMakeRoom) {
  constexpr int64_t kWidth = 1024;
  Arena arena;
  Tape tape(&arena);
  OwnedTensor value({kWidth}, DType::kF32), gradient({kWidth}, DType::kF32);
  value->Fill(0.5);
  Var y = tape.Parameter({0}, *value, {.first = *gradient});
  for (int i = 0; i < 40; ++i) y = Add(tape, Tanh(tape, y), Affine(tape, y, 0.5, 0.1));
  const Var sum = SumAll(tape, y);
  const int64_t recorded = arena.used_bytes();
  ASSERT_TRUE(BackwardFrom(tape, sum).ok());
  EXPECT_LE(arena.used_bytes() - recorded, 4 * kWidth * 4);
  // The same with one number: nothing was lost on the way.
  double x = 0.5, slope = 1;
  for (int i = 0; i < 40; ++i) {
    slope *= 1 - std::tanh(x) * std::tanh(x) + 0.5;
    x = std::tanh(x) + 0.5 * x + 0.1;
  }
  for (const float g : gradient->span<float>()) EXPECT_NEAR(g, slope, 1e-4 * slope);
}

// A block is final when the first op that used it has been walked: not earlier, not twice.
TEST(Tape, FinalWhenNothingCanBeAdded) {
  Arena arena;
  Tape tape(&arena);
  Scalar a(2), b(5), unused(1);
  const Var va = a.On(tape, 10), vb = b.On(tape, 11);
  unused.On(tape, 12);
  const Var y = Mul(tape, Square(tape, va), vb);  // a is used first and again below
  const Var z = Add(tape, y, va);
  std::vector<int> order;
  std::vector<double> at_final;
  ASSERT_TRUE(BackwardFrom(tape, z, [&](BlockId id) {
                order.push_back(id.value);
                at_final.push_back(id.value == 10 ? a.grad() : b.grad());
                return absl::OkStatus();
              }).ok());
  EXPECT_EQ(order, (std::vector<int>{11, 10, 12}));
  EXPECT_EQ(at_final[0], 4);              // d/db a^2 b
  EXPECT_EQ(at_final[1], 2 * 2 * 5 + 1);  // 2 a b + 1
  EXPECT_EQ(b.grad(), 4);
  EXPECT_EQ(unused.grad(), 0);
}

TEST(Tape, FrozenParametersAreNotReported) {
  Arena arena;
  Tape tape(&arena);
  Scalar a(2), frozen(5);
  const Var va = a.On(tape, 0), vf = tape.Parameter({1}, *frozen.value, {});
  EXPECT_FALSE(tape.wants_gradient(vf));
  std::vector<int> order;
  ASSERT_TRUE(BackwardFrom(tape, Mul(tape, va, vf), [&](BlockId id) {
                order.push_back(id.value);
                return absl::OkStatus();
              }).ok());
  EXPECT_EQ(order, std::vector<int>{0});
  EXPECT_EQ(a.grad(), 5);
}

TEST(Tape, OneParameterUsedByTwoViews) {
  Arena arena;
  Tape tape(&arena);
  OwnedTensor value({2, 2}, DType::kF64), gradient({2, 2}, DType::kF64);
  value->Fill(3);
  const Var p = tape.Parameter({0}, *value, {.first = *gradient});
  const Var first = SliceRows(tape, p, 0, 1), second = SliceRows(tape, p, 1, 1);
  int finals = 0;
  ASSERT_TRUE(BackwardFrom(tape, Dot(tape, first, second), [&](BlockId) { return ++finals, absl::OkStatus(); }).ok());
  EXPECT_EQ(finals, 1);
  for (const double g : gradient->span<double>()) EXPECT_EQ(g, 3);
}

TEST(Tape, LanesAreStridedSlots) {
  Arena arena;
  Tape tape(&arena);
  OwnedTensor value({3}, DType::kF32), gradients({2, 16}, DType::kF32);
  const Var p = tape.Parameter({0}, *value, {.first = Tensor(gradients->raw(), {3}, DType::kF32), .lanes = 2, .stride_bytes = 64});
  EXPECT_EQ(tape.lanes(p), 2);
  EXPECT_EQ(tape.gradient(p, 1).raw(), gradients->data<float>() + 16);
  EXPECT_EQ(tape.gradient(p).raw(), gradients->raw());
}

// A local step whose output got nothing is skipped; a collective one must run everywhere, so it runs anyway.
TEST(Tape, OnlyCollectiveStepsRunWithoutAGradient) {
  for (const auto kind : {Tape::StepKind::kLocal, Tape::StepKind::kCollective}) {
    Arena arena;
    Tape tape(&arena);
    Scalar x(1);
    const Var v = x.On(tape, 0), side = tape.Record(arena.NewZeroed({1}, DType::kF64), {v});
    int runs = 0;
    tape.OnBackward(
        side, [&runs](Tape&) { ++runs; }, kind);
    ASSERT_TRUE(BackwardFrom(tape, Square(tape, v)).ok());
    EXPECT_EQ(runs, kind == Tape::StepKind::kCollective ? 1 : 0);
  }
}

TEST(Tape, ErrorsOfStepsStopTheWalk) {
  Arena arena;
  Tape tape(&arena);
  Scalar x(1);
  const Var v = x.On(tape, 0), y = tape.Record(arena.NewZeroed({1}, DType::kF64), {v});
  tape.OnBackward(y, [](Tape&) { return Unavailable("peer %d is gone", 3); });
  int finals = 0;
  const absl::Status status = BackwardFrom(tape, y, [&](BlockId) { return ++finals, absl::OkStatus(); });
  EXPECT_EQ(status.message(), "peer 3 is gone");
  EXPECT_EQ(finals, 0);
}

TEST(Tape, WithoutGradientsNothingIsWanted) {
  Arena arena;
  Tape tape(&arena, false);
  Scalar x(3);
  const Var y = Square(tape, x.On(tape, 0));
  EXPECT_FALSE(tape.wants_gradient(y));
  EXPECT_EQ(*tape.value(y).data<double>(), 9);
  ASSERT_TRUE(BackwardFrom(tape, y).ok());
  EXPECT_EQ(x.grad(), 0);
}

TEST(Tape, ResetStartsAfresh) {
  Arena arena;
  Tape tape(&arena);
  Scalar x(3);
  for (int round = 1; round <= 3; ++round) {
    tape.Reset();
    arena.Reset();
    EXPECT_EQ(tape.nodes(), 0);
    ASSERT_TRUE(BackwardFrom(tape, Square(tape, x.On(tape, 0))).ok());
    EXPECT_EQ(x.grad(), 6 * round);  // slots accumulate until their owner clears them
  }
}

// A step may overwrite only what nothing has flowed into: not a parameter's memory, not a view's, not a second contribution.
TEST(Tape, GradientTargetSaysWhoAccumulates) {
  Arena arena;
  Tape tape(&arena);
  Scalar p(2);
  const Var parameter = p.On(tape, 0);
  EXPECT_TRUE(tape.gradient_target(parameter).accumulate);
  const Var y = Affine(tape, parameter, 3, 0);
  const Var view = Reshape(tape, y, {1, 1});
  const Var z = Affine(tape, parameter, 5, 0);
  EXPECT_TRUE(tape.gradient_target(view).accumulate);
  EXPECT_TRUE(tape.gradient_target(y).accumulate);  // its memory exists since the view asked for it
  const Tape::GradientTarget first = tape.gradient_target(z), second = tape.gradient_target(z);
  EXPECT_FALSE(first.accumulate);
  EXPECT_TRUE(second.accumulate);
  EXPECT_EQ(first.tensor.raw(), second.tensor.raw());
}

// A parameter whose memory nobody wrote yet: the first contribution may overwrite, and whoever adds finds zeros.
TEST(Tape, UnwrittenParameterMemory) {
  Arena arena;
  Tape tape(&arena);
  OwnedTensor value({2}, DType::kF64), gradient({2, 2}, DType::kF64);
  value->Fill(1);
  gradient->Fill(9);
  uint8_t written[2] = {0, 0};
  const GradientSlot slot{.first = gradient->Slice(0, 1).Flat(), .lanes = 2, .stride_bytes = 16, .written = written};
  const Var p = tape.Parameter(BlockId{0}, *value, slot);
  EXPECT_FALSE(tape.gradient_target(p).accumulate);
  EXPECT_TRUE(tape.gradient_target(p).accumulate);
  EXPECT_EQ(written[0], 1);
  EXPECT_EQ(tape.gradient(p).data<double>()[0], 9);  // the overwriting is its caller's
  EXPECT_EQ(written[1], 0);
  EXPECT_EQ(tape.gradient(p, 1).data<double>()[0], 0);
  EXPECT_TRUE(tape.gradient_target(p, 1).accumulate);
}

// x + f(x) hands its gradient on to x; later contributions to x still add up.
TEST(Tape, TakenGradientsAddUp) {
  Arena arena;
  Tape tape(&arena);
  Scalar p(3);
  const Var x = Affine(tape, p.On(tape, 0), 1, 0);
  const Var sum = Add(tape, x, Square(tape, x));            // x + x^2
  ASSERT_TRUE(BackwardFrom(tape, Add(tape, sum, x)).ok());  // 2 x + x^2
  EXPECT_EQ(p.grad(), 2 + 2 * 3);
  const Var parameter = p.On(tape, 1);
  EXPECT_FALSE(tape.TakeGradient(x, parameter));  // a parameter's memory is its own
}

}  // namespace conclave
