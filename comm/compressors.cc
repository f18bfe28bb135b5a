#include "comm/compressors.h"

namespace conclave {

CompressorOr MakeCompressor(const CodecConfig& config, const CompressorContext& context) {
  switch (config.kind_case()) {
    case CodecConfig::kIdentity:
      return MakeIdentityCodec(config.identity(), context);
    case CodecConfig::kRandK:
      return MakeRandKCodec(config.rand_k(), context);
    case CodecConfig::KIND_NOT_SET:
      break;
  }
  return InvalidArgument("codec: none is chosen; known: identity, rand_k");
}

}  // namespace conclave
