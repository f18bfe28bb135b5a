#include "trainer/config_schema.h"

#include "base/strings.h"

namespace conclave {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::OneofDescriptor;

// True where `inner` is `outer` or lies inside it.
bool IsWithin(std::string_view inner, std::string_view outer) {
  if (outer.empty()) return true;
  if (inner.substr(0, outer.size()) != outer) return false;
  return inner.size() == outer.size() || inner[outer.size()] == '.' || inner[outer.size()] == '[';
}

}  // namespace

bool DamagedPaths::Touches(std::string_view path) const {
  for (const std::string& damaged : paths_) {
    if (IsWithin(path, damaged) || IsWithin(damaged, path)) return true;
  }
  return false;
}

const FieldSpec& SpecOf(const FieldDescriptor& field) { return field.options().GetExtension(field_spec); }

std::string MessageName(const Descriptor& message) {
  std::string name = message.name();
  constexpr std::string_view kSuffix = "Config";
  if (name.size() > kSuffix.size() && std::string_view(name).substr(name.size() - kSuffix.size()) == kSuffix) {
    name.resize(name.size() - kSuffix.size());
  }
  return name;
}

std::vector<std::string> FieldNames(const Descriptor& message) {
  std::vector<std::string> names;
  for (int i = 0; i < message.field_count(); ++i) names.push_back(message.field(i)->name());
  return names;
}

std::vector<std::string> MemberNames(const OneofDescriptor& oneof) {
  std::vector<std::string> names;
  for (int i = 0; i < oneof.field_count(); ++i) names.push_back(oneof.field(i)->name());
  return names;
}

std::vector<std::string> EnumNames(const EnumDescriptor& type) {
  std::vector<std::string> names;
  for (int i = 0; i < type.value_count(); ++i) names.push_back(type.value(i)->name());
  return names;
}

std::string ExpectedValue(const FieldDescriptor& field) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return "true or false";
    case FieldDescriptor::CPPTYPE_STRING:
      return "a string in quotes";
    case FieldDescriptor::CPPTYPE_ENUM:
      return "one of " + JoinStrings(EnumNames(*field.enum_type()), ", ");
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return "a block { ... }";
    case FieldDescriptor::CPPTYPE_FLOAT:
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return "a number";
    case FieldDescriptor::CPPTYPE_UINT32:
    case FieldDescriptor::CPPTYPE_UINT64:
      return "a non-negative integer";
    default:
      return "an integer";
  }
}

std::string BoundsText(const FieldSpec& spec) {
  const bool below = spec.has_min() || spec.has_exclusive_min();
  const bool above = spec.has_max() || spec.has_exclusive_max();
  const auto number = [](double value) { return absl::StrFormat("%.15g", value); };
  const std::string low = number(spec.has_min() ? spec.min() : spec.exclusive_min());
  const std::string high = number(spec.has_max() ? spec.max() : spec.exclusive_max());
  if (below && above) {
    return absl::StrFormat("in %s%s, %s%s", spec.has_min() ? "[" : "(", low, high, spec.has_max() ? "]" : ")");
  }
  if (below) return (spec.has_min() ? ">= " : "> ") + low;
  if (above) return (spec.has_max() ? "<= " : "< ") + high;
  return "";
}

bool WithinBounds(const FieldSpec& spec, double value) {
  return !(spec.has_min() && !(value >= spec.min())) && !(spec.has_max() && !(value <= spec.max())) &&
         !(spec.has_exclusive_min() && !(value > spec.exclusive_min())) && !(spec.has_exclusive_max() && !(value < spec.exclusive_max()));
}

std::string UnknownFieldHint(const Descriptor& message, const std::string& name, std::string* likely) {
  likely->clear();
  const std::vector<std::string> known = FieldNames(message);
  const std::string closest = ClosestName(name, known);
  for (int i = 0; i < message.field_count() && closest.empty(); ++i) {
    const Descriptor* inner = message.field(i)->message_type();
    if (inner == nullptr || inner->FindFieldByName(name) == nullptr) continue;
    *likely = message.field(i)->name();
    return absl::StrFormat("; it belongs into '%s { ... }'", *likely);
  }
  *likely = closest;
  return Suggestion(name, known);
}

std::string ChildPath(std::string_view parent, std::string_view name) {
  std::string path(parent);
  if (!path.empty()) path += '.';
  return path += name;
}

std::string ElementPath(std::string_view path, int index) { return absl::StrFormat("%s[%d]", std::string(path), index); }

std::string ParentOfPath(std::string_view path) {
  const size_t dot = path.rfind('.');
  return std::string(dot == std::string_view::npos ? "" : path.substr(0, dot));
}

ConfigPlace NearestPlace(const ConfigPlaces& places, std::string_view path, int root) {
  std::string at(path);
  while (!at.empty()) {
    const auto found = places.find(at);
    if (found != places.end() && found->second.source >= 0) return found->second;
    at = ParentOfPath(at);
  }
  return {.source = root, .offset = 0, .whole_source = true};
}

}  // namespace conclave
