#include "comm/kept_values.h"

namespace conclave {
namespace {

bool KeepsAll(const CodecConfig& config) {
  switch (config.kind_case()) {
    case CodecConfig::kRandK:
    case CodecConfig::kPermK:
    case CodecConfig::kTopK:
    case CodecConfig::kRandomBlock:
    case CodecConfig::kBlockwise:
      return false;
    default:
      return true;
  }
}

}  // namespace

absl::StatusOr<KeptValues> KeptValues::Make(const Options& options, const CompressorContext& context) {
  CodecConfig config;
  config.mutable_identity();
  if (options.codec != nullptr) config = *options.codec;
  if (!KeepsAll(config)) {
    return InvalidArgument("%s.values: must be a codec that keeps every coordinate, such as natural or block_int", options.owner);
  }
  KeptValues kept;
  CompressorOr codec = MakeCompressor(config, {.shape = {options.count}, .dtype = context.dtype, .workers = context.workers});
  if (!codec.ok()) return Annotate(codec.status(), absl::StrFormat("%s.values", options.owner));
  kept.codec_ = *std::move(codec);
  kept.contract_ = kept.codec_->Contract();
  if (options.unbiased && !kept.contract_.unbiased) {
    return InvalidArgument("%s.values: needs an unbiased codec (identity, natural, qsgd, block_int { rounding: STOCHASTIC }, ternary)",
                           options.owner);
  }
  if (!options.unbiased && !kept.contract_.contractive()) {
    return InvalidArgument("%s.values: the codec is not contractive for %d values (q = %g, must be below 2)", options.owner, options.count,
                           kept.contract_.q);
  }
  kept.scratch_ = OwnedTensor({options.count}, context.dtype);
  return kept;
}

}  // namespace conclave
