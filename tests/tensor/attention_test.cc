#include "tensor/ops/ops.h"
#include "tensor/product_tally.h"
#include "tests/tensor/gradient_check.h"
#include "tests/tensor/naive_oracle.h"

namespace conclave {
namespace {

struct Case {
  int64_t sequences, length;
  int heads, kv_heads;
  int64_t head_dim;
  AttentionOptions options() const { return {.sequences = sequences, .heads = heads, .kv_heads = kv_heads}; }
  int64_t row() const { return (heads + 2 * kv_heads) * head_dim; }
};

// out and, for d_out = 2 * out, the gradient of qkv, from full probability matrices.
struct Naive {
  std::vector<double> out, d_qkv;
};

// One head of one sequence: `qkv` and `d_qkv` start at the sequence's first row.
void NaiveHead(const Case& c, int head, const double* qkv, double* out, double* d_qkv) {
  const int64_t length = c.length, dim = c.head_dim, row = c.row(), kv = int64_t{head} * c.kv_heads / c.heads, width = c.heads * dim;
  const int64_t q = head * dim, k = (c.heads + kv) * dim, v = (c.heads + c.kv_heads + kv) * dim;
  const double scale = 1 / std::sqrt(static_cast<double>(dim));
  for (int64_t i = 0; i < length; ++i) {
    std::vector<double> p(i + 1), dp(i + 1);
    double sum = 0, dot = 0;
    for (int64_t j = 0; j <= i; ++j) {
      for (int64_t d = 0; d < dim; ++d) p[j] += scale * qkv[i * row + q + d] * qkv[j * row + k + d];
      sum += p[j] = std::exp(p[j]);
    }
    double* y = out + i * width + head * dim;
    for (int64_t j = 0; j <= i; ++j) {
      p[j] /= sum;
      for (int64_t d = 0; d < dim; ++d) y[d] += p[j] * qkv[j * row + v + d];
    }
    for (int64_t j = 0; j <= i; ++j) {
      for (int64_t d = 0; d < dim; ++d) dp[j] += 2 * y[d] * qkv[j * row + v + d];
      dot += p[j] * dp[j];
    }
    for (int64_t j = 0; j <= i; ++j) {
      const double ds = scale * p[j] * (dp[j] - dot);
      for (int64_t d = 0; d < dim; ++d) {
        d_qkv[j * row + v + d] += p[j] * 2 * y[d];
        d_qkv[i * row + q + d] += ds * qkv[j * row + k + d];
        d_qkv[j * row + k + d] += ds * qkv[i * row + q + d];
      }
    }
  }
}

Naive NaiveAttention(const Case& c, const std::vector<double>& qkv) {
  const int64_t width = c.heads * c.head_dim;
  Naive naive{std::vector<double>(c.sequences * c.length * width), std::vector<double>(qkv.size())};
  for (int64_t s = 0; s < c.sequences; ++s) {
    const int64_t first = s * c.length;
    for (int h = 0; h < c.heads; ++h) NaiveHead(c, h, &qkv[first * c.row()], &naive.out[first * width], &naive.d_qkv[first * c.row()]);
  }
  return naive;
}

// The op: out, and d_qkv += the gradient for d_out = 2 * out.
OwnedTensor Attend(const Case& c, const Tensor& qkv, const Tensor& d_qkv) {
  Arena arena;
  Tape tape(&arena);
  const Var y = CausalAttention(tape, tape.Parameter({0}, qkv, {.first = d_qkv}), c.options());
  const Seed seed{.var = SumAll(tape, Mul(tape, y, y))};
  EXPECT_TRUE(tape.Backward(std::span(&seed, 1), [](BlockId) { return absl::OkStatus(); }).ok());
  OwnedTensor out(tape.value(y).shape(), qkv.dtype());
  out->CopyFrom(tape.value(y));
  return out;
}

TEST(CausalAttention, Gradients) {
  for (const Case& c : {Case{2, 5, 2, 2, 3}, Case{1, 1, 1, 1, 1}, Case{1, 4, 4, 2, 2}, Case{1, 3, 3, 1, 2}}) {
    EXPECT_TRUE(CheckGradients({RandomInput({c.sequences * c.length, c.row()}, 1, -2, 2)},
                               [&](Tape& t, std::span<const Var> v) { return CausalAttention(t, v[0], c.options()); }));
  }
  EXPECT_TRUE(CheckGradients({RandomInput({0, 6}, 1)}, [](Tape& t, std::span<const Var> v) { return CausalAttention(t, v[0], {}); }));
}

TEST(CausalAttention, AgreesWithFullMatrices) {
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    for (const Case& c :
         {Case{2, 64, 2, 2, 16}, Case{1, 65, 2, 1, 32}, Case{2, 150, 3, 2, 40}, Case{1, 200, 1, 1, 128}, Case{3, 7, 1, 1, 5}}) {
      const OwnedTensor qkv = RandomTensor({c.sequences * c.length, c.row()}, dtype, 1), d_qkv = RandomTensor(qkv->shape(), dtype, 2);
      const Naive naive = NaiveAttention(c, Values(*qkv));
      const std::vector<double> before = Values(*d_qkv);
      const OwnedTensor out = Attend(c, *qkv, *d_qkv);
      const double tolerance = dtype == DType::kF32 ? 1e-5 : 1e-13;
      EXPECT_TRUE(Near(*out, naive.out, tolerance)) << NameOf(dtype) << " length " << c.length;
      EXPECT_TRUE(Near(*d_qkv, Plus(before, naive.d_qkv), tolerance)) << NameOf(dtype) << " length " << c.length;
    }
  }
}

// Scores of size 1,000: one key takes all, nothing overflows.
TEST(CausalAttention, LargeScores) {
  const Case c{1, 100, 1, 1, 16};
  const OwnedTensor qkv = RandomTensor({c.length, c.row()}, DType::kF64, 1), qkv32({c.length, c.row()}, DType::kF32);
  for (int64_t i = 0; i < qkv->elements(); ++i) {
    qkv->data<double>()[i] = static_cast<float>(qkv->data<double>()[i] * (i % c.row() < 2 * c.head_dim ? 20 : 1));
    qkv32->data<float>()[i] = static_cast<float>(qkv->data<double>()[i]);
  }
  const Naive naive = NaiveAttention(c, Values(*qkv));
  const OwnedTensor d64({c.length, c.row()}, DType::kF64), d32({c.length, c.row()}, DType::kF32);
  EXPECT_TRUE(Near(*Attend(c, *qkv, *d64), naive.out, 1e-10));
  EXPECT_TRUE(Near(*Attend(c, *qkv32, *d32), naive.out, 3e-3));  // f32 scores of 1,000 are good to 1e-4, which exp magnifies
  EXPECT_TRUE(Near(*d64, naive.d_qkv, 1e-9));
}

// A sequence's bits do not depend on the other sequences; a position's output not on what comes after it.
TEST(CausalAttention, SequencesAndPrefixesStandAlone) {
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    const Case c{3, 100, 2, 1, 24};
    const OwnedTensor qkv = RandomTensor({c.sequences * c.length, c.row()}, dtype, 1), d_qkv(qkv->shape(), dtype);
    const OwnedTensor out = Attend(c, *qkv, *d_qkv);
    for (int64_t s = 0; s < c.sequences; ++s) {
      const Case one{1, c.length, c.heads, c.kv_heads, c.head_dim};
      const OwnedTensor d_one({c.length, c.row()}, dtype);
      EXPECT_TRUE(SameBits(*Attend(one, qkv->Slice(s * c.length, c.length), *d_one), out->Slice(s * c.length, c.length)));
      EXPECT_TRUE(SameBits(*d_one, d_qkv->Slice(s * c.length, c.length)));
    }
    for (const int64_t length : {1, 8, 31, 63, 64, 65, 99}) {
      const OwnedTensor d_prefix({length, c.row()}, dtype);
      EXPECT_TRUE(SameBits(*Attend({1, length, c.heads, c.kv_heads, c.head_dim}, qkv->Slice(0, length), *d_prefix), out->Slice(0, length)))
          << "length " << length;
    }
  }
}

