#include "trainer/config_defaults.h"

#include <string>
#include <utility>
#include <vector>

#include <google/protobuf/text_format.h>

#include "base/check.h"
#include "base/strings.h"

namespace conclave {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::OneofDescriptor;
using google::protobuf::Reflection;
using google::protobuf::TextFormat;

void Fill(Message* message, const std::string& path, ConfigPlaces* places) {
  const Descriptor& type = *message->GetDescriptor();
  const Reflection& reflection = *message->GetReflection();
  for (int i = 0; i < type.real_oneof_decl_count(); ++i) {
    const OneofDescriptor& oneof = *type.oneof_decl(i);
    const std::string& member = oneof.options().GetExtension(oneof_spec).default_case();
    if (member.empty() || reflection.HasOneof(*message, &oneof)) continue;
    const FieldDescriptor* field = type.FindFieldByName(member);
    CHECK(field != nullptr && field->containing_oneof() == &oneof) << "default_case of " << oneof.full_name();
    reflection.MutableMessage(message, field);
  }
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    const FieldSpec& spec = SpecOf(field);
    const std::string child = ChildPath(path, field.name());
    if (field.is_repeated()) {
      const int size = field.message_type() == nullptr ? 0 : reflection.FieldSize(*message, &field);
      for (int k = 0; k < size; ++k) Fill(reflection.MutableRepeatedMessage(message, &field, k), ElementPath(child, k), places);
    } else if (field.message_type() != nullptr) {
      const bool by_choice = spec.presence() || field.real_containing_oneof() != nullptr;
      const bool present = reflection.HasField(*message, &field);
      if (!present) places->erase(child);
      if (present || !by_choice) Fill(reflection.MutableMessage(message, &field), child, places);
    } else if (!reflection.HasField(*message, &field)) {
      places->erase(child);
      if (!spec.has_default_value()) continue;
      CHECK(TextFormat::ParseFieldValueFromString(spec.default_value(), &field, message)) << "default of " << field.full_name();
    }
  }
}

}  // namespace

void FillDefaults(Message* config, ConfigPlaces* places) { Fill(config, "", places); }

void CheckComplete(const Message& config, const ConfigPlaces& places, int root, DamagedPaths* damaged, ConfigDiagnostics* diagnostics) {
  std::vector<std::string> missing;
  VisitBlocks(config, "", [&](const Message& message, const std::string& path) {
    const Descriptor& type = *message.GetDescriptor();
    const Reflection& reflection = *message.GetReflection();
    const std::string block = path.empty() ? "the experiment" : "'" + path + "'";
    for (int i = 0; i < type.field_count(); ++i) {
      const FieldDescriptor& field = *type.field(i);
      const std::string child = ChildPath(path, field.name());
      if (!SpecOf(field).required() || reflection.HasField(message, &field) || damaged->Touches(child)) continue;
      missing.push_back(child);
      diagnostics->Add(NearestPlace(places, path, root), absl::StrFormat("%s needs '%s' (%s)", block, field.name(), SpecOf(field).doc()));
    }
    for (int i = 0; i < type.real_oneof_decl_count(); ++i) {
      const OneofDescriptor& oneof = *type.oneof_decl(i);
      if (reflection.HasOneof(message, &oneof) || damaged->Touches(path)) continue;
      diagnostics->Add(NearestPlace(places, path, root),
                       absl::StrFormat("%s needs a %s: one of %s", block, oneof.name(), JoinStrings(MemberNames(oneof), ", ")));
    }
  });
  for (std::string& path : missing) damaged->Add(std::move(path));
}

}  // namespace conclave
