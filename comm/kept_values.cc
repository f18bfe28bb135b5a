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
  kept.plain_ = config.has_identity();
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

absl::StatusOr<const std::byte*> KeptValues::DecodePlaced(std::span<const std::byte> wire, const CodecKey& key) const {
  if (!plain_) {
    RETURN_IF_ERROR(Decode(wire, key));
    return static_cast<const std::byte*>(scratch_->raw());
  }
  if (static_cast<int64_t>(wire.size()) != MaxWireBytes()) return WrongLength("identity", key, MaxWireBytes(), wire.size());
  return wire.data();
}

}  // namespace conclave
