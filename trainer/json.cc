#include "trainer/json.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "base/strings.h"

namespace conclave {
namespace {

constexpr int kMaxDepth = 64;

void AppendUtf8(uint32_t code, std::string* out) {
  const auto put = [out](uint32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (code < 0x80) return put(code);
  if (code < 0x800) return put(0xC0 | code >> 6), put(0x80 | (code & 0x3F));
  if (code < 0x10000) return put(0xE0 | code >> 12), put(0x80 | (code >> 6 & 0x3F)), put(0x80 | (code & 0x3F));
  put(0xF0 | code >> 18), put(0x80 | (code >> 12 & 0x3F)), put(0x80 | (code >> 6 & 0x3F)), put(0x80 | (code & 0x3F));
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  absl::StatusOr<JsonValue> Document() {
    JsonValue value;
    RETURN_IF_ERROR(Value(0, &value));
    SkipSpace();
    if (at_ != text_.size()) return Bad("more text after the value");
    return value;
  }

 private:
  absl::Status Bad(const char* what) const { return InvalidArgument("JSON, byte %d: %s", at_, what); }
  bool AtEnd() const { return at_ == text_.size(); }
  char Peek() const { return AtEnd() ? '\0' : text_[at_]; }
  void SkipSpace() {
    while (!AtEnd() && (Peek() == ' ' || Peek() == '\t' || Peek() == '\n' || Peek() == '\r')) ++at_;
  }
  bool Take(std::string_view token) {
    if (text_.substr(at_, token.size()) != token) return false;
    at_ += token.size();
    return true;
  }

  absl::Status Value(int depth, JsonValue* out) {
    if (depth > kMaxDepth) return Bad("nested too deeply");
    SkipSpace();
    switch (Peek()) {
      case '{':
        return Object(depth, out);
      case '[':
        return Array(depth, out);
      case '"':
        out->kind = JsonValue::Kind::kString;
        return String(&out->text);
      default:
        break;
    }
    if (Take("null")) return absl::OkStatus();
    if (Take("true")) return out->kind = JsonValue::Kind::kTrue, absl::OkStatus();
    if (Take("false")) return out->kind = JsonValue::Kind::kFalse, absl::OkStatus();
    return Number(out);
  }

  absl::Status Object(int depth, JsonValue* out) {
    out->kind = JsonValue::Kind::kObject;
    ++at_;
    SkipSpace();
    if (Take("}")) return absl::OkStatus();
    std::set<std::string> keys;
    for (;;) {
      SkipSpace();
      if (Peek() != '"') return Bad("expected a key in quotes");
      auto& [key, value] = out->members.emplace_back();
      RETURN_IF_ERROR(String(&key));
      if (!keys.insert(key).second) return Bad("a key appears twice");
      SkipSpace();
      if (!Take(":")) return Bad("expected ':'");
      RETURN_IF_ERROR(Value(depth + 1, &value));
      SkipSpace();
      if (Take("}")) return absl::OkStatus();
      if (!Take(",")) return Bad("expected ',' or '}'");
    }
  }

  absl::Status Array(int depth, JsonValue* out) {
    out->kind = JsonValue::Kind::kArray;
    ++at_;
    SkipSpace();
    if (Take("]")) return absl::OkStatus();
    for (;;) {
      RETURN_IF_ERROR(Value(depth + 1, &out->items.emplace_back()));
      SkipSpace();
      if (Take("]")) return absl::OkStatus();
      if (!Take(",")) return Bad("expected ',' or ']'");
    }
  }

  absl::Status Hex4(uint32_t* code) {
    *code = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = Peek();
      const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
      if (digit < 0) return Bad("expected four hexadecimal digits");
      *code = *code << 4 | static_cast<uint32_t>(digit);
    }
    return absl::OkStatus();
  }

  absl::Status Escape(std::string* out) {
    static constexpr std::string_view kFrom = "\"\\/bfnrt", kTo = "\"\\/\b\f\n\r\t";
    const char c = Peek();
    ++at_;
    if (const size_t i = kFrom.find(c); i != std::string_view::npos) return out->push_back(kTo[i]), absl::OkStatus();
    if (c != 'u') return Bad("unknown escape");
    uint32_t code = 0, low = 0;
    RETURN_IF_ERROR(Hex4(&code));
    if (code >= 0xD800 && code < 0xDC00) {
      if (!Take("\\u")) return Bad("half of a surrogate pair");
      RETURN_IF_ERROR(Hex4(&low));
      if (low < 0xDC00 || low > 0xDFFF) return Bad("half of a surrogate pair");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    } else if (code >= 0xDC00 && code < 0xE000) {
      return Bad("half of a surrogate pair");
    }
    AppendUtf8(code, out);
    return absl::OkStatus();
  }

  absl::Status String(std::string* out) {
    ++at_;
    for (;;) {
      if (AtEnd()) return Bad("a string without end");
      const char c = text_[at_];
      if (static_cast<unsigned char>(c) < 0x20) return Bad("a control character in a string");
      ++at_;
      if (c == '"') return absl::OkStatus();
      if (c != '\\') {
        out->push_back(c);
      } else {
        if (AtEnd()) return Bad("a string without end");
        RETURN_IF_ERROR(Escape(out));
      }
    }
  }

  bool Digits() {
    const size_t begin = at_;
    while (Peek() >= '0' && Peek() <= '9') ++at_;
    return at_ > begin;
  }

  absl::Status Number(JsonValue* out) {
    const size_t begin = at_;
    Take("-");
    if (!Take("0") && !Digits()) return Bad("expected a value");
    if (Take(".") && !Digits()) return Bad("expected a digit");
    if (Take("e") || Take("E")) {
      if (!Take("+")) Take("-");
      if (!Digits()) return Bad("expected a digit");
    }
    out->kind = JsonValue::Kind::kNumber;
    out->text = text_.substr(begin, at_ - begin);
    return absl::OkStatus();
  }

  const std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

const JsonValue* JsonValue::Find(std::string_view key) const {
  const auto it = std::find_if(members.begin(), members.end(), [key](const auto& member) { return member.first == key; });
  return it == members.end() ? nullptr : &it->second;
}

absl::StatusOr<int64_t> JsonValue::AsInt64() const {
  if (kind != Kind::kNumber) return InvalidArgument("expected a number");
  return ParseInt64(text);
}

absl::StatusOr<double> JsonValue::AsDouble() const {
  if (kind == Kind::kNumber) return ParseDouble(text);
  if (kind == Kind::kString && text == "NaN") return std::numeric_limits<double>::quiet_NaN();
  if (kind == Kind::kString && text == "Infinity") return std::numeric_limits<double>::infinity();
  if (kind == Kind::kString && text == "-Infinity") return -std::numeric_limits<double>::infinity();
  return InvalidArgument("expected a number");
}

absl::StatusOr<JsonValue> ParseJson(std::string_view text) {
  if (!IsUtf8(text)) return InvalidArgument("JSON: the text is not UTF-8");
  return Parser(text).Document();
}

// Well-formed byte sequences: The Unicode Standard, table 3-7.
bool IsUtf8(std::string_view text) {
  const auto byte = [text](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  for (size_t i = 0; i < text.size();) {
    const unsigned lead = byte(i);
    int more = 0;
    unsigned least = 0x80, most = 0xBF;  // of the second byte
    if (lead < 0x80) {
      ++i;
      continue;
    } else if (lead >= 0xC2 && lead <= 0xDF) {
      more = 1;
    } else if (lead >= 0xE0 && lead <= 0xEF) {
      more = 2;
      if (lead == 0xE0) least = 0xA0;
      if (lead == 0xED) most = 0x9F;
    } else if (lead >= 0xF0 && lead <= 0xF4) {
      more = 3;
      if (lead == 0xF0) least = 0x90;
      if (lead == 0xF4) most = 0x8F;
    } else {
      return false;
    }
    if (byte(i + 1) < least || byte(i + 1) > most) return false;
    for (int k = 2; k <= more; ++k) {
      if (byte(i + k) < 0x80 || byte(i + k) > 0xBF) return false;
    }
    i += static_cast<size_t>(more) + 1;
  }
  return true;
}

void AppendJsonString(std::string_view text, std::string* out) {
  out->push_back('"');
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out->push_back('\\');
      out->push_back(c);
    } else if (c == '\n') {
      out->append("\\n");
    } else if (static_cast<unsigned char>(c) < 0x20) {
      absl::StrAppendFormat(out, "\\u%04x", static_cast<unsigned>(c));
    } else {
      out->push_back(c);
    }
  }
  out->push_back('"');
}

void AppendJsonNumber(double value, std::string* out) {
  if (std::isnan(value)) return AppendJsonString("NaN", out);
  if (std::isinf(value)) return AppendJsonString(value > 0 ? "Infinity" : "-Infinity", out);
  absl::StrAppendFormat(out, "%.17g", value);
}

}  // namespace conclave
