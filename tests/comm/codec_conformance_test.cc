// Every codec of the config's oneof keeps its contract. A new member without a case here fails.
#include <cmath>
#include <functional>
#include <map>

#include <gtest/gtest.h>

#include "comm/message_bucket.h"
#include "tests/comm/codec_values.h"

namespace conclave {
namespace {

constexpr int kWorkers = 4;

struct CodecCase {
  std::vector<CodecConfig> configs;
  // Payload bits of d coordinates of `width` bytes, written down by hand; of codecs with messages of varying size: at most.
  std::function<int64_t(const CodecConfig&, int64_t d, int64_t width)> wire_bits;
  std::function<double(const CodecConfig&, int64_t d)> q;      // of unbiased codecs
  std::function<double(const CodecConfig&, int64_t d)> delta;  // of contractive ones
  int64_t least = 1;                                           // coordinates it takes
  std::function<Shape(int64_t d)> shape = [](int64_t d) { return Shape{d}; };
};

int64_t Share(double fraction, int64_t d) { return std::max<int64_t>(1, std::llround(fraction * static_cast<double>(d))); }
int64_t BytesOf(int64_t bits) { return (bits + 7) / 8; }
double Real(int64_t n) { return static_cast<double>(n); }

// Of the `values` codecs used below.
int64_t ValueBits(bool has, const CodecConfig& values, int64_t k, int64_t width) {
  if (!has) return 8 * width * k;
  if (values.has_natural()) return 9 * k;
  if (values.has_bf16()) return 16 * k;
  return values.block_int().bits() * k + 16 * ((k + values.block_int().block() - 1) / values.block_int().block());
}
double ValueQ(bool has, const CodecConfig& values, int64_t k) {
  if (!has) return 1;
  if (values.has_natural()) return 1.125;
  const double s = (values.block_int().bits() == 8 ? 127 : 7) * 128.0 / 129, b = Real(std::min(k, values.block_int().block()));
  return 1 + std::min(b / (4 * s * s), std::sqrt(b) / s);
}

void AddSparse(std::map<std::string, CodecCase>& cases) {
  const auto rand_k = [](const CodecConfig& c, int64_t d) { return Share(c.rand_k().fraction(), d); };
  cases["rand_k"] = {
      .configs = {ParseCodec("rand_k { fraction: 0.1 }"), ParseCodec("rand_k { fraction: 0.37 }"), ParseCodec("rand_k { fraction: 1 }"),
                  ParseCodec("rand_k { fraction: 0.3 values { natural {} } }"), ParseCodec("rand_k { fraction: 0.4 common_mask: true }")},
      .wire_bits = [=](const CodecConfig& c, int64_t d,
                       int64_t width) { return ValueBits(c.rand_k().has_values(), c.rand_k().values(), rand_k(c, d), width); },
      .q = [=](const CodecConfig& c,
               int64_t d) { return ValueQ(c.rand_k().has_values(), c.rand_k().values(), rand_k(c, d)) * (Real(d) / Real(rand_k(c, d))); }};
  cases["random_block"] = {
      .configs = {ParseCodec("random_block { fraction: 0.3 }"), ParseCodec("random_block { fraction: 0.5 values { natural {} } }")},
      .wire_bits =
          [](const CodecConfig& c, int64_t d, int64_t width) {
            const RandomBlockConfig& r = c.random_block();
            return ValueBits(r.has_values(), r.values(), Share(r.fraction(), d), width);
          },
      .q =
          [](const CodecConfig& c, int64_t d) {
            const RandomBlockConfig& r = c.random_block();
            const int64_t k = Share(r.fraction(), d);
            return ValueQ(r.has_values(), r.values(), k) * (Real(d) / Real(k));
          }};
  cases["perm_k"] = {
      .configs = {ParseCodec("perm_k {}"), ParseCodec("perm_k { values { natural {} } }"),
                  ParseCodec("perm_k { values { block_int { bits: 4 block: 16 } } }")},
      .wire_bits =
          [](const CodecConfig& c, int64_t d, int64_t width) {
            return ValueBits(c.perm_k().has_values(), c.perm_k().values(), (d + kWorkers - 1) / kWorkers, width);
          },
      .q = [](const CodecConfig& c,
              int64_t d) { return kWorkers * ValueQ(c.perm_k().has_values(), c.perm_k().values(), (d + kWorkers - 1) / kWorkers); },
      .least = kWorkers};
  // At density k / d the best Golomb-Rice parameter b is the one with the least b + 1 + t / (1 - t), t = (1 - k/d)^(2^b).
  const auto index_bits = [](int64_t k, int64_t d) {
    int best = 0;
    double fewest = INFINITY;
    for (int b = 0; b < 30 && k < d; ++b) {
      const double t = std::pow(1 - Real(k) / Real(d), std::exp2(b)), bits = b + 1 + t / (1 - t);
      if (bits < fewest) fewest = bits, best = b;
    }
    return k * (best + 1) + ((d - k) >> best);
  };
  cases["top_k"] = {.configs = {ParseCodec("top_k { fraction: 0.1 }"), ParseCodec("top_k { fraction: 1 }"),
                                ParseCodec("top_k { fraction: 0.5 values { block_int { bits: 8 block: 32 } } }"),
                                ParseCodec("top_k { fraction: 0.3 values { bf16 {} } }")},
                    .wire_bits =
                        [=](const CodecConfig& c, int64_t d, int64_t width) {
                          const int64_t k = Share(c.top_k().fraction(), d);
                          return 8 * BytesOf(index_bits(k, d)) + ValueBits(c.top_k().has_values(), c.top_k().values(), k, width);
                        },
                    .delta =
                        [](const CodecConfig& c, int64_t d) {
                          const int64_t k = Share(c.top_k().fraction(), d);
                          if (c.top_k().values().has_bf16()) return Real(d) / Real(k) / (1 - 0x1p-16);
                          return Real(d) / Real(k) / (2 - ValueQ(c.top_k().has_values(), c.top_k().values(), k));
                        }};
}

void AddDense(std::map<std::string, CodecCase>& cases) {
  cases["identity"] = {.configs = {ParseCodec("identity {}")},
                       .wire_bits = [](const CodecConfig&, int64_t d, int64_t width) { return 8 * width * d; },
                       .q = [](const CodecConfig&, int64_t) { return 1.0; }};
  cases["natural"] = {.configs = {ParseCodec("natural {}")},
                      .wire_bits = [](const CodecConfig&, int64_t d, int64_t) { return 9 * d; },
                      .q = [](const CodecConfig&, int64_t) { return 9.0 / 8; }};
  cases["qsgd"] = {.configs = {ParseCodec("qsgd { levels: 1 }"), ParseCodec("qsgd { levels: 5 }"), ParseCodec("qsgd { levels: 300 }")},
                   .wire_bits =
                       [](const CodecConfig& c, int64_t d, int64_t) {
                         const double s = Real(c.qsgd().levels()), sum = s * std::sqrt(Real(d)) * (1 + 0x1p-20) + Real(d);
                         const auto b = static_cast<int64_t>(std::max(0.0, std::round(std::log2(0.55 * s / std::sqrt(Real(d))))));
                         return 32 + d * (b + 2) + static_cast<int64_t>(sum / std::exp2(b));
                       },
                   .q =
                       [](const CodecConfig& c, int64_t d) {
                         const double s = Real(c.qsgd().levels());
                         return 1 + std::min(Real(d) / (s * s), std::sqrt(Real(d)) / s);
                       }};
  cases["block_int"] = {
      .configs = {ParseCodec("block_int { bits: 8 block: 64 }"), ParseCodec("block_int { bits: 4 block: 5 }"),
                  ParseCodec("block_int { bits: 4 block: 2000 }"), ParseCodec("block_int { bits: 8 block: 7 rounding: NEAREST }"),
                  ParseCodec("block_int { bits: 4 block: 16 rounding: NEAREST }")},
      .wire_bits = [](const CodecConfig& c, int64_t d, int64_t width) { return ValueBits(true, c, d, width); },
      .q = [](const CodecConfig& c, int64_t d) { return ValueQ(true, c, d); },
      .delta =
          [](const CodecConfig& c, int64_t d) {
            const double s = (c.block_int().bits() == 8 ? 127 : 7) * 128.0 / 129, b = Real(std::min(d, c.block_int().block()));
            return 1 / (1 - b / 4 / (s * s + (b - 1) / 4));
          }};
  cases["ternary"] = {.configs = {ParseCodec("ternary {}")},
                      .wire_bits = [](const CodecConfig&, int64_t d, int64_t) { return 32 + 8 * ((d + 4) / 5); },
                      .q = [](const CodecConfig&, int64_t d) { return (1 + std::sqrt(Real(d))) / 2; }};
  cases["scaled_sign"] = {.configs = {ParseCodec("scaled_sign {}")},
                          .wire_bits = [](const CodecConfig&, int64_t d, int64_t) { return 32 + d; },
                          .delta = [](const CodecConfig&, int64_t d) { return Real(d); }};
  cases["bf16"] = {.configs = {ParseCodec("bf16 {}")},
                   .wire_bits = [](const CodecConfig&, int64_t d, int64_t) { return 16 * d; },
                   .delta = [](const CodecConfig&, int64_t) { return 1 / (1 - 0x1p-16); }};
  cases["fp8"] = {.configs = {ParseCodec("fp8 {}")},
                  .wire_bits = [](const CodecConfig&, int64_t d, int64_t) { return 8 + 8 * d; },
                  .delta = [](const CodecConfig&, int64_t d) { return 1 / (1 - 0x1p-8 - Real(d) * 0x1p-34); }};
  cases["blockwise"] = {
      .configs = {ParseCodec("blockwise { exact_below: 8 rules { pattern: 'x*' codec { ternary {} } } otherwise { natural {} } }")},
      .wire_bits = [](const CodecConfig&, int64_t d, int64_t width) { return d < 8 ? 8 * width * d : 9 * d; },
      .q = [](const CodecConfig&, int64_t d) { return d < 8 ? 1 : 9.0 / 8; }};
}

// d as the product of the two factors that are closest: 1 x 1, 1 x 2, 1 x 7, 4 x 6, 15 x 20, 50 x 50.
Shape MatrixOfElements(int64_t d) {
  int64_t rows = std::llround(std::floor(std::sqrt(Real(d))));
  while (d % rows != 0) --rows;
  return {rows, d / rows};
}

void AddFactors(std::map<std::string, CodecCase>& cases) {
  cases["low_rank"] = {.configs = {ParseCodec("low_rank { width: 3 iterations: 2 }"), ParseCodec("low_rank { width: 4 iterations: 1 }"),
                                   ParseCodec("low_rank { width: 3 iterations: 4 }")},
                       .wire_bits =
                           [](const CodecConfig& c, int64_t d, int64_t width) {
                             const Shape shape = MatrixOfElements(d);
                             return 8 * width * c.low_rank().width() * (shape[0] + shape[1]);
                           },
                       .delta =
                           [](const CodecConfig& c, int64_t d) {
                             const Shape shape = MatrixOfElements(d);
                             return Real(std::min(shape[0], shape[1])) / (Real(c.low_rank().width()) * (1 - 0x1p-20));
                           },
                       .least = 24,
                       .shape = MatrixOfElements};
}

std::map<std::string, CodecCase> Cases() {
  std::map<std::string, CodecCase> cases;
  AddDense(cases);
  AddFactors(cases);
  AddSparse(cases);
  return cases;
}

// Calls f(case, config, codec, d, dtype) for every codec, size and dtype.
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
      for (const int64_t d : {1, 2, 7, 24, 300, 2500}) {
        for (const DType dtype : {DType::kF32, DType::kF64}) {
          CompressorOr codec = MakeCompressor(config, {.shape = it->second.shape(d), .dtype = dtype, .workers = kWorkers, .name = "block"});
          SCOPED_TRACE(absl::StrFormat("%s, d = %d, %s", config.ShortDebugString(), d, NameOf(dtype)));
          if (d < it->second.least) {
            EXPECT_EQ(codec.status().code(), absl::StatusCode::kInvalidArgument);
            continue;
          }
          ASSERT_EQ(codec.status(), absl::OkStatus());
          f(it->second, config, **codec, d, dtype);
        }
      }
    }
  }
}

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
      const CodecKey key{.seed = 9, .block = {3}, .worker = {draw % kWorkers}, .step = static_cast<uint32_t>(draw)};
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

