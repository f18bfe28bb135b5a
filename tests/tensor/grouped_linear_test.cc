#include <array>

#include "tensor/ops/ops.h"
#include "tensor/products.h"
#include "tests/tensor/gradient_check.h"
#include "tests/tensor/naive_oracle.h"

namespace conclave {
namespace {

constexpr auto kDone = [](BlockId) { return absl::OkStatus(); };

TEST(GroupedLinear, Gradients) {
  static constexpr std::array<int64_t, 6> kRows = {2, 1, 0, 0, 3, 2};  // 3 experts by 2 lanes, the second without tokens
  const RowGroups groups{.rows = kRows, .experts = 3, .lanes = 2};
  std::vector<GradientInput> inputs = {RandomInput({8, 3}, 1)};
  for (int e = 0; e < 3; ++e) inputs.push_back(RandomInput({4, 3}, 2 + e));
  EXPECT_TRUE(CheckGradients(inputs, [&](Tape& t, std::span<const Var> v) { return GroupedLinear(t, v[0], v.subspan(1, 3), {}, groups); }));
  for (int e = 0; e < 3; ++e) inputs.push_back(RandomInput({4}, 5 + e));
  EXPECT_TRUE(CheckGradients(
      inputs, [&](Tape& t, std::span<const Var> v) { return GroupedLinear(t, v[0], v.subspan(1, 3), v.subspan(4, 3), groups); }));
}

TEST(GroupedLinear, NoTokensAtAll) {
  static constexpr std::array<int64_t, 2> kRows = {0, 0};
  EXPECT_TRUE(CheckGradients({RandomInput({0, 3}, 1), RandomInput({2, 3}, 2), RandomInput({2, 3}, 3)}, [](Tape& t, std::span<const Var> v) {
    return GroupedLinear(t, v[0], v.subspan(1), {}, {.rows = kRows, .experts = 2});
  }));
}

// One expert is a linear layer, bit for bit, forward and backward.
TEST(GroupedLinear, OneExpertEqualsLinear) {
  static constexpr std::array<int64_t, 1> kRows = {77};
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    const OwnedTensor x = RandomTensor({77, 24}, dtype, 1), w = RandomTensor({40, 24}, dtype, 2), bias = RandomTensor({40}, dtype, 3);
    std::vector<OwnedTensor> results;
    for (const bool grouped : {false, true}) {
      Arena arena;
      Tape tape(&arena);
      OwnedTensor y({77, 40}, dtype), dx({77, 24}, dtype), dw({40, 24}, dtype), db({40}, dtype);
      const Var vx = tape.Parameter({0}, *x, {.first = *dx}), vw = tape.Parameter({1}, *w, {.first = *dw});
      const Var vb = tape.Parameter({2}, *bias, {.first = *db});
      const Var out =
          grouped ? GroupedLinear(tape, vx, std::span(&vw, 1), std::span(&vb, 1), {.rows = kRows, .experts = 1}) : Linear(tape, vx, vw, vb);
      const Seed seed{.var = SumAll(tape, Mul(tape, out, out))};
      ASSERT_TRUE(tape.Backward(std::span(&seed, 1), kDone).ok());
      y->CopyFrom(tape.value(out));
      for (OwnedTensor* t : {&y, &dx, &dw, &db}) results.push_back(std::move(*t));
    }
    for (int i = 0; i < 4; ++i) EXPECT_TRUE(SameBits(*results[i], *results[4 + i])) << NameOf(dtype) << " result " << i;
  }
}

// Lane l of a laned gradient slot holds the product of lane l's rows alone: the bits it would have without the other lanes.
TEST(GroupedLinear, LanesAreSeparateProducts) {
  constexpr int kExperts = 2, kLanes = 3;
  constexpr int64_t kIn = 20, kOut = 36, kRowCount = 97;
  static constexpr std::array<int64_t, kExperts* kLanes> kRows = {5, 0, 40, 1, 33, 18};
  const OwnedTensor x = RandomTensor({kRowCount, kIn}, DType::kF32, 1);
  std::vector<OwnedTensor> w, dw, db;
  OwnedTensor bias = RandomTensor({kOut}, DType::kF32, 9);
  Arena arena;
  Tape tape(&arena);
  std::vector<Var> vw, vb;
  for (int e = 0; e < kExperts; ++e) {
    w.push_back(RandomTensor({kOut, kIn}, DType::kF32, 2 + e));
    dw.push_back(RandomTensor({kLanes, kOut, kIn}, DType::kF32, 20 + e));
    db.push_back(RandomTensor({kLanes, kOut}, DType::kF32, 30 + e));
  }
  const auto slot = [](const OwnedTensor& lanes, const Shape& shape) {
    return GradientSlot{.first = lanes->Slice(0, 1).Reshape(shape), .lanes = kLanes, .stride_bytes = lanes->bytes() / kLanes};
  };
  for (int e = 0; e < kExperts; ++e) {
    vw.push_back(tape.Parameter({e}, *w[e], slot(dw[e], {kOut, kIn})));
    vb.push_back(tape.Parameter({kExperts + e}, *bias, slot(db[e], {kOut})));
  }
  const Var y = GroupedLinear(tape, tape.Constant(*x), vw, vb, {.rows = kRows, .experts = kExperts, .lanes = kLanes});
  const Seed seed{.var = SumAll(tape, Mul(tape, y, y)), .weight = 0.5};  // dy = y
  ASSERT_TRUE(tape.Backward(std::span(&seed, 1), kDone).ok());

  int64_t row = 0;
  for (int e = 0; e < kExperts; ++e) {
    const OwnedTensor want_w = RandomTensor({kLanes, kOut, kIn}, DType::kF32, 20 + e);
    std::vector<double> want_b = Values(*RandomTensor({kLanes, kOut}, DType::kF32, 30 + e));
    for (int l = 0; l < kLanes; ++l) {
      const int64_t rows = kRows[e * kLanes + l];
      const Tensor dy = tape.value(y).Slice(row, rows);
      ProductTN(dy, x->Slice(row, rows), want_w->Slice(l, 1).Reshape({kOut, kIn}), {.accumulate = true});
      for (int64_t i = 0; i < rows * kOut; ++i) want_b[l * kOut + i % kOut] += dy.data<float>()[i];
      row += rows;
    }
    EXPECT_TRUE(SameBits(*dw[e], *want_w)) << "expert " << e;
    EXPECT_TRUE(Near(*db[e], want_b, 1e-5)) << "expert " << e;
  }
}

}  // namespace
}  // namespace conclave
