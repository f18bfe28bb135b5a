#include "trainer/config_resolved.h"

#include <optional>
#include <utility>

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/text_format.h>

#include "base/digest.h"
#include "trainer/config_defaults.h"
#include "trainer/config_parse.h"
#include "trainer/config_schema.h"

namespace conclave {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::OneofDescriptor;
using google::protobuf::Reflection;
using google::protobuf::TextFormat;

// A field's value on one line; index -1 for a singular one.
std::string ValueText(const Message& message, const FieldDescriptor& field, int index) {
  TextFormat::Printer printer;
  printer.SetSingleLineMode(true);
  std::string text;
  printer.PrintFieldValueToString(message, &field, index, &text);
  while (!text.empty() && text.back() == ' ') text.pop_back();
  return field.message_type() == nullptr ? text : text.empty() ? "{}" : "{ " + text + " }";
}

// All of a field on one line: a list in brackets.
std::string FieldText(const Message& message, const FieldDescriptor& field) {
  const Reflection& reflection = *message.GetReflection();
  if (!field.is_repeated()) return reflection.HasField(message, &field) ? ValueText(message, field, -1) : "unset";
  std::string text;
  for (int i = 0; i < reflection.FieldSize(message, &field); ++i) text += (i == 0 ? "" : ", ") + ValueText(message, field, i);
  return "[" + text + "]";
}

class ResolvedPrinter {
 public:
  explicit ResolvedPrinter(const LoadedConfig& loaded) : loaded_(loaded) {}
  std::string Print() {
    PrintFields(loaded_.config, "", 0);
    return std::move(text_);
  }

 private:
  void PrintFields(const Message& message, const std::string& path, int depth);
  void PrintBlock(const Message& message, const std::string& name, const std::string& path, int depth);
  void Line(int depth, const std::string& content, const std::string& comment);

  const LoadedConfig& loaded_;
  std::string text_;
};

void ResolvedPrinter::Line(int depth, const std::string& content, const std::string& comment) {
  text_ += absl::StrFormat("%s%s  # %s\n", std::string(static_cast<size_t>(2 * depth), ' '), content, comment);
}

void ResolvedPrinter::PrintBlock(const Message& message, const std::string& name, const std::string& path, int depth) {
  Line(depth, name + " {", loaded_.Origin(path));
  PrintFields(message, path, depth + 1);
  text_ += std::string(static_cast<size_t>(2 * depth), ' ') + "}\n";
}

void ResolvedPrinter::PrintFields(const Message& message, const std::string& path, int depth) {
  const Descriptor& type = *message.GetDescriptor();
  const Reflection& reflection = *message.GetReflection();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    const std::string child = ChildPath(path, field.name());
    if (field.is_repeated()) {
      for (int k = 0; k < reflection.FieldSize(message, &field); ++k) {
        const std::string element = ElementPath(child, k);
        if (field.message_type() != nullptr) {
          PrintBlock(reflection.GetRepeatedMessage(message, &field, k), field.name(), element, depth);
        } else {
          Line(depth, field.name() + ": " + ValueText(message, field, k), loaded_.Origin(element));
        }
      }
    } else if (!reflection.HasField(message, &field)) {
      if (field.real_containing_oneof() == nullptr) Line(depth, "# " + field.name(), "unset");
    } else if (field.message_type() != nullptr) {
      PrintBlock(reflection.GetMessage(message, &field), field.name(), child, depth);
    } else {
      Line(depth, field.name() + ": " + ValueText(message, field, -1), loaded_.Origin(child));
    }
  }
}

class Differ {
 public:
  std::vector<ConfigChange> changes;

  void Compare(const Message& before, const Message& after, const std::string& path, FieldSpec::Resume inherited);

 private:
  // Reports a oneof whose member changed; its members are then not compared.
  bool MemberChanged(const Message& before, const Message& after, const FieldDescriptor& field, const std::string& path,
                     FieldSpec::Resume inherited);
};

