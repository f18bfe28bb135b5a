// Unbiased codecs at a vector where their second moment is known, most of them where their constant is attained: a million coordinates
// drawn have the mean they claim, and that second moment to a percent.
#include <cmath>

#include "tests/comm/codec_values.h"

namespace conclave {
namespace {

constexpr int64_t kCoordinates = 64;
constexpr int kDraws = 16000;  // times kCoordinates: 1,024,000

struct MomentCase {
  const char* codec;
  double q;
  double first, others;  // the vector's coordinates; signs alternate
  double second = q;     // E |Q(x)|^2 / |x|^2
};

// Natural compression is worst at 4/3 of a power of two; ternary values where one coordinate is 1 + sqrt(d) times as large as the others.
// QSGD on 64 equal coordinates: at 1 level one of 8 becomes |x|, at 4 one of 2 becomes |x| / 4. Integers of 4 bits at a scale of 7: halves
// become 0 or 1. Their constants are bounds.
const MomentCase kMoments[] = {
    {"rand_k { fraction: 0.25 }", 4, 3, 1},
    {"rand_k { fraction: 0.25 common_mask: true }", 4, 3, 1},
    {"rand_k { fraction: 0.125 values { natural {} } }", 9, 4.0 / 3, 4.0 / 3},
    {"random_block { fraction: 0.25 }", 4, 3, 1},
    {"perm_k {}", 4, 3, 1},
    {"perm_k { values { natural {} } }", 4.5, 4.0 / 3, 4.0 / 3},
    {"natural {}", 1.125, 4.0 / 3, 4.0 / 3},
    {"ternary {}", 4.5, 9, 1},
    {"qsgd { levels: 1 }", 9, 1, 1, 8},
    {"qsgd { levels: 4 }", 3, 1, 1, 2},
    {"block_int { bits: 4 block: 64 }", 1 + 16 / (7 * 128.0 / 129) / (7 * 128.0 / 129), 7, 0.5, (49 + 63 * 0.5) / (49 + 63 * 0.25)},
};

TEST(CodecMoments, AMillionDrawsHaveTheMeanAndTheSecondMomentClaimed) {
  for (const MomentCase& c : kMoments) {
    SCOPED_TRACE(c.codec);
    const CompressorOr codec =
        MakeCompressor(ParseCodec(c.codec), {.shape = {kCoordinates}, .dtype = DType::kF64, .workers = 4, .name = "block"});
    ASSERT_EQ(codec.status(), absl::OkStatus());
    EXPECT_DOUBLE_EQ((*codec)->Contract().q, c.q);
    const OwnedTensor x({kCoordinates}, DType::kF64), y({kCoordinates}, DType::kF64);
    double norm = 0;
    for (int64_t i = 0; i < kCoordinates; ++i) {
      double& value = x->data<double>()[i];
      value = (i == 0 ? c.first : c.others) * (i % 2 == 0 ? 1 : -1);
      norm += value * value;
    }
    std::vector<std::byte> wire((*codec)->MaxWireBytes());
    std::vector<double> sum(kCoordinates), squares(kCoordinates);
    for (int draw = 0; draw < kDraws; ++draw) {
      const CodecKey key{.seed = 11, .worker = {draw % 4}, .step = static_cast<uint32_t>(draw)};
      const int64_t bytes = (*codec)->Encode(*x, key, wire);
      ASSERT_EQ((*codec)->Decode(std::span(wire).first(bytes), key, *y), absl::OkStatus());
      for (int64_t i = 0; i < kCoordinates; ++i) {
        sum[i] += At(*y, i);
        squares[i] += At(*y, i) * At(*y, i);
      }
    }
    double second = 0;
    for (int64_t i = 0; i < kCoordinates; ++i) {
      const double mean = sum[i] / kDraws, error = std::sqrt(std::max(0.0, squares[i] / kDraws - mean * mean) / kDraws);
      EXPECT_NEAR(mean, At(*x, i), 5 * error + 1e-9) << "coordinate " << i;
      second += squares[i] / kDraws;
    }
    EXPECT_NEAR(second / norm, c.second, 0.01 * c.second);
  }
}

}  // namespace
}  // namespace conclave