// 128 positions see 129 / 2 on average: per head, as many rows of tiles of 64 keys as have those pairs, in two kinds forward and three
// backward. Products of the loss around it are none.
TEST(CausalAttention, ItsProductsAreTallied) {
  const Case c{3, 128, 4, 2, 16};
  const OwnedTensor qkv = RandomTensor({c.sequences * c.length, c.row()}, DType::kF32, 1), d_qkv(qkv->shape(), DType::kF32);
  ProductTally tally;
  Attend(c, *qkv, *d_qkv);
  constexpr int64_t kRows = 3 * 4 * (128 * 129 / 2) / 64;
  EXPECT_EQ(tally.totals().size(), 3u);
  for (const ProductKind kind : {ProductKind::kNT, ProductKind::kNN, ProductKind::kTN}) {
    const ProductTally::Total& total = tally.totals().at({kind, 16, 64});
    EXPECT_EQ(total.rows, 2 * kRows);
    EXPECT_EQ(total.calls, 2 * (kRows / 64));
    EXPECT_EQ(total.seconds, 0);
  }
}

// Memory kept for backward is linear in the length: the output and one number a row and head.
TEST(CausalAttention, KeepsLinearMemory) {
  const Case c{1, 1024, 1, 1, 32};
  const OwnedTensor qkv = RandomTensor({c.length, c.row()}, DType::kF32, 1);
  Arena arena;
  Tape tape(&arena);
  CausalAttention(tape, tape.Constant(*qkv), c.options());
  EXPECT_LE(arena.used_bytes(), c.length * (c.head_dim + 1) * 4 + 1024);
  EXPECT_LT(arena.peak_bytes(), c.length * c.length * 4 / 2);
}

}  // namespace
}  // namespace conclave
