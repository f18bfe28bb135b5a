#include "launch/reference.h"

#include <set>
#include <vector>

#include "base/strings.h"
#include "proto/experiment.pb.h"
#include "trainer/config_schema.h"

namespace conclave {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

constexpr const char* kIntroduction =
    "# The config\n\n"
    "Every field of an experiment, written by `conclave check --reference` from the schema in `proto/`. A block that is left out has its "
    "defaults,\n"
    "unless its absence has a meaning of its own. Of the members of a *one of*, a config names one. *Resume* says whether a run may go on "
    "with\n"
    "another value: yes; reshard (the saved state is laid out anew); no.\n\n"
    "Layers, later ones win: defaults, `include: \"file\"` lines, the file, `--set path=value` (`+=` appends to a list).\n";

const char* ResumeText(FieldSpec::Resume resume) {
  switch (resume) {
    case FieldSpec::SAFE:
      return "yes";
    case FieldSpec::NEEDS_RESHARD:
      return "reshard";
    default:
      return "no";
  }
}

// "list of number", "TextSource", "BYTES or WORDS".
std::string TypeText(const FieldDescriptor& field) {
  std::string type;
  if (field.message_type() != nullptr) {
    type = "[" + MessageName(*field.message_type()) + "](#" + MessageName(*field.message_type()) + ")";
  } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_ENUM) {
    type = JoinStrings(EnumNames(*field.enum_type()), ", ");
  } else {
    type = ExpectedValue(field);
    for (const std::string_view article : {"an ", "a "}) {
      if (std::string_view(type).starts_with(article)) type.erase(0, article.size());
    }
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING) type = "text";
  }
  return (field.is_repeated() ? "list of " : "") + type;
}

std::string DefaultText(const FieldDescriptor& field, const FieldSpec& spec) {
  if (spec.required()) return "required";
  if (spec.has_default_value()) return "`" + spec.default_value() + "`";
  if (field.message_type() != nullptr && spec.presence()) return "absent";
  return "";
}

// The schema as far as it is printed: each block once.
class Reference {
 public:
  void Add(const Descriptor& message, FieldSpec::Resume inherited) {
    if (!seen_.insert(message.full_name()).second) return;
    absl::StrAppendFormat(&text_, "\n## %s\n\n", MessageName(message));
    if (message.field_count() == 0) {
      text_ += "No fields.\n";
      return;
    }
    text_ += "| field | value | default | resume | meaning |\n|---|---|---|---|---|\n";
    for (int i = 0; i < message.field_count(); ++i) AddRow(*message.field(i), inherited);
    for (int i = 0; i < message.field_count(); ++i) {
      const FieldDescriptor& field = *message.field(i);
      if (field.message_type() != nullptr) Add(*field.message_type(), ResumeOf(field, inherited));
    }
  }
  const std::string& text() const { return text_; }

 private:
  static FieldSpec::Resume ResumeOf(const FieldDescriptor& field, FieldSpec::Resume inherited) {
    const FieldSpec::Resume own = SpecOf(field).resume();
    return own == FieldSpec::UNCLASSIFIED ? inherited : own;
  }

  void AddRow(const FieldDescriptor& field, FieldSpec::Resume inherited) {
    const FieldSpec& spec = SpecOf(field);
    std::string value = TypeText(field), meaning = spec.doc();
    if (const std::string bounds = BoundsText(spec); !bounds.empty()) value += " " + bounds;
    if (!spec.unit().empty()) value += " (" + spec.unit() + ")";
    if (const auto* oneof = field.real_containing_oneof(); oneof != nullptr) {
      const std::string& taken = oneof->options().GetExtension(oneof_spec).default_case();
      meaning +=
          (meaning.empty() ? "" : "; ") + ("one of `" + oneof->name() + "`") + (taken == field.name() ? ", taken where none is set" : "");
    }
    // A block's own class says little: its fields may have others.
    const char* resume = field.message_type() != nullptr ? "" : ResumeText(ResumeOf(field, inherited));
    absl::StrAppendFormat(&text_, "| `%s` | %s | %s | %s | %s |\n", field.name(), value, DefaultText(field, spec), resume, meaning);
  }

  std::set<std::string> seen_;
  std::string text_ = kIntroduction;
};

}  // namespace

std::string ConfigReference() {
  Reference reference;
  reference.Add(*Experiment::descriptor(), FieldSpec::FORBIDDEN);
  return reference.text();
}

}  // namespace conclave
