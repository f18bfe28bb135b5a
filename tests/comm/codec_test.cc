// What single codecs promise beyond their contract.
#include <cmath>
#include <limits>
#include <map>

#include <gtest/gtest.h>

#include "comm/codec_draws.h"
#include "tests/comm/codec_values.h"

namespace conclave {
namespace {

// The mean of all workers' messages is exact where their vectors are equal: for values that M scales without rounding, bit by bit.
TEST(PermK, EqualVectorsAreSentWithoutError) {
  for (const int workers : {2, 4, 8}) {
    const CompressorOr codec = MakeCompressor(ParseCodec("perm_k {}"), {.shape = {37}, .dtype = DType::kF32, .workers = workers});
    ASSERT_EQ(codec.status(), absl::OkStatus());
    const OwnedTensor x = Values(37, DType::kF32), y({37}, DType::kF32);
    std::vector<std::byte> wire((*codec)->MaxWireBytes());
    for (uint32_t step = 0; step < 20; ++step) {
      std::vector<float> sum(37);
      for (int m = 0; m < workers; ++m) {
        const CodecKey key{.seed = 3, .worker = {m}, .step = step};
        (*codec)->Encode(*x, key, wire);
        ASSERT_EQ((*codec)->Decode(wire, key, *y), absl::OkStatus());
        for (int i = 0; i < 37; ++i) sum[i] += y->data<float>()[i];
      }
      for (int i = 0; i < 37; ++i) EXPECT_EQ(sum[i] / static_cast<float>(workers), x->data<float>()[i]) << workers << ' ' << i;
    }
  }
}

TEST(TopK, KeepsTheLargestAndTheLowerIndexOfEquals) {
  const CompressorOr codec = MakeCompressor(ParseCodec("top_k { fraction: 0.5 }"), {.shape = {8}, .dtype = DType::kF32});
  ASSERT_EQ(codec.status(), absl::OkStatus());
  OwnedTensor x({8}, DType::kF32), y({8}, DType::kF32);
  const float values[8] = {1, -3, 2, 2, 0, -2, 2, 0.5};
  std::copy(std::begin(values), std::end(values), x->data<float>());
  std::vector<std::byte> wire((*codec)->MaxWireBytes());
  const int64_t bytes = (*codec)->Encode(*x, {}, wire);
  ASSERT_EQ((*codec)->Decode(std::span(wire).first(bytes), {}, *y), absl::OkStatus());
  const float expected[8] = {0, -3, 2, 2, 0, -2, 0, 0};
  for (int i = 0; i < 8; ++i) EXPECT_EQ(At(*y, i), expected[i]) << i;
}

// Bits an index against its entropy log2 C(d, k) / k, on uniformly spread support.
TEST(TopK, IndicesTakeAtMostFivePercentMoreThanTheirEntropy) {
  constexpr int64_t kCoordinates = 200000;
  const OwnedTensor x({kCoordinates}, DType::kF32);
  const RngKey key{.seed = 11};
  for (int64_t i = 0; i < kCoordinates; ++i) x->data<float>()[i] = static_cast<float>(key.Normal(i));
  for (const double density : {0.1, 0.03, 0.01, 0.001}) {
    CodecConfig config;
    config.mutable_top_k()->set_fraction(density);
    const CompressorOr codec = MakeCompressor(config, {.shape = {kCoordinates}});
    std::vector<std::byte> wire((*codec)->MaxWireBytes());
    const double k = density * kCoordinates, d = kCoordinates;
    const double entropy = (std::lgamma(d + 1) - std::lgamma(k + 1) - std::lgamma(d - k + 1)) / std::log(2.0);
    const double bits = 8 * (static_cast<double>((*codec)->Encode(*x, {}, wire)) - 4 * k);
    EXPECT_LE(bits, 1.05 * entropy + 8) << density;
    EXPECT_GE(bits, 0.99 * entropy) << density;
  }
}

TEST(Qsgd, TakesAboutTwoAndAHalfBitsAtRootDLevels) {
  const CompressorOr codec = MakeCompressor(ParseCodec("qsgd { levels: 100 }"), {.shape = {10000}});
  const OwnedTensor x({10000}, DType::kF32);
  const RngKey key{.seed = 12};
  for (int64_t i = 0; i < 10000; ++i) x->data<float>()[i] = static_cast<float>(key.Normal(i));
  std::vector<std::byte> wire((*codec)->MaxWireBytes());
  EXPECT_LT(8 * (*codec)->Encode(*x, {}, wire), 2.8 * 10000 + 32);
}

// Digit to the base `size` that stratum g draws: by the plainest code.
int64_t DigitOf(const RngKey& draws, uint64_t first_word, int64_t g, int64_t size) {
  const int64_t digits = size <= 16 ? 4 : size <= 256 ? 2 : 1, round = g / (128 * digits), within = g % (128 * digits);
  uint64_t rest = draws.Bits(first_word + static_cast<uint64_t>(round * 128 + within % 128)), digit = 0;
  for (int64_t i = 0; i <= within / 128; ++i) {
    digit = (rest * static_cast<uint64_t>(size)) >> 32;
    rest = rest * static_cast<uint64_t>(size) % (uint64_t{1} << 32);
  }
  return static_cast<int64_t>(digit);
}

// The masks of RandK and PermK in large blocks: whole vectors and parts, a last stratum that is shorter.
TEST(Strata, KeepOneCoordinateOfEach) {
  constexpr int kWorkers = 7, kWorker = 5;
  struct Case {
    const char* codec;
    int64_t size;
    int offset;
  };
  for (const Case& c :
       {Case{"rand_k { fraction: 0.1 }", 10, 0}, Case{"rand_k { fraction: 0.002 }", 500, 0}, Case{"rand_k { fraction: 0.01 }", 100, 0},
        Case{"rand_k { fraction: 0.5 common_mask: true }", 2, 0}, Case{"perm_k {}", kWorkers, kWorker}}) {
    for (const DType dtype : {DType::kF32, DType::kF64}) {
      for (const int64_t d : {5000, 20013, 70000}) {
        const CompressorOr codec = MakeCompressor(ParseCodec(c.codec), {.shape = {d}, .dtype = dtype, .workers = kWorkers});
        ASSERT_EQ(codec.status(), absl::OkStatus());
        const CodecKey key{.seed = 3, .block = {4}, .worker = {kWorker}, .step = 7, .first = 1024};
        const bool shared = c.offset > 0 || std::string(c.codec).find("common") != std::string::npos;
        const RngKey draws = shared ? SharedMaskDraws(key) : MaskDraws(key);
        const OwnedTensor x = Values(d, dtype), y({d}, dtype);
        std::vector<std::byte> wire((*codec)->MaxWireBytes());
        (*codec)->Encode(*x, key, wire);
        ASSERT_EQ((*codec)->Decode(wire, key, *y), absl::OkStatus());
        EXPECT_EQ((*codec)->Contract().q, static_cast<double>(c.size));
        for (int64_t g = 0; g * c.size < d; ++g) {
          const int64_t kept = g * c.size + (DigitOf(draws, 1024, g, c.size) + c.offset) % c.size;
          for (int64_t i = g * c.size; i < std::min(d, (g + 1) * c.size); ++i) {
            const double expected = i == kept ? At(*x, i) * static_cast<double>(c.size) : 0;
            ASSERT_EQ(At(*y, i), dtype == DType::kF32 ? static_cast<float>(expected) : expected) << c.codec << ", " << i << " of " << d;
          }
        }
      }
    }
  }
}

// The wire format in smaller blocks, by the plainest code: Algorithm S with one word a coordinate.
TEST(RandK, ChoosesByAlgorithmS) {
  constexpr int64_t kD = 4000;
  for (const double fraction : {0.01, 0.3, 0.97}) {
    const CompressorOr codec = MakeCompressor(ParseCodec(absl::StrFormat("rand_k { fraction: %g }", fraction)), {.shape = {kD}});
    ASSERT_EQ(codec.status(), absl::OkStatus());
    const OwnedTensor x({kD}, DType::kF32), y({kD}, DType::kF32);
    x->Fill(1);
    for (const int64_t first : {0, 1024}) {
      const CodecKey key{.seed = 3, .block = {4}, .worker = {2}, .step = 7, .first = first};
      std::vector<std::byte> wire((*codec)->MaxWireBytes());
      (*codec)->Encode(*x, key, wire);
      ASSERT_EQ((*codec)->Decode(wire, key, *y), absl::OkStatus());
      int64_t left = std::llround(fraction * kD);
      for (int64_t i = 0; i < kD; ++i) {
        const uint64_t word = MaskDraws(key).Bits(static_cast<uint64_t>(first + i));
        const bool taken = static_cast<int64_t>((word * static_cast<uint64_t>(kD - i)) >> 32) < left;
        left -= taken ? 1 : 0;
        ASSERT_EQ(At(*y, i) != 0, taken) << i << " at " << fraction;
      }
      EXPECT_EQ(left, 0);
    }
  }
}

// Likewise: bit by bit, unary part, lower bits, sign.
TEST(Qsgd, WritesGolombRiceCodesBitByBit) {
  constexpr int64_t kD = 3000;
  for (const int levels : {1, 30, 1000, 20000}) {
    const CompressorOr codec = MakeCompressor(ParseCodec(absl::StrFormat("qsgd { levels: %d }", levels)), {.shape = {kD}});
    ASSERT_EQ(codec.status(), absl::OkStatus());
    const OwnedTensor x = Values(kD, DType::kF32);
    x->data<float>()[17] = 900;  // one long code
    const CodecKey key{.seed = 3, .worker = {1}, .step = 2};
    std::vector<std::byte> wire((*codec)->MaxWireBytes());
    wire.resize((*codec)->Encode(*x, key, wire));
    float norm;
    std::memcpy(&norm, wire.data(), sizeof(norm));
    std::vector<uint32_t> words(kD);
    FillRoundingDraws(key, 0, words);
    const int rice = std::max(0, static_cast<int>(std::lround(std::log2(0.55 * levels / std::sqrt(static_cast<double>(kD))))));
    std::vector<bool> bits;
    for (int64_t i = 0; i < kD; ++i) {
      const double v = At(*x, i), unit = static_cast<double>(levels) * 0x1p32 / static_cast<double>(norm);
      const uint64_t level = std::min<uint64_t>((static_cast<uint64_t>(std::abs(v) * unit) + words[i]) >> 32, levels);
      for (uint64_t u = 0; u < level >> rice; ++u) bits.push_back(true);
      bits.push_back(false);
      for (int b = 0; b < rice; ++b) bits.push_back((level >> b & 1) != 0);
      if (level > 0) bits.push_back(v < 0);
    }
    ASSERT_EQ(wire.size(), 4 + (bits.size() + 7) / 8) << levels;
    for (size_t i = 0; i < bits.size(); ++i) {
      ASSERT_EQ((std::to_integer<int>(wire[4 + i / 8]) >> (i % 8) & 1) != 0, bits[i]) << "bit " << i << ", " << levels << " levels";
    }
  }
}

TEST(RandK, EveryCoordinateIsChosenEquallyOftenAndPairsToo) {
  CodecConfig config;
  config.mutable_rand_k()->set_fraction(2.0 / 6);
  const CompressorOr codec = MakeCompressor(config, {.shape = {6}, .dtype = DType::kF64});
  ASSERT_EQ(codec.status(), absl::OkStatus());
  const OwnedTensor x({6}, DType::kF64), y({6}, DType::kF64);
  x->Fill(1);
  std::map<std::pair<int, int>, int> pairs;
  constexpr int kDraws = 15000;
  std::vector<std::byte> wire((*codec)->MaxWireBytes());
  for (uint32_t step = 0; step < kDraws; ++step) {
    (*codec)->Encode(*x, {.seed = 3, .step = step}, wire);
    ASSERT_EQ((*codec)->Decode(wire, {.seed = 3, .step = step}, *y), absl::OkStatus());
    std::vector<int> chosen;
    for (int i = 0; i < 6; ++i) {
      if (At(*y, i) != 0) chosen.push_back(i);
    }
    ASSERT_EQ(chosen.size(), 2u);
    ++pairs[{chosen[0], chosen[1]}];
    EXPECT_EQ(At(*y, chosen[0]), 3.0) << "scaled by d / k";
  }
  ASSERT_EQ(pairs.size(), 15u);
  double chi_square = 0;
  for (const auto& [pair, count] : pairs) chi_square += std::pow(count - kDraws / 15.0, 2) / (kDraws / 15.0);
  EXPECT_LT(chi_square, 36.1) << "14 degrees of freedom, 0.1 % level";
}

TEST(RandK, RefusesBadFractions) {
  for (const double fraction : {0.0, -0.5, 1.5, std::numeric_limits<double>::quiet_NaN()}) {
    CodecConfig config;
    config.mutable_rand_k()->set_fraction(fraction);
    EXPECT_EQ(MakeCompressor(config, {.shape = {4}}).status().code(), absl::StatusCode::kInvalidArgument) << fraction;
  }
  EXPECT_EQ(MakeCompressor({}, {.shape = {4}}).status().code(), absl::StatusCode::kInvalidArgument);
}

// |C(X) - X|^2 / |X|^2 of a matrix, C the low-rank codec.
double LowRankError(const std::string& config, const Shape& shape, const OwnedTensor& x, uint32_t step) {
  const CompressorOr codec = MakeCompressor(ParseCodec(config), {.shape = shape, .dtype = x->dtype()});
  EXPECT_EQ(codec.status(), absl::OkStatus());
  const OwnedTensor y({x->elements()}, x->dtype());
  std::vector<std::byte> wire((*codec)->MaxWireBytes());
  const CodecKey key{.seed = 21, .step = step};
  EXPECT_EQ((*codec)->Encode(*x, key, wire), (*codec)->MaxWireBytes());
  EXPECT_EQ((*codec)->Decode(wire, key, *y), absl::OkStatus());
  double error = 0, size = 0;
  for (int64_t i = 0; i < x->elements(); ++i) {
    error += std::pow(At(*y, i) - At(*x, i), 2);
    size += std::pow(At(*x, i), 2);
  }
  return error / size;
}

TEST(LowRank, KeepsMatricesOfItsRank) {
  constexpr int kRows = 20, kCols = 30;
  const OwnedTensor x({kRows * kCols}, DType::kF32);
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kCols; ++j) {
      x->data<float>()[i * kCols + j] = static_cast<float>(std::sin(1.0 + i) * std::cos(2.0 + j) + std::sin(2.0 * i) * std::cos(3.0 * j));
    }
  }
  for (uint32_t step = 0; step < 5; ++step) {
    EXPECT_LT(LowRankError("low_rank { width: 2 iterations: 1 }", {kRows, kCols}, x, step), 1e-10);
    EXPECT_LT(LowRankError("low_rank { width: 5 iterations: 2 }", {kRows, kCols}, x, step), 1e-10)
        << "columns that are not needed are zero";
    EXPECT_GT(LowRankError("low_rank { width: 1 iterations: 2 }", {kRows, kCols}, x, step), 0.01) << "one column cannot hold two";
  }
}

