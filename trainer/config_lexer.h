// Tokens of Protobuf text format, each with its place. What the config's own diagnostics are built on.
#ifndef CONCLAVE_TRAINER_CONFIG_LEXER_H_
#define CONCLAVE_TRAINER_CONFIG_LEXER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace conclave {

enum class TokenKind {
  kIdentifier,
  kNumber,  // without a sign
  kString,  // with its quotes
  kSymbol,  // one character
  kEnd,
};

struct ConfigToken {
  TokenKind kind = TokenKind::kEnd;
  std::string_view text;
  int64_t offset = 0;  // bytes from the start of the text
  bool Is(std::string_view symbol) const { return kind == TokenKind::kSymbol && text == symbol; }
};

// A fault of spelling that no grammar can hide: an unclosed string.
struct LexicalError {
  int64_t offset = 0;
  std::string message;
};

struct LexedText {
  std::vector<ConfigToken> tokens;  // ends with a kEnd at the end of the text
  std::vector<LexicalError> errors;
};

// Cuts `text` into tokens, which are views into it. Comments run from '#' to the end of the line. Linear in the text's length.
LexedText LexConfig(std::string_view text);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_CONFIG_LEXER_H_
