// Turns text into token shards, once: the result is kept in a cache under a name made of the text and the tokenizer.
#ifndef CONCLAVE_DATA_TOKENIZE_H_
#define CONCLAVE_DATA_TOKENIZE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/file_system.h"
#include "data/tokenizer.h"

namespace conclave {

struct TokenizeOptions {
  std::vector<std::string> text_files;  // in order
  std::string document_separator;       // empty: a file is one document
  std::string cache_dir;
  int64_t shard_tokens = 100'000'000;  // at most so many tokens a shard
};

// One tokenized text. Every document is followed by the tokenizer's end-of-document id, if it has one.
struct TokenizedText {
  std::vector<std::string> shards;  // in order
  int64_t tokens = 0;
  int64_t documents = 0;
  int64_t text_bytes = 0;  // of the documents, separators not counted
};

// Finds the shards of this text and tokenizer in the cache, or makes them. The folder appears whole or not at all, so several processes may
// call this at once and get equal results; one is enough. Cost of a hit: one read of the text (for its digest). Errors: those of the file
// system; InvalidArgument (empty text, a character without a token, a separator with a tokenizer that cannot mark documents).
absl::StatusOr<TokenizedText> TokenizeToShards(const TokenizeOptions& options, const Tokenizer& tokenizer, const FileSystem& files);

}  // namespace conclave

#endif  // CONCLAVE_DATA_TOKENIZE_H_
