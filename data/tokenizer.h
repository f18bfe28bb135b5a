// Tokenizer: text to token ids and back. A new one is one file in tokenizers/, one message in proto/data.proto, one line in the factory.
#ifndef CONCLAVE_DATA_TOKENIZER_H_
#define CONCLAVE_DATA_TOKENIZER_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace conclave {

// Ids are 0 .. vocab_size() - 1. Immutable once made; const methods are thread-safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  virtual int64_t vocab_size() const = 0;
  // The id that stands after every document, or -1 if there is none.
  virtual int32_t end_of_document() const = 0;
  // Never adds end_of_document(). Errors: InvalidArgument where the text holds what has no token.
  virtual absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text) const = 0;
  // The text of the ids; ids that stand for no text (the end of a document, ids out of range) give none.
  // Decode(Encode(text)) == text, for SentencePiece models trained here: of valid UTF-8 without U+2581.
  virtual std::string Decode(std::span<const int32_t> ids) const = 0;
  // What kind it is, for people: "bytes".
  virtual std::string name() const = 0;
  // Equal exactly for tokenizers that encode equally; part of cache keys and run identities, so it never changes between versions.
  virtual std::string fingerprint() const = 0;
  // The content of the file it can be made from again; empty if the config alone says everything.
  virtual std::string file_content() const = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_DATA_TOKENIZER_H_
