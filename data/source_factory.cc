#include "data/source_factory.h"

namespace conclave {

// The makers, one a file in sources/.
absl::StatusOr<SplitSource> MakeTextSource(const TextSourceConfig& config, const SourceContext& context);
absl::StatusOr<SplitSource> MakeShardsSource(const ShardsSourceConfig& config, const SourceContext& context);
absl::StatusOr<SplitSource> MakeGaussianSource(const GaussianSourceConfig& config, const SourceContext& context);
absl::StatusOr<SplitSource> MakeImagesSource(const ImagesSourceConfig& config, const SourceContext& context);
absl::StatusOr<SplitSource> MakeNoSource(const SourceContext& context);

absl::StatusOr<SplitSource> SourceFromConfig(const SourceConfig& config, const SourceContext& context) {
  switch (config.kind_case()) {
    case SourceConfig::kText:
      return MakeTextSource(config.text(), context);
    case SourceConfig::kShards:
      return MakeShardsSource(config.shards(), context);
    case SourceConfig::kGaussian:
      return MakeGaussianSource(config.gaussian(), context);
    case SourceConfig::kImages:
      return MakeImagesSource(config.images(), context);
    case SourceConfig::kNone:
      return MakeNoSource(context);
    case SourceConfig::KIND_NOT_SET:
      break;
  }
  return InvalidArgument("data.sources[%d]: no kind is set; choose text, shards, gaussian, images or none", context.index);
}

bool NeedsTokenizer(const SourceConfig& config) { return config.has_text() || config.has_shards(); }

}  // namespace conclave