// Where all singular values are equal a projection keeps just width / r of the square, whatever the draw: the contract's delta is attained.
// Where they fall off it keeps nearly what the best one would, and the more the more iterations there are.
TEST(LowRank, KeepsWhatAProjectionCan) {
  constexpr int kSide = 24, kWidth = 4, kDraws = 40;
  const OwnedTensor even({kSide * kSide}, DType::kF64), falling({kSide * kSide}, DType::kF64);
  even->Fill(0);
  falling->Fill(0);
  double tail = 0, all = 0;
  for (int i = 0; i < kSide; ++i) {
    even->data<double>()[i * kSide + i] = i % 2 == 0 ? 3 : -3;
    falling->data<double>()[i * kSide + i] = std::pow(0.7, i);
    (i < kWidth ? all : tail) += std::pow(0.7, 2 * i);
  }
  const double best = tail / (all + tail);
  double once = 0, twice = 0;
  for (uint32_t step = 0; step < kDraws; ++step) {
    EXPECT_NEAR(LowRankError("low_rank { width: 4 iterations: 2 }", {kSide, kSide}, even, step), 1 - static_cast<double>(kWidth) / kSide,
                1e-12);
    once += LowRankError("low_rank { width: 4 iterations: 1 }", {kSide, kSide}, falling, step) / kDraws;
    twice += LowRankError("low_rank { width: 4 iterations: 2 }", {kSide, kSide}, falling, step) / kDraws;
  }
  EXPECT_GT(twice, best);
  EXPECT_LT(twice, 2 * best);
  EXPECT_LT(twice, 0.7 * once);
}

