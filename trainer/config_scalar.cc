#include "trainer/config_scalar.h"

#include <charconv>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string_view>

#include "trainer/config_schema.h"

namespace conclave {
namespace {

using google::protobuf::FieldDescriptor;

std::string Mismatch(const FieldDescriptor& field, bool negative, const ConfigToken& value) {
  const std::string got =
      value.kind == TokenKind::kEnd ? "the end of the text" : absl::StrFormat("%s%s", negative ? "-" : "", std::string(value.text));
  return absl::StrFormat("'%s' expects %s, got %s", field.name(), ExpectedValue(field), got);
}

bool IsDecimalDigit(char c) { return c >= '0' && c <= '9'; }

bool LooksOctal(std::string_view text) { return text.size() > 1 && text[0] == '0' && IsDecimalDigit(text[1]); }

std::string OctalFault(std::string_view text) {
  std::string_view decimal = text;
  while (LooksOctal(decimal)) decimal.remove_prefix(1);
  return absl::StrFormat("'%s' starts with 0 and would be read as an octal number; write %s", std::string(text), std::string(decimal));
}

std::optional<double> ParseReal(std::string_view text) {
  if (!text.empty() && (text.back() == 'f' || text.back() == 'F')) text.remove_suffix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (end != text.data() + text.size() || error == std::errc::invalid_argument) return std::nullopt;
  if (error == std::errc::result_out_of_range) return std::numeric_limits<double>::infinity();
  return value;
}

std::string BoundsFault(const FieldDescriptor& field, double value, const std::string& shown) {
  const FieldSpec& spec = SpecOf(field);
  if (WithinBounds(spec, value)) return "";
  const std::string unit = spec.unit().empty() ? "" : " " + spec.unit();
  return absl::StrFormat("'%s' must be %s%s, got %s", field.name(), BoundsText(spec), unit, shown);
}

std::string RealFault(const FieldDescriptor& field, bool negative, const ConfigToken& value) {
  const std::string shown = (negative ? "-" : "") + std::string(value.text);
  const bool named = value.kind == TokenKind::kIdentifier && (value.text == "inf" || value.text == "infinity" || value.text == "nan" ||
                                                              value.text == "Infinity" || value.text == "NaN");
  if (named) return absl::StrFormat("'%s' must be finite, got %s", field.name(), shown);
  if (value.kind != TokenKind::kNumber) return Mismatch(field, negative, value);
  if (LooksOctal(value.text)) return OctalFault(value.text);
  const std::optional<double> magnitude = ParseReal(value.text);
  if (!magnitude) return Mismatch(field, negative, value);
  if (std::isinf(*magnitude)) return absl::StrFormat("'%s' must be finite, %s is beyond the largest double", field.name(), shown);
  return BoundsFault(field, negative ? -*magnitude : *magnitude, shown);
}

// The largest magnitude of the field's type on this side of zero.
uint64_t IntegerLimit(const FieldDescriptor& field, bool negative) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_UINT64:
      return negative ? 0 : std::numeric_limits<uint64_t>::max();
    case FieldDescriptor::CPPTYPE_UINT32:
      return negative ? 0 : std::numeric_limits<uint32_t>::max();
    case FieldDescriptor::CPPTYPE_INT32:
      return static_cast<uint64_t>(std::numeric_limits<int32_t>::max()) + (negative ? 1 : 0);
    default:
      return static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) + (negative ? 1 : 0);
  }
}

std::string IntegerFault(const FieldDescriptor& field, bool negative, const ConfigToken& value) {
  if (value.kind != TokenKind::kNumber) return Mismatch(field, negative, value);
  if (LooksOctal(value.text)) return OctalFault(value.text);
  const bool hexadecimal = value.text.size() > 2 && value.text[0] == '0' && (value.text[1] == 'x' || value.text[1] == 'X');
  const std::string_view digits = hexadecimal ? value.text.substr(2) : value.text;
  uint64_t magnitude = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), magnitude, hexadecimal ? 16 : 10);
  if (end != digits.data() + digits.size()) {
    const std::optional<double> real = ParseReal(value.text);
    const bool whole = real && std::floor(*real) == *real && *real < 1e15;
    return Mismatch(field, negative, value) + (whole ? absl::StrFormat("; write %s%.0f", negative ? "-" : "", *real) : "");
  }
  const std::string shown = (negative ? "-" : "") + std::string(value.text);
  if (error == std::errc::result_out_of_range || magnitude > IntegerLimit(field, negative)) {
    if (negative && IntegerLimit(field, true) == 0) return absl::StrFormat("'%s' must not be negative, got %s", field.name(), shown);
    return absl::StrFormat("%s does not fit '%s' (%s)", shown, field.name(), field.cpp_type_name());
  }
  const double real = static_cast<double>(magnitude);
  return BoundsFault(field, negative ? -real : real, shown);
}

std::string EnumFault(const FieldDescriptor& field, bool negative, const ConfigToken& value) {
  if (negative || value.kind != TokenKind::kIdentifier) return Mismatch(field, negative, value);
  if (field.enum_type()->FindValueByName(std::string(value.text)) != nullptr) return "";
  return absl::StrFormat("'%s' has no value '%s'%s", field.name(), std::string(value.text),
                         Suggestion(value.text, EnumNames(*field.enum_type())));
}

}  // namespace

std::string ScalarFault(const FieldDescriptor& field, bool negative, const ConfigToken& value) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      return negative || value.kind != TokenKind::kString ? Mismatch(field, negative, value) : "";
    case FieldDescriptor::CPPTYPE_BOOL: {
      const bool known = value.kind == TokenKind::kIdentifier && (value.text == "true" || value.text == "false");
      return negative || !known ? Mismatch(field, negative, value) : "";
    }
    case FieldDescriptor::CPPTYPE_ENUM:
      return EnumFault(field, negative, value);
    case FieldDescriptor::CPPTYPE_FLOAT:
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return RealFault(field, negative, value);
    default:
      return IntegerFault(field, negative, value);
  }
}

}  // namespace conclave
