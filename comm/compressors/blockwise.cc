// Blockwise: which codec a block gets, by its name and size.
#include "base/glob.h"
#include "comm/compressors.h"

namespace conclave {

CompressorOr MakeBlockwiseCodec(const BlockwiseConfig& config, const CompressorContext& context) {
  if (context.shape.elements() < config.exact_below()) return MakeIdentityCodec({}, context);
  for (const BlockwiseRuleConfig& rule : config.rules()) {
    if (GlobMatches(rule.pattern(), context.name)) return MakeCompressor(rule.codec(), context);
  }
  return MakeCompressor(config.otherwise(), context);
}

}  // namespace conclave
