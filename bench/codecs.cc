#include <algorithm>
#include <vector>

#include "base/rng.h"
#include "bench/benches.h"
#include "comm/compressors.h"

namespace conclave {
namespace {

constexpr int64_t kValues = int64_t{1} << 20;

struct NamedCodec {
  std::string name;
  CodecConfig config;
};

std::vector<NamedCodec> Codecs() {
  std::vector<NamedCodec> codecs(1);
  codecs[0].name = "identity";
  codecs[0].config.mutable_identity();
  for (const double fraction : {0.25, 0.1, 0.01}) {
    codecs.push_back({.name = absl::StrFormat("rand_k %g", fraction)});
    codecs.back().config.mutable_rand_k()->set_fraction(fraction);
  }
  return codecs;
}

}  // namespace

absl::StatusOr<BenchReport> BenchCodecs() {
  BenchReport report{.bench = "codecs"};
  const BenchResult copy = MeasureCopy(kValues * SizeOf(DType::kF32));
  report.results.push_back(copy);
  const OwnedTensor x({kValues}, DType::kF32), decoded({kValues}, DType::kF32);
  const RngKey noise{.seed = 1};
  for (int64_t i = 0; i < kValues; ++i) x->data<float>()[i] = static_cast<float>(noise.Normal(static_cast<uint64_t>(i)));
  for (const NamedCodec& codec : Codecs()) {
    ASSIGN_OR_RETURN(const std::unique_ptr<Compressor> compressor, MakeCompressor(codec.config, {.shape = {kValues}}));
    std::vector<std::byte> wire(static_cast<size_t>(compressor->MaxWireBytes()));
    CodecKey key{.seed = 1, .block = {0}, .worker = {0}};
    absl::Status status;
    int64_t wire_bytes = 0;
    const auto body = [&] {
      ++key.step;
      wire_bytes = compressor->Encode(*x, key, wire);
      status.Update(compressor->Decode(std::span(wire).first(static_cast<size_t>(wire_bytes)), key, *decoded));
    };
    BenchResult result{.name = codec.name + ", encode and decode", .unit = "GB/s", .work = 1e-9 * static_cast<double>(x->bytes())};
    result.seconds = Measure(body);
    RETURN_IF_ERROR(status);
    // A copy moves the vector's bytes twice, once out and once in.
    result.facts = {{"of_copy", 2 * result.Rate() / copy.Rate()},
                    {"wire_bits_per_value", 8 * static_cast<double>(wire_bytes) / static_cast<double>(kValues)}};
    report.results.push_back(std::move(result));
  }
  return report;
}

}  // namespace conclave
