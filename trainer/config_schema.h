// What the descriptors of a config tell: names, options, paths. Paths look like "data.sources[0].weight".
#ifndef CONCLAVE_TRAINER_CONFIG_SCHEMA_H_
#define CONCLAVE_TRAINER_CONFIG_SCHEMA_H_

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <google/protobuf/descriptor.h>

#include "proto/options.pb.h"
#include "trainer/config_diagnostics.h"

namespace conclave {

// Where each field and block of a config was set, by path.
using ConfigPlaces = std::map<std::string, ConfigPlace, std::less<>>;

// Paths of fields and blocks that hold an error already: what they seem to say proves nothing further.
class DamagedPaths {
 public:
  void Add(std::string path) { paths_.insert(std::move(path)); }
  // True where the path, a block around it or something inside it is damaged.
  bool Touches(std::string_view path) const;

 private:
  std::set<std::string> paths_;
};

const FieldSpec& SpecOf(const google::protobuf::FieldDescriptor& field);
// "Optim" of the message OptimConfig.
std::string MessageName(const google::protobuf::Descriptor& message);
std::vector<std::string> FieldNames(const google::protobuf::Descriptor& message);
std::vector<std::string> MemberNames(const google::protobuf::OneofDescriptor& oneof);
std::vector<std::string> EnumNames(const google::protobuf::EnumDescriptor& type);
// What a value of the field must be, for "expects ...": "an integer", "true or false", "one of CPU, CUDA", ...
std::string ExpectedValue(const google::protobuf::FieldDescriptor& field);
// The bounds of the field as text, "> 0" or "in [0, 1)"; empty without bounds.
std::string BoundsText(const FieldSpec& spec);
bool WithinBounds(const FieldSpec& spec, double value);

// What to say after "X has no field 'name'": the closest field, the member block that has such a field, or the fields there are.
// `likely`: set to the field that was probably meant, else emptied.
std::string UnknownFieldHint(const google::protobuf::Descriptor& message, const std::string& name, std::string* likely);

std::string ChildPath(std::string_view parent, std::string_view name);
std::string ElementPath(std::string_view path, int index);
// The path without its last step: "a.b[0].c" -> "a.b[0]", "a" -> "".
std::string ParentOfPath(std::string_view path);

// The place of the path or of the nearest block around it that a source holds; else the whole of source `root`.
ConfigPlace NearestPlace(const ConfigPlaces& places, std::string_view path, int root);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_CONFIG_SCHEMA_H_
