#include "tensor/ops/ops.h"
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

std::vector<double> NaiveRotary(const Case& c, const std::vector<double>& qkv, double theta) {
  std::vector<double> out = qkv;
  const int64_t half = c.head_dim / 2;
  for (int64_t r = 0; r < c.sequences * c.length; ++r) {
    for (int64_t j = 0; j < (c.heads + c.kv_heads) * c.head_dim; ++j) {
      const int64_t i = j % c.head_dim;
      const double angle = static_cast<double>(r % c.length) * std::pow(theta, -2.0 * static_cast<double>(i % half) / c.head_dim);
      const double* x = &qkv[r * c.row() + j];
      out[r * c.row() + j] =
          i < half ? x[0] * std::cos(angle) - x[half] * std::sin(angle) : x[0] * std::cos(angle) + x[-half] * std::sin(angle);
    }
  }
  return out;
}

OwnedTensor Rotated(const Case& c, const Tensor& qkv) {
  Arena arena;
  Tape tape(&arena);
  const Var y = Rotary(tape, tape.Constant(qkv), c.options(), 10000);
  OwnedTensor out(qkv.shape(), qkv.dtype());
  out->CopyFrom(tape.value(y));
  return out;
}

TEST(Rotary, Gradients) {
  for (const Case& c : {Case{2, 3, 2, 1, 4}, Case{1, 5, 1, 1, 2}, Case{1, 0, 1, 1, 2}}) {
    EXPECT_TRUE(CheckGradients({RandomInput({c.sequences * c.length, c.row()}, 1)},
                               [&](Tape& t, std::span<const Var> v) { return Rotary(t, v[0], c.options(), 100); }));
  }
}

TEST(Rotary, AgreesWithTheFormula) {
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    for (const Case& c : {Case{2, 100, 3, 1, 16}, Case{1, 33, 2, 2, 34}}) {
      const OwnedTensor qkv = RandomTensor({c.sequences * c.length, c.row()}, dtype, 1);
      EXPECT_TRUE(Near(*Rotated(c, *qkv), NaiveRotary(c, Values(*qkv), 10000), dtype == DType::kF32 ? 3e-7 : 1e-13)) << NameOf(dtype);
    }
  }
}

// A position's bits depend on the position alone: a longer sequence begins with the shorter one's rows.
TEST(Rotary, PrefixesStandAlone) {
  const Case c{1, 100, 2, 1, 16};
  const OwnedTensor qkv = RandomTensor({c.length, c.row()}, DType::kF32, 1);
  const OwnedTensor whole = Rotated(c, *qkv);
  for (const int64_t length : {1, 31, 32, 33, 70}) {
    EXPECT_TRUE(SameBits(*Rotated({1, length, 2, 1, 16}, qkv->Slice(0, length)), whole->Slice(0, length))) << length;
  }
}

// What the embedding is for: scores depend on the distance between positions only.
TEST(Rotary, ScoresDependOnDistance) {
  const Case c{1, 60, 1, 1, 8};
  const OwnedTensor qkv = RandomTensor({c.length, c.row()}, DType::kF64, 1);
  for (int64_t r = 1; r < c.length; ++r) qkv->Slice(r, 1).CopyFrom(qkv->Slice(0, 1));
  const OwnedTensor y = Rotated(c, *qkv);
  const auto score = [&](int64_t q, int64_t k) {
    double sum = 0;
    for (int64_t d = 0; d < c.head_dim; ++d) sum += y->data<double>()[q * c.row() + d] * y->data<double>()[k * c.row() + c.head_dim + d];
    return sum;
  };
  for (const int64_t distance : {0, 1, 7, 40}) {
    for (int64_t k = 0; k + distance < c.length; ++k) EXPECT_NEAR(score(k + distance, k), score(distance, 0), 1e-13);
  }
}

}  // namespace
}  // namespace conclave
