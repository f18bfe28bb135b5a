#include <algorithm>
#include <vector>

#include <google/protobuf/text_format.h>

#include "base/rng.h"
#include "bench/benches.h"
#include "comm/compressors.h"

namespace conclave {
namespace {

constexpr int64_t kValues = int64_t{1} << 20;

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
};
constexpr int kWorkers = 8;

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
    ASSIGN_OR_RETURN(const std::unique_ptr<Compressor> compressor, MakeCompressor(config, {.shape = {kValues}, .workers = kWorkers}));
    std::vector<std::byte> wire(static_cast<size_t>(compressor->MaxWireBytes()));
    CodecKey key{.seed = 1, .block = {0}, .worker = {0}};
    absl::Status status;
    int64_t wire_bytes = 0;
    const auto body = [&] {
      ++key.step;
      wire_bytes = compressor->Encode(*x, key, wire);
      status.Update(compressor->Decode(std::span(wire).first(static_cast<size_t>(wire_bytes)), key, *decoded));
    };
    // Beside each codec, since the rest of the machine comes and goes.
    const BenchResult near = MeasureCopy(kValues * SizeOf(DType::kF32));
    BenchResult result{
        .name = absl::StrFormat("%s, encode and decode", text), .unit = "GB/s", .work = 1e-9 * static_cast<double>(x->bytes())};
    result.seconds = Measure(body);
    RETURN_IF_ERROR(status);
    // A copy moves the vector's bytes twice, once out and once in.
    result.facts = {{"of_copy", 2 * result.Rate() / near.Rate()},
                    {"wire_bits_per_value", 8 * static_cast<double>(wire_bytes) / static_cast<double>(kValues)}};
    report.results.push_back(std::move(result));
  }
  return report;
}

}  // namespace conclave
