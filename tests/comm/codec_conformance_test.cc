// Every codec of the config's oneof keeps its contract. A new member without a case here fails.
#include <cmath>
#include <functional>
#include <limits>
#include <map>

#include <gtest/gtest.h>

#include "base/rng.h"
#include "comm/compressors.h"
#include "comm/message_bucket.h"

namespace conclave {
namespace {

struct CodecCase {
  std::vector<CodecConfig> configs;
  // Payload bits of d coordinates of `width` bytes, written down by hand.
  std::function<int64_t(const CodecConfig&, int64_t d, int64_t width)> wire_bits;
  std::function<double(const CodecConfig&, int64_t d)> q;
};

int64_t RandK(const CodecConfig& config, int64_t d) {
  return std::max<int64_t>(1, std::llround(config.rand_k().fraction() * static_cast<double>(d)));
}

std::map<std::string, CodecCase> Cases() {
  std::map<std::string, CodecCase> cases;
  CodecConfig identity;
  identity.mutable_identity();
  cases["identity"] = {.configs = {identity},
                       .wire_bits = [](const CodecConfig&, int64_t d, int64_t width) { return 8 * width * d; },
                       .q = [](const CodecConfig&, int64_t) { return 1.0; }};
  std::vector<CodecConfig> rand_k(3);
  rand_k[0].mutable_rand_k()->set_fraction(0.1);
  rand_k[1].mutable_rand_k()->set_fraction(0.37);
  rand_k[2].mutable_rand_k()->set_fraction(1);
  cases["rand_k"] = {.configs = rand_k,
                     .wire_bits = [](const CodecConfig& c, int64_t d, int64_t width) { return 8 * width * RandK(c, d); },
                     .q = [](const CodecConfig& c, int64_t d) { return static_cast<double>(d) / static_cast<double>(RandK(c, d)); }};
  return cases;
}

// Calls f(name, case, config, codec, d, dtype) for every codec, size and dtype.
template <typename F>
void ForEachCodec(F&& f) {
  const google::protobuf::OneofDescriptor* kinds = CodecConfig::descriptor()->FindOneofByName("kind");
  ASSERT_NE(kinds, nullptr);
  const std::map<std::string, CodecCase> cases = Cases();
  for (int i = 0; i < kinds->field_count(); ++i) {
    const auto it = cases.find(kinds->field(i)->name());
    ASSERT_NE(it, cases.end()) << "codec '" << kinds->field(i)->name() << "' has no conformance case";
    for (const CodecConfig& config : it->second.configs) {
      ASSERT_TRUE(config.GetReflection()->HasField(config, kinds->field(i)));
      for (const int64_t d : {1, 2, 7, 24, 300}) {
        for (const DType dtype : {DType::kF32, DType::kF64}) {
          CompressorOr codec = MakeCompressor(config, {.shape = {d}, .dtype = dtype, .workers = 4});
          ASSERT_EQ(codec.status(), absl::OkStatus());
          SCOPED_TRACE(absl::StrFormat("%s, d = %d, %s", config.ShortDebugString(), d, NameOf(dtype)));
          f(it->second, config, **codec, d, dtype);
        }
      }
    }
  }
}

OwnedTensor Values(int64_t d, DType dtype) {
  OwnedTensor x({d}, dtype);
  const RngKey key{.seed = 5};
  DispatchFloat(dtype, [&](auto t) {
    for (int64_t i = 0; i < d; ++i) x->data<decltype(t)>()[i] = static_cast<decltype(t)>(key.Normal(i) + 0.5);
  });
  return x;
}

double At(const Tensor& x, int64_t i) { return x.dtype() == DType::kF32 ? x.data<float>()[i] : x.data<double>()[i]; }

TEST(CodecConformance, WireBitsAreExact) {
  ForEachCodec([](const CodecCase& c, const CodecConfig& config, const Compressor& codec, int64_t d, DType dtype) {
    const CodecContract contract = codec.Contract();
    EXPECT_EQ(contract.wire_bits, c.wire_bits(config, d, SizeOf(dtype)));
    EXPECT_EQ(codec.MaxWireBytes(), (contract.wire_bits + 7) / 8);
    const OwnedTensor x = Values(d, dtype);
    std::vector<std::byte> wire(codec.MaxWireBytes() + 16, std::byte{0xAB});
    const int64_t bytes = codec.Encode(*x, {.seed = 1}, std::span(wire).first(codec.MaxWireBytes()));
    EXPECT_TRUE(contract.fixed_size ? bytes == codec.MaxWireBytes() : bytes <= codec.MaxWireBytes());
    for (size_t i = bytes; i < wire.size(); ++i) EXPECT_EQ(wire[i], std::byte{0xAB}) << "wrote past its message";
  });
}

// Mean over many draws within 5 standard errors, coordinate by coordinate; the mean of |Q(x)|^2 at most q |x|^2, equal where the codec says
// so.
TEST(CodecConformance, UnbiasedWithVarianceQ) {
  ForEachCodec([](const CodecCase& c, const CodecConfig& config, const Compressor& codec, int64_t d, DType dtype) {
    const CodecContract contract = codec.Contract();
    if (!contract.unbiased || d > 24) return;
    EXPECT_DOUBLE_EQ(contract.q, c.q(config, d));
    constexpr int kDraws = 20000;
    const OwnedTensor x = Values(d, dtype), y({d}, dtype);
    std::vector<std::byte> wire(codec.MaxWireBytes());
    std::vector<double> sum(d), squares(d);
    double norm = 0, energy = 0, energy_squares = 0;
    for (int64_t i = 0; i < d; ++i) norm += At(*x, i) * At(*x, i);
    for (int draw = 0; draw < kDraws; ++draw) {
      const CodecKey key{.seed = 9, .block = {3}, .worker = {draw % 5}, .step = static_cast<uint32_t>(draw / 5)};
      const int64_t bytes = codec.Encode(*x, key, wire);
      ASSERT_EQ(codec.Decode(std::span(wire).first(bytes), key, *y), absl::OkStatus());
      double now = 0;
      for (int64_t i = 0; i < d; ++i) {
        const double v = At(*y, i);
        sum[i] += v, squares[i] += v * v, now += v * v;
      }
      energy += now, energy_squares += now * now;
    }
    for (int64_t i = 0; i < d; ++i) {
      const double mean = sum[i] / kDraws, error = std::sqrt(std::max(0.0, squares[i] / kDraws - mean * mean) / kDraws);
      EXPECT_NEAR(mean, At(*x, i), 5 * error + 1e-6 * std::abs(At(*x, i))) << "coordinate " << i;
    }
    const double mean = energy / kDraws, error = std::sqrt(std::max(0.0, energy_squares / kDraws - mean * mean) / kDraws);
    EXPECT_LE(mean, contract.q * norm * (1 + 1e-6) + 5 * error);
  });
}

TEST(CodecConformance, TheSameKeyGivesTheSameBytesAndOthersDiffer) {
  ForEachCodec([](const CodecCase&, const CodecConfig&, const Compressor& codec, int64_t d, DType dtype) {
    const OwnedTensor x = Values(d, dtype), y({d}, dtype), z({d}, dtype);
    const CodecKey key{.seed = 1, .block = {2}, .worker = {3}, .step = 4, .draw = 1};
    std::vector<std::byte> a(codec.MaxWireBytes()), b(codec.MaxWireBytes());
    codec.Encode(*x, key, a), codec.Encode(*x, key, b);
    EXPECT_EQ(a, b);
    if (d < 300 || codec.Contract().q == 1) return;
    ASSERT_EQ(codec.Decode(a, key, *y), absl::OkStatus());
    const CodecKey others[] = {{2, {2}, {3}, 4, 1}, {1, {3}, {3}, 4, 1}, {1, {2}, {4}, 4, 1}, {1, {2}, {3}, 5, 1}, {1, {2}, {3}, 4, 2}};
    for (const CodecKey& other : others) {
      codec.Encode(*x, other, b);
      ASSERT_EQ(codec.Decode(b, other, *z), absl::OkStatus());
      EXPECT_NE(0, std::memcmp(y->raw(), z->raw(), static_cast<size_t>(y->bytes())))
          << "seed, block, worker, step and draw must all matter";
    }
  });
}

TEST(CodecConformance, DecodersNeverGiveMinusZero) {
  ForEachCodec([](const CodecCase&, const CodecConfig&, const Compressor& codec, int64_t d, DType dtype) {
    const OwnedTensor x({d}, dtype), y({d}, dtype);
    x->Fill(-0.0);
    y->Fill(-0.0);
    std::vector<std::byte> wire(codec.MaxWireBytes());
    const int64_t bytes = codec.Encode(*x, {}, wire);
    ASSERT_EQ(codec.Decode(std::span(wire).first(bytes), {}, *y), absl::OkStatus());
    for (int64_t i = 0; i < d; ++i) {
      EXPECT_EQ(At(*y, i), 0);
      EXPECT_FALSE(std::signbit(At(*y, i)));
    }
  });
}

TEST(CodecConformance, WrongLengthsAreDataLoss) {
  ForEachCodec([](const CodecCase&, const CodecConfig&, const Compressor& codec, int64_t d, DType dtype) {
    const OwnedTensor x = Values(d, dtype), y({d}, dtype);
    std::vector<std::byte> wire(codec.MaxWireBytes() + 1);
    const int64_t bytes = codec.Encode(*x, {}, wire);
    EXPECT_EQ(codec.Decode(std::span(wire).first(bytes - 1), {}, *y).code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(codec.Decode(std::span(wire).first(codec.MaxWireBytes() + 1), {}, *y).code(), absl::StatusCode::kDataLoss);
  });
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

TEST(WireFrame, EveryFlippedBitIsFound) {
  CodecConfig config;
  config.mutable_rand_k()->set_fraction(0.5);
  const CompressorOr codec = MakeCompressor(config, {.shape = {8}});
  ASSERT_EQ(codec.status(), absl::OkStatus());
  const OwnedTensor x = Values(8, DType::kF32), y({8}, DType::kF32);
  const CodecKey key{.seed = 1, .block = {4}, .worker = {2}, .step = 77, .draw = 1};
  std::vector<std::byte> buffer(kFrameBytes + (*codec)->MaxWireBytes());
  EXPECT_EQ(EncodeFramed(**codec, *x, key, buffer), 16);
  EXPECT_EQ(DecodeFramed(**codec, buffer, key, *y), absl::OkStatus());
  for (size_t bit = 0; bit < buffer.size() * 8; ++bit) {
    std::vector<std::byte> damaged = buffer;
    damaged[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
    EXPECT_EQ(DecodeFramed(**codec, damaged, key, *y).code(), absl::StatusCode::kDataLoss) << "bit " << bit;
  }
  for (size_t n = 0; n < buffer.size(); ++n) {
    EXPECT_EQ(DecodeFramed(**codec, std::span(buffer).first(n), key, *y).code(), absl::StatusCode::kDataLoss) << n << " bytes";
  }
  CodecKey other = key;
  other.worker = {3};
  EXPECT_EQ(DecodeFramed(**codec, buffer, other, *y).code(), absl::StatusCode::kDataLoss);
}

TEST(WireFrame, PoisonIsNaNForEveryone) {
  CodecConfig config;
  config.mutable_identity();
  const CompressorOr codec = MakeCompressor(config, {.shape = {3}});
  ASSERT_EQ(codec.status(), absl::OkStatus());
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    const OwnedTensor x({3}, DType::kF32), y({3}, DType::kF32);
    x->data<float>()[1] = bad;
    std::vector<std::byte> buffer(kFrameBytes + (*codec)->MaxWireBytes());
    EXPECT_EQ(EncodeFramed(**codec, *x, {}, buffer), 0);
    ASSERT_EQ(DecodeFramed(**codec, buffer, {}, *y), absl::OkStatus());
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(std::isnan(y->data<float>()[i]));
  }
}

}  // namespace
}  // namespace conclave
