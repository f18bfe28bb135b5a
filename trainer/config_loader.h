// From a file and overrides to a checked, complete Experiment. Touches no process group and no device.
#ifndef CONCLAVE_TRAINER_CONFIG_LOADER_H_
#define CONCLAVE_TRAINER_CONFIG_LOADER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "proto/experiment.pb.h"
#include "trainer/config_diagnostics.h"
#include "trainer/config_preprocess.h"
#include "trainer/config_schema.h"

namespace conclave {

struct LoadedConfig {
  Experiment config;                  // every default filled in
  std::vector<ConfigSource> sources;  // the file, its includes in reading order, then the overrides
  ConfigPlaces places;                // of every field a source set; the others are defaults
  uint64_t hash = 0;                  // of the deterministic serialisation of `config`

  // Where the value at `path` comes from: "file:line:column", "--set optim.clip_norm=1" or "default".
  std::string Origin(std::string_view path) const;
};

// Reads files of the operating system.
FileReader DiskReader();

// Layers, later ones win: defaults, included files, the file, overrides ("path=value", "path+=value", in order). A scalar overwrites, a
// block merges, a member of a oneof drops the other members, and a list replaces the list of an earlier layer (only += appends). Errors:
// InvalidArgument whose message holds every error found, formatted as in config_diagnostics.h; the reader's, where the file cannot be read.
absl::StatusOr<LoadedConfig> LoadConfig(const std::string& path, const std::vector<std::string>& overrides,
                                        const FileReader& read = DiskReader());

// The rules that only a number of ranks can break: mesh size, workers. Errors: InvalidArgument, formatted likewise.
absl::Status CheckConfigForRanks(const LoadedConfig& loaded, int ranks);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_CONFIG_LOADER_H_
