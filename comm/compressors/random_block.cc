// Random block: k consecutive coordinates from a uniformly drawn one on, going on at the front behind the end, scaled by d / k. Every
// coordinate is kept with probability k / d: E Q(x) = x, E |Q(x)|^2 = (d / k) |x|^2. Memory is read and written in one run or two.
// Wire: the k scaled values in that order, by their codec. The receiver draws the same start.
#include <algorithm>

#include "comm/codec_draws.h"
#include "comm/compressors.h"
#include "comm/kept_values.h"
#include "comm/sums.h"

namespace conclave {
namespace {

class RandomBlockCodec final : public Compressor {
 public:
  RandomBlockCodec(int64_t k, KeptValues kept, const CompressorContext& context)
      : k_(k), d_(context.shape.elements()), dtype_(context.dtype), kept_(std::move(kept)) {}

  CodecContract Contract() const override {
    CodecContract contract = kept_.contract();
    contract.q *= static_cast<double>(d_) / static_cast<double>(k_);
    contract.lossless = contract.lossless && k_ == d_;
    contract.linear = false;
    return contract;
  }
  int64_t MaxWireBytes() const override { return kept_.MaxWireBytes(); }

  int64_t Encode(const Tensor& x, const CodecKey& key, std::span<std::byte> wire) const override {
    CHECK_EQ(x.elements(), d_);
    const int64_t start = Start(key), front = std::min(k_, d_ - start);
    const double scale = static_cast<double>(d_) / static_cast<double>(k_);
    const Tensor& out = kept_.values();
    ScaleInto(dtype_, scale, x.Flat().Slice(start, front).raw(), out.raw(), front);
    ScaleInto(dtype_, scale, x.raw(), out.Slice(front, k_ - front).raw(), k_ - front);
    return kept_.Encode(key, wire);
  }

  absl::Status Decode(std::span<const std::byte> wire, const CodecKey& key, const Tensor& x) const override {
    RETURN_IF_ERROR(kept_.Decode(wire, key));
    const int64_t start = Start(key), front = std::min(k_, d_ - start);
    const Tensor flat = x.Flat();
    x.Zero();
    flat.Slice(start, front).CopyFrom(kept_.values().Slice(0, front));
    flat.Slice(0, k_ - front).CopyFrom(kept_.values().Slice(front, k_ - front));
    return absl::OkStatus();
  }

 private:
  int64_t Start(const CodecKey& key) const {
    return static_cast<int64_t>(MaskDraws(key).Below(static_cast<uint64_t>(d_), static_cast<uint64_t>(key.first)));
  }

  const int64_t k_, d_;
  const DType dtype_;
  const KeptValues kept_;
};

}  // namespace

CompressorOr MakeRandomBlockCodec(const RandomBlockConfig& config, const CompressorContext& context) {
  ASSIGN_OR_RETURN(const int64_t k, CountOf("random_block", config.fraction(), context));
  ASSIGN_OR_RETURN(
      KeptValues kept,
      KeptValues::Make({.owner = "random_block", .codec = config.has_values() ? &config.values() : nullptr, .count = k}, context));
  return std::make_unique<RandomBlockCodec>(k, std::move(kept), context);
}

}  // namespace conclave
