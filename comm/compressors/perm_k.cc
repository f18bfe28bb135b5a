// PermK (Szlendak, Tyurin, Richtarik, arXiv 2110.03300): every coordinate is kept by exactly one of the M workers, by each with probability
// 1 / M, scaled by M. So E Q_m(x) = x, E |Q_m(x)|^2 = M |x|^2, and of the mean g of Q_m(x_m): E |g|^2 = (1/M) sum |x_m|^2, with no error at
// all where the x_m are equal.
// The permutation is stratified (comm/strata.h): in coordinates g M .. g M + M - 1 worker m keeps number (m + s_g) mod M, with one shared
// draw s_g a stratum. The marginal is exactly 1 / M also where M does not divide d, and a draw serves M coordinates.
// Wire: the worker's ceil(d / M) values, stratum by stratum, by their codec; +0 where its number of the last, shorter stratum does not
// exist. The mask costs no bytes.
#include "comm/codec_draws.h"
#include "comm/compressors.h"
#include "comm/kept_values.h"
#include "comm/strata.h"

namespace conclave {
namespace {

class PermKCodec final : public Compressor {
 public:
  PermKCodec(KeptValues kept, const CompressorContext& context)
      : d_(context.shape.elements()), workers_(context.workers), kept_(std::move(kept)) {}

  CodecContract Contract() const override {
    CodecContract contract = kept_.contract();
    contract.q *= static_cast<double>(workers_);
    contract.correlated = workers_ > 1;
    contract.lossless = contract.lossless && workers_ == 1;
    contract.linear = false;
    return contract;
  }
  int64_t MaxWireBytes() const override { return kept_.MaxWireBytes(); }

  int64_t Encode(const Tensor& x, const CodecKey& key, std::span<std::byte> wire) const override {
    CHECK_EQ(x.elements(), d_);
    GatherKept(MaskOf(key), x.Flat(), static_cast<double>(workers_), kept_.Place(wire));
    return kept_.EncodePlaced(key, wire);
  }

  absl::Status Decode(std::span<const std::byte> wire, const CodecKey& key, const Tensor& x) const override {
    ASSIGN_OR_RETURN(const std::byte* values, kept_.DecodePlaced(wire, key));
    ScatterKept(MaskOf(key), values, x.Flat());
    return absl::OkStatus();
  }

 private:
  Strata MaskOf(const CodecKey& key) const {
    CHECK(key.worker.value >= 0 && key.worker.value < workers_) << key.worker.value;
    return {.elements = d_,
            .size = workers_,
            .offset = key.worker.value,
            .draws = SharedMaskDraws(key),
            .first_word = static_cast<uint64_t>(key.first)};
  }

  const int64_t d_;
  const int64_t workers_;
  const KeptValues kept_;
};

}  // namespace

CompressorOr MakePermKCodec(const PermKConfig& config, const CompressorContext& context) {
  const int64_t d = context.shape.elements();
  if (context.workers > d) {
    return InvalidArgument(
        "perm_k: a block of shape %s has fewer coordinates than there are workers (%d); send such blocks exactly with blockwise { "
        "exact_below: "
        "%d otherwise { perm_k {} } }",
        context.shape.ToString(), context.workers, context.workers);
  }
  const int64_t count = (d + context.workers - 1) / context.workers;
  ASSIGN_OR_RETURN(
      KeptValues kept,
      KeptValues::Make({.owner = "perm_k", .codec = config.has_values() ? &config.values() : nullptr, .count = count}, context));
  return std::make_unique<PermKCodec>(std::move(kept), context);
}

}  // namespace conclave