// The mean of |C(x) - x|^2 at most (1 - 1/delta) |x|^2, on vectors of all shapes: even, one large coordinate, many scales.
TEST(CodecConformance, ContractiveWithDelta) {
  ForEachCodec([](const CodecCase& c, const CodecConfig& config, const Compressor& codec, int64_t d, DType dtype) {
    const CodecContract contract = codec.Contract();
    if (contract.unbiased) return;
    ASSERT_TRUE(contract.contractive());
    EXPECT_NEAR(contract.delta, c.delta(config, d), 1e-12 * contract.delta);
    std::vector<std::byte> wire(codec.MaxWireBytes());
    for (int kind = 0; kind < 4; ++kind) {
      const OwnedTensor x = Values(d, dtype), y({d}, dtype);
      DispatchFloat(dtype, [&](auto t) {
        using T = decltype(t);
        T* const v = x->data<T>();
        for (int64_t i = 0; i < d; ++i) {
          if (kind == 1) v[i] = static_cast<T>(i == d / 2 ? 7 : 0.5);
          if (kind == 2) v[i] = std::ldexp(v[i], static_cast<int>(i % 40) - 20);
          if (kind == 3) v[i] = static_cast<T>(i % 2 == 0 ? 1e-3 : -1e-3);
        }
      });
      constexpr int kDraws = 50;
      double norm = 0, error = 0;
      for (int64_t i = 0; i < d; ++i) norm += At(*x, i) * At(*x, i);
      for (uint32_t step = 0; step < kDraws; ++step) {
        const CodecKey key{.seed = 9, .step = step};
        const int64_t bytes = codec.Encode(*x, key, wire);
        ASSERT_EQ(codec.Decode(std::span(wire).first(bytes), key, *y), absl::OkStatus());
        for (int64_t i = 0; i < d; ++i) error += (At(*y, i) - At(*x, i)) * (At(*y, i) - At(*x, i)) / kDraws;
      }
      EXPECT_LE(error, (1 - 1 / contract.delta) * norm * (1 + 1e-6) + 1e-12 * norm) << "vector " << kind;
    }
  });
}

