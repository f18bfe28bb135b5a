// Makes a source from its config.
#ifndef CONCLAVE_DATA_SOURCE_FACTORY_H_
#define CONCLAVE_DATA_SOURCE_FACTORY_H_

#include <cstdint>
#include <memory>

#include "base/file_system.h"
#include "data/source.h"
#include "data/tokenizer.h"
#include "proto/data.pb.h"

namespace conclave {

// A source cut into what is trained on and what is held out. `validation` is null where nothing is held out.
struct SplitSource {
  std::unique_ptr<Source> train;
  std::unique_ptr<Source> validation;
  double bytes_per_token = 0;  // of its text; 0: unknown
};

// What the makers need besides a source's own message.
struct SourceContext {
  const DataConfig* data = nullptr;
  uint64_t seed = 0;
  int index = 0;                         // position among the sources; keys what is random in it
  int64_t context = 0;                   // tokens of a sample
  int64_t unsampled_rows = 1;            // size of a source that has no samples
  const Tokenizer* tokenizer = nullptr;  // of text and shards
  const FileSystem* files = nullptr;
};

// Errors: those of reading the data; InvalidArgument where it is too small for one sample or does not fit the vocabulary.
absl::StatusOr<SplitSource> SourceFromConfig(const SourceConfig& config, const SourceContext& context);

// True for sources of tokens, which need a tokenizer.
bool NeedsTokenizer(const SourceConfig& config);

}  // namespace conclave

#endif  // CONCLAVE_DATA_SOURCE_FACTORY_H_
