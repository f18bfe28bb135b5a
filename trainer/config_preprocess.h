// Layers of a config file: the files it includes, then the file itself.
#ifndef CONCLAVE_TRAINER_CONFIG_PREPROCESS_H_
#define CONCLAVE_TRAINER_CONFIG_PREPROCESS_H_

#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "trainer/config_diagnostics.h"

namespace conclave {

// Gives the whole content of a file. Errors carry path and reason.
using FileReader = std::function<absl::StatusOr<std::string>(const std::string& path)>;

// One file, ready to be checked: its include lines are blanked out, so that every place is as in the file.
struct ConfigLayer {
  int source = 0;  // index into the sources
  std::string text;
};

// Reads the file at `path` and, before it, whatever its lines `include: "other.textproto"` name, relative to the file they stand in.
// Appends to `sources` (the file itself first); returns layers in the order in which later ones win. Missing files and cycles are
// diagnostics at their include line. Errors: the file at `path` itself cannot be read or holds no settings.
absl::StatusOr<std::vector<ConfigLayer>> ReadConfigLayers(const std::string& path, const FileReader& read,
                                                          std::vector<ConfigSource>* sources, ConfigDiagnostics* diagnostics);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_CONFIG_PREPROCESS_H_