TEST(CodecConformance, TheSameKeyGivesTheSameBytesAndOthersDiffer) {
  ForEachCodec([](const CodecCase&, const CodecConfig&, const Compressor& codec, int64_t d, DType dtype) {
    const OwnedTensor x = Values(d, dtype), y({d}, dtype), z({d}, dtype);
    const CodecKey key{.seed = 1, .block = {2}, .worker = {3}, .step = 4, .draw = 1};
    std::vector<std::byte> a(codec.MaxWireBytes()), b(codec.MaxWireBytes());
    const int64_t bytes = codec.Encode(*x, key, a);
    EXPECT_EQ(codec.Encode(*x, key, b), bytes);
    EXPECT_EQ(a, b);
    const CodecContract contract = codec.Contract();
    if (d < 300 || contract.q == 1 || (contract.correlated && contract.linear)) return;
    ASSERT_EQ(codec.Decode(std::span(a).first(bytes), key, *y), absl::OkStatus());
    const CodecKey others[] = {{2, {2}, {3}, 4, 1}, {1, {3}, {3}, 4, 1}, {1, {2}, {1}, 4, 1}, {1, {2}, {3}, 5, 1}, {1, {2}, {3}, 4, 2}};
    for (const CodecKey& other : others) {
      const int64_t others_bytes = codec.Encode(*x, other, b);
      ASSERT_EQ(codec.Decode(std::span(b).first(others_bytes), other, *z), absl::OkStatus());
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

// A finite vector beyond a codec's range goes as poison; nothing is clipped.
TEST(CodecConformance, WhatIsBeyondTheRangeIsPoison) {
  for (const char* text : {"natural {}", "block_int { bits: 8 block: 4 }", "bf16 {}", "fp8 {}", "perm_k { values { natural {} } }"}) {
    const CodecConfig config = ParseCodec(text);
    const CompressorOr codec = MakeCompressor(config, {.shape = {4}, .dtype = DType::kF64, .workers = 1});
    ASSERT_EQ(codec.status(), absl::OkStatus());
    const OwnedTensor x({4}, DType::kF64), y({4}, DType::kF64);
    std::vector<std::byte> buffer(kFrameBytes + (*codec)->MaxWireBytes());
    x->Fill(1e200);
    EXPECT_EQ((*codec)->Encode(*x, {}, std::span(buffer).subspan(kFrameBytes)), kBeyondRange) << text;
    EXPECT_EQ(EncodeFramed(**codec, *x, {}, buffer), 0);
    ASSERT_EQ(DecodeFramed(**codec, buffer, {}, *y), absl::OkStatus());
    for (int i = 0; i < 4; ++i) EXPECT_TRUE(std::isnan(At(*y, i))) << text;
  }
}

// No message that was cut or altered behind its checksum makes a decoder read or write out of bounds.
TEST(CodecConformance, DamagedPayloadsAreDataLossOrNumbers) {
  ForEachCodec([](const CodecCase&, const CodecConfig&, const Compressor& codec, int64_t d, DType dtype) {
    if (d > 300) return;
    const OwnedTensor x = Values(d, dtype), y({d}, dtype);
    std::vector<std::byte> wire(codec.MaxWireBytes());
    const int64_t bytes = codec.Encode(*x, {}, wire);
    const RngKey key{.seed = 13};
    for (uint64_t i = 0; i < 50; ++i) {
      std::vector<std::byte> damaged(wire.begin(), wire.begin() + bytes);
      for (uint64_t j = 0; j < 3; ++j) damaged[key.Below(static_cast<uint64_t>(bytes), 3 * i + j)] ^= static_cast<std::byte>(1 + i);
      const absl::Status status = codec.Decode(damaged, {}, *y);
      EXPECT_TRUE(status.ok() || status.code() == absl::StatusCode::kDataLoss) << status.ToString();
    }
  });
}

}  // namespace
}  // namespace conclave
