// A strict JSON reader (RFC 8259) for the headers and lines we write ourselves, and the pieces of a writer.
#ifndef CONCLAVE_TRAINER_JSON_H_
#define CONCLAVE_TRAINER_JSON_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"

namespace conclave {

struct JsonValue {
  enum class Kind { kNull, kFalse, kTrue, kNumber, kString, kArray, kObject };
  Kind kind = Kind::kNull;
  std::string text;  // of a string, unescaped; of a number, as written
  std::vector<JsonValue> items;
  std::vector<std::pair<std::string, JsonValue>> members;  // in the order of the text; keys are distinct

  const JsonValue* Find(std::string_view key) const;  // null where this is no object or has no such member
  // Errors: InvalidArgument where this is no number, or no integer of that range.
  absl::StatusOr<int64_t> AsInt64() const;
  absl::StatusOr<double> AsDouble() const;  // also "NaN", "Infinity" and "-Infinity" as strings
};

// The whole text is one value with white space around it. Refused: bad UTF-8, repeated keys, nesting deeper than 64. Errors:
// InvalidArgument with the byte.
absl::StatusOr<JsonValue> ParseJson(std::string_view text);

bool IsUtf8(std::string_view text);

// Appends a string in quotes; control characters, quotes and backslashes escaped.
void AppendJsonString(std::string_view text, std::string* out);
// Appends %.17g, or "NaN", "Infinity", "-Infinity" in quotes.
void AppendJsonNumber(double value, std::string* out);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_JSON_H_
