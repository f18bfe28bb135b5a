#include "trainer/config_lexer.h"

namespace conclave {
namespace {

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsLetter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

// Length of the number at the start of `rest`: digits, letters (0x1f, 1e5, 2.5f), points, and a sign after an exponent's 'e'.
size_t NumberLength(std::string_view rest) {
  const bool hexadecimal = rest.size() > 1 && rest[0] == '0' && (rest[1] == 'x' || rest[1] == 'X');
  size_t n = 0;
  while (n < rest.size()) {
    const char c = rest[n];
    const bool sign_of_exponent = !hexadecimal && n > 0 && (c == '+' || c == '-') && (rest[n - 1] == 'e' || rest[n - 1] == 'E');
    if (!IsDigit(c) && !IsLetter(c) && c != '.' && !sign_of_exponent) break;
    ++n;
  }
  return n;
}

// Length of the quoted string at the start of `rest`, or of the rest of the line where it is not closed.
size_t StringLength(std::string_view rest, bool* closed) {
  *closed = false;
  size_t n = 1;
  while (n < rest.size() && rest[n] != '\n') {
    if (rest[n] == '\\' && n + 1 < rest.size() && rest[n + 1] != '\n') {
      n += 2;
      continue;
    }
    if (rest[n] == rest[0]) {
      *closed = true;
      return n + 1;
    }
    ++n;
  }
  return n;
}

}  // namespace

LexedText LexConfig(std::string_view text) {
  LexedText result;
  size_t at = 0;
  while (at < text.size()) {
    const std::string_view rest = text.substr(at);
    const char c = rest[0];
    if (c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\v' || c == '\f') {
      ++at;
      continue;
    }
    if (c == '#') {
      const size_t length = rest.find('\n');
      at = length == std::string_view::npos ? text.size() : at + length;
      continue;
    }
    ConfigToken token{TokenKind::kSymbol, {}, static_cast<int64_t>(at)};
    size_t length = 1;
    if (IsLetter(c)) {
      token.kind = TokenKind::kIdentifier;
      while (length < rest.size() && (IsLetter(rest[length]) || IsDigit(rest[length]))) ++length;
    } else if (IsDigit(c) || (c == '.' && rest.size() > 1 && IsDigit(rest[1]))) {
      token.kind = TokenKind::kNumber;
      length = NumberLength(rest);
    } else if (c == '"' || c == '\'') {
      token.kind = TokenKind::kString;
      bool closed = false;
      length = StringLength(rest, &closed);
      if (!closed) result.errors.push_back({token.offset, "this string is not closed before the end of the line"});
    }
    token.text = rest.substr(0, length);
    result.tokens.push_back(token);
    at += length;
  }
  result.tokens.push_back({TokenKind::kEnd, {}, static_cast<int64_t>(text.size())});
  return result;
}

}  // namespace conclave
