#include "data/data_set.h"

#include <algorithm>

#include "data/source_factory.h"
#include "data/text.h"
#include "data/tokenizer_factory.h"

namespace conclave {

absl::StatusOr<std::unique_ptr<Tokenizer>> OpenTokenizer(const DataConfig& config, const FileSystem& files) {
  if (std::ranges::none_of(config.sources(), NeedsTokenizer)) return nullptr;
  TokenizerTraining training = {.cache_dir = config.cache_dir()};
  for (const SourceConfig& source : config.sources()) {
    if (!source.has_text()) continue;
    ASSIGN_OR_RETURN(const std::vector<std::string> paths, ExpandPaths(source.text().path(), files));
    training.text_files.insert(training.text_files.end(), paths.begin(), paths.end());
  }
  return TokenizerFromConfig(config.tokenizer(), training, files);
}

absl::StatusOr<DataSet> OpenData(const DataConfig& config, const LoaderOptions& options, int64_t context, const FileSystem& files) {
  DataSet data;
  ASSIGN_OR_RETURN(data.tokenizer, OpenTokenizer(config, files));
  SourceContext with = {.data = &config,
                        .seed = options.seed,
                        .context = context,
                        .unsampled_rows = options.global_batch,
                        .tokenizer = data.tokenizer.get(),
                        .files = &files};
  std::vector<WeightedSource> sources;
  std::vector<std::unique_ptr<Source>> held_out;
  double bytes = 0, weight = 0;
  for (const SourceConfig& source : config.sources()) {
    ASSIGN_OR_RETURN(SplitSource split, SourceFromConfig(source, with));
    sources.push_back({source.weight(), std::move(split.train), source.batch()});
    if (split.validation != nullptr) held_out.push_back(std::move(split.validation));
    const double share = source.batch() > 0 ? static_cast<double>(source.batch()) : source.weight();
    if (split.bytes_per_token > 0) bytes += share * split.bytes_per_token, weight += share;
    ++with.index;
  }
  if (weight > 0) data.bytes_per_token = bytes / weight;
  ASSIGN_OR_RETURN(Loader loader, Loader::Create(options, std::move(sources)));
  data.loader = std::make_unique<Loader>(std::move(loader));
  data.evaluation = EvaluationSet(std::move(held_out));
  return data;
}

}  // namespace conclave
