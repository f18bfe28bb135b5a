#include "comm/compressors.h"

namespace conclave {
namespace {

CompressorOr MakeOfKind(const CodecConfig& config, const CompressorContext& context) {
  switch (config.kind_case()) {
    case CodecConfig::kIdentity:
      return MakeIdentityCodec(config.identity(), context);
    case CodecConfig::kRandK:
      return MakeRandKCodec(config.rand_k(), context);
    case CodecConfig::kNatural:
      return MakeNaturalCodec(config.natural(), context);
    case CodecConfig::kQsgd:
      return MakeQsgdCodec(config.qsgd(), context);
    case CodecConfig::kBlockInt:
      return MakeBlockIntCodec(config.block_int(), context);
    case CodecConfig::kPermK:
      return MakePermKCodec(config.perm_k(), context);
    case CodecConfig::kTopK:
      return MakeTopKCodec(config.top_k(), context);
    case CodecConfig::kTernary:
      return MakeTernaryCodec(config.ternary(), context);
    case CodecConfig::kScaledSign:
      return MakeScaledSignCodec(config.scaled_sign(), context);
    case CodecConfig::kBf16:
      return MakeBf16Codec(config.bf16(), context);
    case CodecConfig::kFp8:
      return MakeFp8Codec(config.fp8(), context);
    case CodecConfig::kRandomBlock:
      return MakeRandomBlockCodec(config.random_block(), context);
    case CodecConfig::kBlockwise:
      return MakeBlockwiseCodec(config.blockwise(), context);
    case CodecConfig::kLowRank:
      return MakeLowRankCodec(config.low_rank(), context);
    case CodecConfig::KIND_NOT_SET:
      break;
  }
  return InvalidArgument(
      "codec: none is chosen; known: identity, rand_k, natural, qsgd, block_int, perm_k, top_k, ternary, scaled_sign, bf16, fp8, "
      "random_block, blockwise, low_rank");
}

}  // namespace

CompressorOr MakeCompressor(const CodecConfig& config, const CompressorContext& context) {
  CompressorOr made = MakeOfKind(config, context);
  if (made.ok() && (*made)->text().empty()) (*made)->SetText(config.ShortDebugString());
  return made;
}

}  // namespace conclave
