#include <gtest/gtest.h>

#include "tensor/ops/ops.h"
#include "tests/tensor/op_parity.h"

namespace conclave {
namespace {

OwnedTensor Ids(const Shape& shape, const std::vector<int32_t>& values) {
  OwnedTensor ids(shape, DType::kI32);
  std::copy(values.begin(), values.end(), ids->data<int32_t>());
  return ids;
}

// Row r of the first input, or zeros for -1.
Doubles Row(const std::vector<Doubles>& in, int32_t r, int64_t h) {
  if (r < 0) return Doubles(h, 0.0);
  return Doubles(in[0].begin() + r * h, in[0].begin() + (r + 1) * h);
}

}  // namespace

TEST(Rows, Embedding) {
  const std::vector<int32_t> ids{3, 0, 3, 4, 3};
  const OwnedTensor tensor = Ids({5}, ids);
  const auto f = [&](Tape& t, std::span<const Var> v) { return Embedding(t, v[0], *tensor); };
  EXPECT_TRUE(CheckGradients({RandomInput({5, 7}, 1)}, f));
  CheckParity({RandomInput({5, 7}, 1)}, f, [&](const std::vector<Doubles>& in) {
    Doubles out;
    for (const int32_t id : ids) std::ranges::copy(Row(in, id, 7), std::back_inserter(out));
    return out;
  });
  const OwnedTensor none = Ids({0}, {});
  EXPECT_TRUE(CheckGradients({RandomInput({5, 7}, 1)}, [&](Tape& t, std::span<const Var> v) { return Embedding(t, v[0], *none); }));
}

TEST(Rows, GatherWithHoles) {
  const std::vector<int32_t> rows{2, -1, 0, 2, 1, -1, 2};
  const OwnedTensor tensor = Ids({7}, rows);
  const auto f = [&](Tape& t, std::span<const Var> v) { return GatherRows(t, v[0], *tensor); };
  EXPECT_TRUE(CheckGradients({RandomInput({3, 5}, 1)}, f));
  CheckParity({RandomInput({3, 5}, 1)}, f, [&](const std::vector<Doubles>& in) {
    Doubles out;
    for (const int32_t r : rows) std::ranges::copy(Row(in, r, 5), std::back_inserter(out));
    return out;
  });
}

TEST(Rows, ScatterAdd) {
  const std::vector<int32_t> rows{2, -1, 0, 2, 2};
  const OwnedTensor tensor = Ids({5}, rows);
  const auto f = [&](Tape& t, std::span<const Var> v) { return ScatterAddRows(t, v[0], *tensor, 4); };
  EXPECT_TRUE(CheckGradients({RandomInput({5, 7}, 1)}, f));
  CheckParity({RandomInput({5, 7}, 1)}, f, [&](const std::vector<Doubles>& in) {
    Doubles out(28, 0.0);
    for (int i = 0; i < 5; ++i) {
      for (int j = 0; j < 7 && rows[i] >= 0; ++j) out[rows[i] * 7 + j] += in[0][i * 7 + j];
    }
    return out;
  });
}

// In f32, 1e8 + 1 - 1e8 is 0 and 1e8 - 1e8 + 1 is 1: the order is that of the rows.
TEST(Rows, ScatterAddsInOrder) {
  const OwnedTensor rows = Ids({3}, {0, 0, 0});
  const auto f = [&](Tape& t, std::span<const Var> v) { return ScatterAddRows(t, v[0], *rows, 1); };
  EXPECT_EQ(RunOp<float>({{.shape = {3, 1}, .values = {1e8, 1, -1e8}}}, f).value, Doubles{0});
  EXPECT_EQ(RunOp<float>({{.shape = {3, 1}, .values = {1e8, -1e8, 1}}}, f).value, Doubles{1});
}

// A permutation and its inverse are the identity, forward and backward.
TEST(Rows, UnpermuteAfterPermuteIsTheIdentity) {
  const std::vector<int32_t> order{4, 2, 0, 5, 1, 3};
  std::vector<int32_t> inverse(6);
  for (int i = 0; i < 6; ++i) inverse[order[i]] = i;
  const OwnedTensor forth = Ids({6}, order), back = Ids({6}, inverse);
  const GradientInput x = RandomInput({6, 3}, 1);
  const auto there_and_back = [&](Tape& t, std::span<const Var> v) { return GatherRows(t, GatherRows(t, v[0], *forth), *back); };
  const auto identity = [](Tape& t, std::span<const Var> v) { return Reshape(t, v[0], {6, 3}); };
  const OpResult a = RunOp<float>({x}, there_and_back), b = RunOp<float>({x}, identity);
  EXPECT_EQ(a.value, b.value);
  EXPECT_EQ(a.gradients, b.gradients);
  // Scattering along `order` undoes gathering along it.
  const OpResult c =
      RunOp<float>({x}, [&](Tape& t, std::span<const Var> v) { return ScatterAddRows(t, GatherRows(t, v[0], *forth), *forth, 6); });
  EXPECT_EQ(c.value, b.value);
}

TEST(Columns, Gather) {
  const std::vector<int32_t> ids{4, 0, 4, 4, 1, 2};
  const OwnedTensor tensor = Ids({3, 2}, ids);
  const auto f = [&](Tape& t, std::span<const Var> v) { return GatherColumns(t, v[0], *tensor); };
  EXPECT_TRUE(CheckGradients({RandomInput({3, 5}, 1)}, f));
  CheckParity({RandomInput({3, 5}, 1)}, f, [&](const std::vector<Doubles>& in) {
    Doubles out;
    for (int i = 0; i < 6; ++i) out.push_back(in[0][i / 2 * 5 + ids[i]]);
    return out;
  });
}

TEST(Columns, ConcatAndSlice) {
  const auto concat = [](Tape& t, std::span<const Var> v) { return ConcatColumns(t, v); };
  EXPECT_TRUE(CheckGradients({RandomInput({3, 2}, 1), RandomInput({3, 7}, 2), RandomInput({3, 1}, 3)}, concat));
  EXPECT_TRUE(CheckGradients({RandomInput({0, 2}, 1), RandomInput({0, 7}, 2)}, concat));
  CheckParity({RandomInput({3, 2}, 1), RandomInput({3, 4}, 2)}, concat, [](const std::vector<Doubles>& in) {
    Doubles out;
    for (int i = 0; i < 3; ++i) {
      out.insert(out.end(), &in[0][i * 2], &in[0][i * 2] + 2);
      out.insert(out.end(), &in[1][i * 4], &in[1][i * 4] + 4);
    }
    return out;
  });
  const auto slice = [](Tape& t, std::span<const Var> v) { return SliceColumns(t, v[0], 2, 3); };
  EXPECT_TRUE(CheckGradients({RandomInput({3, 7}, 1)}, slice));
  CheckParity({RandomInput({3, 7}, 1)}, slice, [](const std::vector<Doubles>& in) {
    Doubles out;
    for (int i = 0; i < 3; ++i) out.insert(out.end(), &in[0][i * 7 + 2], &in[0][i * 7 + 5]);
    return out;
  });
  EXPECT_TRUE(CheckGradients({RandomInput({3, 7}, 1)}, [](Tape& t, std::span<const Var> v) { return SliceColumns(t, v[0], 7, 0); }));
}

// Slices of one variable that overlap add up, in views and in copies.
TEST(Shapes, ViewsShareTheGradient) {
  EXPECT_TRUE(CheckGradients({RandomInput({6, 4}, 1)}, [](Tape& t, std::span<const Var> v) {
    const Var top = SliceRows(t, v[0], 0, 4), middle = SliceRows(t, Reshape(t, v[0], {6, 2, 2}), 2, 4);
    return Mul(t, Square(t, top), Reshape(t, middle, {4, 4}));
  }));
}

}  // namespace conclave
