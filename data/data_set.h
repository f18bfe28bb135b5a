// Everything a run needs of its data, made from the config.
#ifndef CONCLAVE_DATA_DATA_SET_H_
#define CONCLAVE_DATA_DATA_SET_H_

#include <memory>

#include "base/file_system.h"
#include "data/evaluation_set.h"
#include "data/loader.h"
#include "data/tokenizer.h"
#include "proto/data.pb.h"

namespace conclave {

struct DataSet {
  std::unique_ptr<Tokenizer> tokenizer;  // null where no source holds tokens
  std::unique_ptr<Loader> loader;
  EvaluationSet evaluation;
  double bytes_per_token = 0;  // of the text sources, weighted like the mixture; 0: none
};

// The tokenizer of a data config, trained on its text sources where the config says so; null where no source holds tokens.
absl::StatusOr<std::unique_ptr<Tokenizer>> OpenTokenizer(const DataConfig& config, const FileSystem& files);

// Opens the data: trains the tokenizer and tokenizes text where the cache lacks them. One rank should call this first and the others after
// it; calling at once costs work, not correctness. `context` is the model's (tokens of a sample; ignored by other sources). config:
// defaults filled in. Errors: those of reading and writing files, and InvalidArgument where parts do not fit; see the parts.
absl::StatusOr<DataSet> OpenData(const DataConfig& config, const LoaderOptions& options, int64_t context, const FileSystem& files);

}  // namespace conclave

#endif  // CONCLAVE_DATA_DATA_SET_H_
