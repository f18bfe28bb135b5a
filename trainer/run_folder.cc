#include "trainer/run_folder.h"

#include <unistd.h>

#include <google/protobuf/text_format.h>

#include "base/clock.h"
#include "base/strings.h"
#include "proto/telemetry.pb.h"
#include "trainer/config_resolved.h"
#include "trainer/version.h"

namespace conclave {
namespace {

std::string EnvironmentText(const std::vector<std::string>& arguments) {
  RunEnvironment environment;
  environment.set_program_version(kProgramVersion);
  for (const std::string& argument : arguments) environment.add_arguments(argument);
  char host[256] = {};
  gethostname(host, sizeof(host) - 1);
  environment.add_hosts(host);
  for (const auto& [name, version] : LibraryVersions()) (*environment.mutable_libraries())[name] = version;
  environment.set_started_unix_ms(RealClock().WallNanos() / 1'000'000);
  std::string text;
  google::protobuf::TextFormat::PrintToString(environment, &text);
  return text;
}

}  // namespace

absl::Status RunFolder::WriteInputs(const LoadedConfig& loaded) const {
  const std::string folder = JoinPath(path_, "config.input");
  RETURN_IF_ERROR(files_->CreateDirs(folder));
  int number = 0;
  for (const ConfigSource& source : loaded.sources) {
    if (source.is_override) continue;
    const size_t slash = source.name.rfind('/');
    const std::string name = slash == std::string::npos ? source.name : source.name.substr(slash + 1);
    RETURN_IF_ERROR(files_->WriteAtomically(JoinPath(folder, absl::StrFormat("%d-%s", number++, name)), source.text));
  }
  return absl::OkStatus();
}

absl::Status RunFolder::Prepare(const LoadedConfig& loaded, const std::vector<std::string>& arguments,
                                const std::vector<std::string>& overrides, bool resume) const {
  RETURN_IF_ERROR(files_->CreateDirs(JoinPath(path_, "logs")));
  RETURN_IF_ERROR(files_->CreateDirs(Heartbeats()));
  if (!resume && files_->Exists(Metrics())) {
    return FailedPrecondition("run folder '%s' already holds a run; give --resume to go on with it, or another --run-dir", path_);
  }
  if (resume && files_->Exists(ResolvedConfig())) {
    ASSIGN_OR_RETURN(const Experiment before, ReadConfig());
    RETURN_IF_ERROR(CheckResume(before, loaded.config));
  }
  RETURN_IF_ERROR(WriteInputs(loaded));
  RETURN_IF_ERROR(files_->WriteAtomically(JoinPath(path_, "overrides.txt"), overrides.empty() ? "" : JoinStrings(overrides, "\n") + "\n"));
  RETURN_IF_ERROR(files_->WriteAtomically(JoinPath(path_, "env.textproto"), EnvironmentText(arguments)));
  return files_->WriteAtomically(ResolvedConfig(), ResolvedText(loaded));
}

absl::StatusOr<Experiment> RunFolder::ReadConfig() const {
  const absl::StatusOr<std::string> text = files_->ReadAll(ResolvedConfig());
  if (!text.ok()) return NotFound("'%s' is no run folder: %s", path_, text.status().message());
  return ParseResolvedConfig(*text);
}

}  // namespace conclave
