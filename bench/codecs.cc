#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <vector>

#include <google/protobuf/text_format.h>

#include "base/rng.h"
#include "bench/benches.h"
#include "comm/compressors.h"

namespace conclave {
namespace {

constexpr int64_t kValues = int64_t{1} << 20, kRows = 1024;

constexpr const char* kCodecs[] = {
    "identity {}",
    "rand_k { fraction: 0.25 }",
    "rand_k { fraction: 0.1 }",
    "rand_k { fraction: 0.01 }",
    "random_block { fraction: 0.1 }",
    "perm_k {}",
    "perm_k { values { natural {} } }",
    "natural {}",
    "block_int { bits: 8 block: 64 }",
    "block_int { bits: 8 block: 64 rounding: NEAREST }",
    "block_int { bits: 4 block: 64 }",
    "top_k { fraction: 0.01 }",
    "top_k { fraction: 0.1 values { block_int { bits: 8 block: 64 } } }",
    "ternary {}",
    "scaled_sign {}",
    "bf16 {}",
    "fp8 {}",
    "qsgd { levels: 1024 }",
    "low_rank { width: 4 iterations: 2 }",
};
constexpr int kWorkers = 8;

// Processor time of one call of each, in turn: what else runs on the machine counts for neither.
struct CodecTimes {
  Timing codec, copy;
};
CodecTimes TimesInTurn(const std::function<void()>& codec, const std::function<void()>& copy) {
  constexpr int kSamples = 9;
  constexpr double kSampleSeconds = 0.01;
  const auto seconds_of = [](const std::function<void()>& body, int64_t calls) {
    const Moment began = Moment::Now();
    for (int64_t i = 0; i < calls; ++i) body();
    return (Moment::Now() - began).cpu / static_cast<double>(calls);
  };
  codec(), copy();
  const auto calls_of = [&](const std::function<void()>& body) {
    return std::max<int64_t>(1, static_cast<int64_t>(kSampleSeconds / std::max(seconds_of(body, 1), 1e-9)));
  };
  const int64_t codec_calls = calls_of(codec), copy_calls = calls_of(copy);
  std::vector<double> codec_seconds, copy_seconds;
  for (int i = 0; i < kSamples; ++i) {
    copy_seconds.push_back(seconds_of(copy, copy_calls));
    codec_seconds.push_back(seconds_of(codec, codec_calls));
  }
  return {.codec = TimingOf(codec_seconds), .copy = TimingOf(copy_seconds)};
}

// Bytes that must move for a codec that keeps some coordinates: encode reads the lines that hold kept ones and writes their values, decode
// reads these and writes every line.
double BytesToMove(const Tensor& decoded, int64_t wire_bytes) {
  constexpr int64_t kLineValues = 16;
  const float* const values = decoded.data<float>();
  int64_t lines = 0;
  for (int64_t i = 0; i < decoded.elements(); i += kLineValues) {
    const int64_t end = std::min(i + kLineValues, decoded.elements());
    lines += std::any_of(values + i, values + end, [](float v) { return v != 0; }) ? 1 : 0;
  }
  return static_cast<double>(lines * kLineValues * SizeOf(DType::kF32) + 2 * wire_bytes + decoded.bytes());
}

// No codec of b bits a coordinate leaves less than 4^-b of a vector's square, in the worst case over vectors: what this one takes beyond
// the bits that what it left of x asks for.
double BitsAboveFloor(const Tensor& x, const Tensor& decoded, double bits_per_value) {
  double left = 0, all = 0;
  for (int64_t i = 0; i < x.elements(); ++i) {
    const double v = x.data<float>()[i], error = decoded.data<float>()[i] - v;
    left += error * error, all += v * v;
  }
  return bits_per_value - std::log2(all / left) / 2;
}

}  // namespace

absl::StatusOr<BenchReport> BenchCodecs() {
  BenchReport report{.bench = "codecs"};
  report.results.push_back(MeasureCopy(kValues * SizeOf(DType::kF32)));
  const OwnedTensor x({kValues}, DType::kF32), decoded({kValues}, DType::kF32);
  const RngKey noise{.seed = 1};
  for (int64_t i = 0; i < kValues; ++i) x->data<float>()[i] = static_cast<float>(noise.Normal(static_cast<uint64_t>(i)));
  for (const char* text : kCodecs) {
    CodecConfig config;
    CHECK(google::protobuf::TextFormat::ParseFromString(text, &config)) << text;
    ASSIGN_OR_RETURN(const std::unique_ptr<Compressor> compressor,
                     MakeCompressor(config, {.shape = {kRows, kValues / kRows}, .workers = kWorkers}));
    std::vector<std::byte> wire(static_cast<size_t>(compressor->MaxWireBytes()));
    CodecKey key{.seed = 1, .block = {0}, .worker = {0}};
    absl::Status status;
    int64_t wire_bytes = 0;
    const auto body = [&] {
      ++key.step;
      wire_bytes = compressor->Encode(*x, key, wire);
      status.Update(compressor->Decode(std::span(wire).first(static_cast<size_t>(wire_bytes)), key, *decoded));
    };
    const CodecTimes times = TimesInTurn(body, [&] { std::memcpy(decoded->raw(), x->raw(), static_cast<size_t>(x->bytes())); });
    BenchResult result{
        .name = absl::StrFormat("%s, encode and decode", text), .unit = "GB/s", .work = 1e-9 * static_cast<double>(x->bytes())};
    result.seconds = times.codec;
    RETURN_IF_ERROR(status);
    const double bits = 8 * static_cast<double>(wire_bytes) / static_cast<double>(kValues);
    result.facts = {{"of_copy", times.copy.median / times.codec.median}, {"wire_bits_per_value", bits}};
    if (config.has_rand_k() || config.has_random_block() || config.has_perm_k()) {
      const double copied = 2 * static_cast<double>(x->bytes());
      result.facts.push_back({"of_memory_speed", BytesToMove(*decoded, wire_bytes) / copied * times.copy.median / times.codec.median});
    }
    const CodecContract contract = compressor->Contract();
    if (contract.contractive() && !contract.lossless) {
      result.facts.push_back({"bits_above_floor", BitsAboveFloor(*x, *decoded, bits)});
    }
    report.results.push_back(std::move(result));
  }
  return report;
}

}  // namespace conclave