bool Differ::MemberChanged(const Message& before, const Message& after, const FieldDescriptor& field, const std::string& path,
                           FieldSpec::Resume inherited) {
  const OneofDescriptor* oneof = field.real_containing_oneof();
  if (oneof == nullptr) return false;
  const FieldDescriptor* old_member = before.GetReflection()->GetOneofFieldDescriptor(before, oneof);
  const FieldDescriptor* new_member = after.GetReflection()->GetOneofFieldDescriptor(after, oneof);
  if (old_member == new_member) return false;
  if (&field == oneof->field(0)) {
    const auto name = [](const FieldDescriptor* member) { return member == nullptr ? std::string("unset") : member->name(); };
    changes.push_back({ChildPath(path, oneof->name()), name(old_member), name(new_member), inherited});
  }
  return true;
}

void Differ::Compare(const Message& before, const Message& after, const std::string& path, FieldSpec::Resume inherited) {
  const Descriptor& type = *before.GetDescriptor();
  const Reflection& reflection = *before.GetReflection();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    const FieldSpec::Resume own = SpecOf(field).resume();
    const FieldSpec::Resume resume = own == FieldSpec::UNCLASSIFIED ? inherited : own;
    const std::string child = ChildPath(path, field.name());
    if (MemberChanged(before, after, field, path, inherited)) continue;
    const bool list = field.is_repeated();
    const int size = list ? reflection.FieldSize(before, &field) : 0;
    const bool same_shape =
        list ? size == reflection.FieldSize(after, &field) : reflection.HasField(before, &field) == reflection.HasField(after, &field);
    if (field.message_type() != nullptr && same_shape) {
      for (int k = 0; k < size; ++k) {
        Compare(reflection.GetRepeatedMessage(before, &field, k), reflection.GetRepeatedMessage(after, &field, k), ElementPath(child, k),
                resume);
      }
      if (!list && reflection.HasField(before, &field))
        Compare(reflection.GetMessage(before, &field), reflection.GetMessage(after, &field), child, resume);
      continue;
    }
    const std::string old_value = FieldText(before, field);
    const std::string new_value = FieldText(after, field);
    if (old_value != new_value) changes.push_back({child, old_value, new_value, resume});
  }
}

}  // namespace

uint64_t ConfigHash(const Experiment& config) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    config.SerializeToCodedStream(&coded);
  }
  return DigestOf(bytes);
}

std::string ResolvedText(const LoadedConfig& loaded) { return ResolvedPrinter(loaded).Print(); }

absl::StatusOr<Experiment> ParseResolvedConfig(const std::string& text) {
  Experiment config;
  if (const std::optional<ParseFault> fault = ParseConfigText(text, ParseMode::kStrict, &config)) {
    const LineColumn at = LocateByte({.text = text}, fault->offset);
    return DataLoss("the saved config cannot be read at line %d, column %d: %s", at.line, at.column, fault->message);
  }
  ConfigPlaces places;
  FillDefaults(&config, &places);  // fields that are younger than the text
  return config;
}

std::vector<ConfigChange> DiffForResume(const Experiment& old_config, const Experiment& new_config) {
  Differ differ;
  differ.Compare(old_config, new_config, "", FieldSpec::FORBIDDEN);
  return std::move(differ.changes);
}

absl::Status CheckResume(const Experiment& old_config, const Experiment& new_config) {
  std::string forbidden;
  for (const ConfigChange& change : DiffForResume(old_config, new_config)) {
    if (change.resume != FieldSpec::FORBIDDEN) continue;
    forbidden += absl::StrFormat("\n  %s: %s -> %s", change.path, change.old_value, change.new_value);
  }
  if (forbidden.empty()) return absl::OkStatus();
  return FailedPrecondition("this run cannot resume with these settings changed; set them back, or start a new run:%s", forbidden);
}

}  // namespace conclave
