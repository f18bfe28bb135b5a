// Fills what no layer set, and finds what had to be set.
#ifndef CONCLAVE_TRAINER_CONFIG_DEFAULTS_H_
#define CONCLAVE_TRAINER_CONFIG_DEFAULTS_H_

#include <google/protobuf/message.h>

#include "trainer/config_diagnostics.h"
#include "trainer/config_schema.h"

namespace conclave {

// Gives every unset scalar its default, creates unset blocks (not those whose absence has a meaning) and the default member of unset
// oneofs. Removes the places of what it fills. Idempotent.
void FillDefaults(google::protobuf::Message* config, ConfigPlaces* places);

// Reports required fields and oneofs that are unset after FillDefaults, except where the block around them is damaged. What is missing
// counts as damaged from then on. `root`: the main file.
void CheckComplete(const google::protobuf::Message& config, const ConfigPlaces& places, int root, DamagedPaths* damaged,
                   ConfigDiagnostics* diagnostics);

// Calls visit(message, path) for `config` and every block that is set in it, outermost first; the path of `config` is empty.
template <typename Visitor>
void VisitBlocks(const google::protobuf::Message& config, const std::string& path, Visitor&& visit) {
  visit(config, path);
  const google::protobuf::Reflection& reflection = *config.GetReflection();
  const google::protobuf::Descriptor& type = *config.GetDescriptor();
  for (int i = 0; i < type.field_count(); ++i) {
    const google::protobuf::FieldDescriptor& field = *type.field(i);
    if (field.message_type() == nullptr) continue;
    const std::string child = ChildPath(path, field.name());
    if (field.is_repeated()) {
      for (int k = 0; k < reflection.FieldSize(config, &field); ++k) {
        VisitBlocks(reflection.GetRepeatedMessage(config, &field, k), ElementPath(child, k), visit);
      }
    } else if (reflection.HasField(config, &field)) {
      VisitBlocks(reflection.GetMessage(config, &field), child, visit);
    }
  }
}

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_CONFIG_DEFAULTS_H_
