// Makes a tokenizer from its config, and trains it where the config says so.
#ifndef CONCLAVE_DATA_TOKENIZER_FACTORY_H_
#define CONCLAVE_DATA_TOKENIZER_FACTORY_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_system.h"
#include "data/tokenizer.h"
#include "proto/data.pb.h"

namespace conclave {

// What training needs. A trained tokenizer is kept at the config's path or, without one, in `cache_dir` under a name made of the text's
// digest and the settings, and is written atomically: several processes may do this at once and get equal tokenizers.
struct TokenizerTraining {
  std::vector<std::string> text_files;  // in order; empty: nothing to train on, the tokenizer's file must be there
  std::string cache_dir;
};

// Errors: NotFound (no file and nothing to train on), InvalidArgument (a damaged file, another vocabulary size), Unavailable (SentencePiece
// is not installed, or this is a sanitizer build that cannot load it).
absl::StatusOr<std::unique_ptr<Tokenizer>> TokenizerFromConfig(const TokenizerConfig& config, const TokenizerTraining& training,
                                                               const FileSystem& files);

// True where SentencePiece can be loaded into this process; else the reason.
absl::Status SentencePieceAvailable();

}  // namespace conclave

#endif  // CONCLAVE_DATA_TOKENIZER_FACTORY_H_
