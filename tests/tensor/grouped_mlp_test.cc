#include <array>

#include "tensor/ops/ops.h"
#include "tests/tensor/gradient_check.h"
#include "tests/tensor/naive_oracle.h"

namespace conclave {
namespace {

constexpr auto kDelivered = [](BlockId) { return absl::OkStatus(); };
constexpr Activation kActivations[] = {Activation::kGelu, Activation::kSwiGlu};

TEST(GroupedMlp, Gradients) {
  static constexpr std::array<int64_t, 6> kRows = {2, 1, 0, 0, 3, 1};  // 3 experts by 2 lanes, the second without tokens
  const RowGroups groups{.rows = kRows, .experts = 3, .lanes = 2};
  for (const Activation activation : kActivations) {
    const int64_t f = 4, up = activation == Activation::kSwiGlu ? 2 * f : f;
    std::vector<GradientInput> inputs = {RandomInput({7, 3}, 1)};
    for (int e = 0; e < 3; ++e) inputs.push_back(RandomInput({up, 3}, 2 + e));
    for (int e = 0; e < 3; ++e) inputs.push_back(RandomInput({2, f}, 5 + e));
    for (int e = 0; e < 3; ++e) inputs.push_back(RandomInput({up}, 8 + e));
    for (int e = 0; e < 3; ++e) inputs.push_back(RandomInput({2}, 11 + e));
    EXPECT_TRUE(CheckGradients(inputs, [&](Tape& t, std::span<const Var> v) {
      return GroupedMlp(t, v[0],
                        {.up = v.subspan(1, 3), .up_bias = v.subspan(7, 3), .down = v.subspan(4, 3), .down_bias = v.subspan(10, 3)},
                        activation, groups);
    }));
  }
}

// The op in one go and its three parts give the same bits: values, gradients of the input and of every lane of the weights. Rows of more
// than one piece, a group without rows, odd counts.
TEST(GroupedMlp, EqualsItsParts) {
  constexpr int kExperts = 2, kLanes = 2;
  constexpr int64_t kIn = 24, kHidden = 40, kOut = 20, kTotal = 1190 + 37;
  static constexpr std::array<int64_t, kExperts* kLanes> kRows = {1100, 90, 0, 37};
  const RowGroups groups{.rows = kRows, .experts = kExperts, .lanes = kLanes};
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    for (const Activation activation : kActivations) {
      for (const int lanes : {1, kLanes}) {
        const int64_t up = activation == Activation::kSwiGlu ? 2 * kHidden : kHidden;
        const OwnedTensor x = RandomTensor({kTotal, kIn}, dtype, 1);
        std::array<std::vector<OwnedTensor>, 2> results;
        for (const bool whole : {false, true}) {
          std::vector<OwnedTensor>& out = results[whole ? 1 : 0];
          Arena arena;
          Tape tape(&arena);
          std::vector<OwnedTensor> w;
          std::vector<Var> vu, vd;
          out.emplace_back(Shape{kTotal, kIn}, dtype);
          const Var vx = tape.Parameter({100}, *x, {.first = *out[0]});
          for (int i = 0; i < 2 * kExperts; ++i) {
            const Shape shape = i < kExperts ? Shape{up, kIn} : Shape{kOut, kHidden};
            w.push_back(RandomTensor(shape, dtype, 2 + i));
            out.emplace_back(Shape{lanes, shape.elements()}, dtype);
            const Tensor lane = out.back()->Slice(0, 1).Reshape(shape);
            (i < kExperts ? vu : vd).push_back(tape.Parameter({i}, *w[i], {.first = lane, .lanes = lanes, .stride_bytes = lane.bytes()}));
          }
          Var y;
          if (whole) {
            y = GroupedMlp(tape, vx, {.up = vu, .down = vd}, activation, groups);
          } else {
            const Var hidden = GroupedLinear(tape, vx, vu, {}, groups);
            y = GroupedLinear(tape, activation == Activation::kGelu ? Gelu(tape, hidden) : SwiGlu(tape, hidden), vd, {}, groups);
          }
          const Seed seed{.var = SumAll(tape, Mul(tape, y, y))};
          ASSERT_TRUE(tape.Backward(std::span(&seed, 1), kDelivered).ok());
          out.emplace_back(tape.value(y).shape(), dtype);
          out.back()->CopyFrom(tape.value(y));
        }
        for (size_t i = 0; i < results[0].size(); ++i) {
          EXPECT_TRUE(SameBits(*results[0][i], *results[1][i]))
              << NameOf(dtype) << ", activation " << static_cast<int>(activation) << ", " << lanes << " lanes, result " << i;
        }
      }
    }
  }
}

// Blocks 2 e (up) and 2 e + 1 (down) of expert e are reported in falling order, each when its gradient has its last bits and those of the
// experts below are not there yet; a block that an earlier op used too is reported with that op.
TEST(GroupedMlp, AnExpertIsFinalBeforeTheNext) {
  constexpr int kExperts = 3;
  constexpr int64_t kWidth = 8, kTotal = 8;
  static constexpr std::array<int64_t, kExperts> kRows = {5, 0, 3};
  Arena arena;
  Tape tape(&arena);
  const OwnedTensor x = RandomTensor({kTotal, kWidth}, DType::kF32, 1);
  std::vector<OwnedTensor> weights, gradients;
  std::vector<uint8_t> written(2 * kExperts);
  std::vector<Var> up, down;
  for (int block = 0; block < 2 * kExperts; ++block) {
    weights.push_back(RandomTensor({kWidth, kWidth}, DType::kF32, 2 + block));
    gradients.emplace_back(Shape{kWidth, kWidth}, DType::kF32);
    (block % 2 == 0 ? up : down)
        .push_back(tape.Parameter({block}, *weights.back(), {.first = *gradients.back(), .written = &written[block]}));
  }
  const Var earlier = SumAll(tape, up[2]);
  const Var y = GroupedMlp(tape, tape.Constant(*x), {.up = up, .down = down}, Activation::kGelu, {.rows = kRows, .experts = kExperts});
  const Seed seeds[] = {{SumAll(tape, y)}, {earlier}};
  std::vector<int> order;
  std::vector<OwnedTensor> at_final;
  ASSERT_TRUE(tape.Backward(seeds,
                            [&](BlockId id) {
                              order.push_back(id.value);
                              at_final.emplace_back(Shape{kWidth, kWidth}, DType::kF32);
                              at_final.back()->CopyFrom(*gradients[id.value]);
                              if (id.value == 5) {
                                EXPECT_EQ(written, (std::vector<uint8_t>{0, 0, 0, 0, 1, 1}));
                              }
                              return absl::OkStatus();
                            })
                  .ok());
  EXPECT_EQ(order, (std::vector<int>{5, 3, 2, 1, 0, 4}));
  for (size_t i = 0; i < order.size(); ++i) EXPECT_TRUE(SameBits(*at_final[i], *gradients[order[i]])) << "block " << order[i];
}

}  // namespace
}  // namespace conclave
