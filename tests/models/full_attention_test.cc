#include "models/modules/full_attention.h"

#include <cmath>

#include <gtest/gtest.h>

#include "base/rng.h"

namespace conclave {
namespace {

struct Case {
  int64_t sequences, length;
  int heads, kv_heads;
  int64_t head_dim;
};

// Softmax over all positions of the sequence, head by head; query heads share keys and values in equal groups.
std::vector<double> Naive(const Case& c, const std::vector<double>& qkv) {
  const int64_t columns = (c.heads + 2 * c.kv_heads) * c.head_dim;
  std::vector<double> out(static_cast<size_t>(c.sequences * c.length * c.heads * c.head_dim), 0.0);
  const auto at = [&](int64_t row, int64_t head, int64_t d) { return qkv[static_cast<size_t>(row * columns + head * c.head_dim + d)]; };
  for (int64_t row = 0; row < c.sequences * c.length; ++row) {
    for (int64_t h = 0; h < c.heads; ++h) {
      const int64_t key = c.heads + h * c.kv_heads / c.heads, first = row / c.length * c.length;
      std::vector<double> weights;
      double sum = 0;
      for (int64_t other = first; other < first + c.length; ++other) {
        double score = 0;
        for (int64_t d = 0; d < c.head_dim; ++d) score += at(row, h, d) * at(other, key, d);
        weights.push_back(std::exp(score / std::sqrt(static_cast<double>(c.head_dim))));
        sum += weights.back();
      }
      for (int64_t other = 0; other < c.length; ++other) {
        for (int64_t d = 0; d < c.head_dim; ++d) {
          out[static_cast<size_t>((row * c.heads + h) * c.head_dim + d)] +=
              weights[static_cast<size_t>(other)] / sum * at(first + other, key + c.kv_heads, d);
        }
      }
    }
  }
  return out;
}

TEST(FullAttention, EqualsTheNaiveSum) {
  for (const Case& c : {Case{2, 5, 2, 2, 3}, Case{1, 7, 4, 2, 2}, Case{3, 1, 3, 1, 4}}) {
    std::vector<double> qkv(static_cast<size_t>(c.sequences * c.length * (c.heads + 2 * c.kv_heads) * c.head_dim));
    for (size_t i = 0; i < qkv.size(); ++i) qkv[i] = RngKey{.seed = 8}.Normal(i);
    Arena arena;
    Tape tape(&arena, /*gradients=*/false);
    const Tensor in(qkv.data(), {c.sequences * c.length, (c.heads + 2 * c.kv_heads) * c.head_dim}, DType::kF64);
    const Tensor out =
        tape.value(FullAttention(tape, tape.Constant(in), {.sequences = c.sequences, .heads = c.heads, .kv_heads = c.kv_heads}));
    const std::vector<double> expected = Naive(c, qkv);
    ASSERT_EQ(out.elements(), static_cast<int64_t>(expected.size()));
    for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(out.data<double>()[i], expected[i], 1e-12) << i;
  }
}

}  // namespace
}  // namespace conclave