// Sizes near the ends of the range lose nothing but where a number is denormal: C(2^k x) = 2^k C(x), to the bit.
TEST(LowRank, ScalesWithItsMatrix) {
  const CompressorOr codec = MakeCompressor(ParseCodec("low_rank { width: 2 iterations: 3 }"), {.shape = {6, 9}});
  ASSERT_EQ(codec.status(), absl::OkStatus());
  const OwnedTensor x = Values(54, DType::kF32), y({54}, DType::kF32), scaled({54}, DType::kF32), z({54}, DType::kF32);
  std::vector<std::byte> wire((*codec)->MaxWireBytes());
  (*codec)->Encode(*x, {}, wire);
  ASSERT_EQ((*codec)->Decode(wire, {}, *y), absl::OkStatus());
  for (const int power : {-90, 70, 120}) {
    for (int i = 0; i < 54; ++i) scaled->data<float>()[i] = std::ldexp(x->data<float>()[i], power);
    ASSERT_EQ((*codec)->Encode(*scaled, {}, wire), (*codec)->MaxWireBytes());
    ASSERT_EQ((*codec)->Decode(wire, {}, *z), absl::OkStatus());
    for (int i = 0; i < 54; ++i) EXPECT_EQ(At(*z, i), std::ldexp(At(*y, i), power)) << power << ' ' << i;
  }
  scaled->Fill(std::numeric_limits<float>::max());
  EXPECT_EQ((*codec)->Encode(*scaled, {}, wire), kBeyondRange);
}

TEST(LowRank, TakesMatricesOnly) {
  for (const Shape& shape : {Shape{100}, Shape{3, 100}, Shape{100, 3}, Shape{}}) {
    const absl::Status status = MakeCompressor(ParseCodec("low_rank { width: 4 iterations: 2 }"), {.shape = shape}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << shape.ToString();
    EXPECT_NE(status.message().find("got " + shape.ToString()), std::string::npos) << status;
  }
  EXPECT_EQ(MakeCompressor(ParseCodec("low_rank { width: 4 iterations: 2 }"), {.shape = {4, 5, 3}}).status(), absl::OkStatus());
}

}  // namespace
}  // namespace conclave
