#include "trainer/config_loader.h"

#include <optional>
#include <utility>

#include "base/file_system.h"
#include "trainer/config_checker.h"
#include "trainer/config_defaults.h"
#include "trainer/config_overrides.h"
#include "trainer/config_parse.h"
#include "trainer/config_resolved.h"
#include "trainer/config_validate.h"

namespace conclave {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// Empties the lists of `to` that `layer` sets, so that merging replaces them.
void ClearReplacedLists(const Message& layer, Message* to) {
  std::vector<const FieldDescriptor*> set;
  const Reflection& reflection = *layer.GetReflection();
  reflection.ListFields(layer, &set);
  for (const FieldDescriptor* field : set) {
    if (field->is_repeated()) {
      to->GetReflection()->ClearField(to, field);
    } else if (field->message_type() != nullptr && to->GetReflection()->HasField(*to, field)) {
      ClearReplacedLists(reflection.GetMessage(layer, field), to->GetReflection()->MutableMessage(to, field));
    }
  }
}

class ConfigFiles {
 public:
  explicit ConfigFiles(const FileReader& read) : read_(read) {}

  absl::StatusOr<LoadedConfig> Load(const std::string& path, const std::vector<std::string>& overrides);

 private:
  void AddLayer(const ConfigLayer& layer);
  void AddOverride(const std::string& text, int ordinal);

  const FileReader& read_;
  LoadedConfig result_;
  ConfigDiagnostics diagnostics_;
  DamagedPaths damaged_;
};

void ConfigFiles::AddLayer(const ConfigLayer& layer) {
  LexedText lexed = LexConfig(layer.text);
  for (const LexicalError& error : lexed.errors) diagnostics_.Add({layer.source, error.offset}, error.message);
  std::string clean = layer.text;
  const size_t errors_before = diagnostics_.size();
  ConfigChecker checker(layer.text, layer.source, std::move(lexed.tokens), {&diagnostics_, &result_.places, &damaged_, &clean});
  bool usable = checker.CheckFile(*Experiment::descriptor()) && lexed.errors.empty();
  Experiment part;
  if (usable) {
    const std::optional<ParseFault> fault = ParseConfigText(clean, ParseMode::kStrict, &part);
    if (fault && diagnostics_.size() == errors_before) diagnostics_.Add({layer.source, fault->offset}, fault->message);
    usable = !fault;
  }
  if (!usable) return damaged_.Add("");
  ClearReplacedLists(part, &result_.config);
  result_.config.MergeFrom(part);
}

void ConfigFiles::AddOverride(const std::string& text, int ordinal) {
  const int number = static_cast<int>(result_.sources.size());
  result_.sources.push_back({.name = "--set", .text = text, .first_line = ordinal, .is_override = true});
  ApplyOverride(result_.sources.back(), number, &result_.config, &result_.places, &damaged_, &diagnostics_);
}

absl::StatusOr<LoadedConfig> ConfigFiles::Load(const std::string& path, const std::vector<std::string>& overrides) {
  absl::StatusOr<std::vector<ConfigLayer>> layers = ReadConfigLayers(path, read_, &result_.sources, &diagnostics_);
  if (!layers.ok()) return layers.status();
  for (const ConfigLayer& layer : *layers) AddLayer(layer);
  for (size_t i = 0; i < overrides.size(); ++i) AddOverride(overrides[i], static_cast<int>(i) + 1);
  FillDefaults(&result_.config, &result_.places);
  CheckComplete(result_.config, result_.places, /*root=*/0, &damaged_, &diagnostics_);
  ConfigRules rules(result_.places, damaged_, /*root=*/0, &diagnostics_);
  CheckRules(result_.config, &rules);
  RETURN_IF_ERROR(diagnostics_.Finish(result_.sources));
  result_.hash = ConfigHash(result_.config);
  return std::move(result_);
}

}  // namespace

std::string LoadedConfig::Origin(std::string_view path) const {
  const auto found = places.find(path);
  if (found == places.end() || found->second.source < 0) return "default";
  const ConfigSource& source = sources[static_cast<size_t>(found->second.source)];
  return source.is_override ? "--set " + source.text : PlaceName(sources, found->second);
}

FileReader DiskReader() {
  return [](const std::string& path) { return RealFileSystem().ReadAll(path); };
}

absl::StatusOr<LoadedConfig> LoadConfig(const std::string& path, const std::vector<std::string>& overrides, const FileReader& read) {
  return ConfigFiles(read).Load(path, overrides);
}

absl::Status CheckConfigForRanks(const LoadedConfig& loaded, int ranks) {
  ConfigDiagnostics diagnostics;
  const DamagedPaths none;
  ConfigRules rules(loaded.places, none, /*root=*/0, &diagnostics);
  CheckRanks(loaded.config, ranks, &rules);
  return diagnostics.Finish(loaded.sources);
}

}  // namespace conclave
