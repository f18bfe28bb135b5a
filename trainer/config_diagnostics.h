// Errors in a config, shown as a compiler shows them: place, message, the source line and a caret, all of them at once.
#ifndef CONCLAVE_TRAINER_CONFIG_DIAGNOSTICS_H_
#define CONCLAVE_TRAINER_CONFIG_DIAGNOSTICS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace conclave {

// A text that settings came from: a file, or one `--set` override (named "--set", `first_line` its ordinal).
struct ConfigSource {
  std::string name;
  std::string text;
  int64_t first_line = 1;
  bool is_override = false;
};

// A byte of a source. source -1: no place (a default).
struct ConfigPlace {
  int source = -1;
  int64_t offset = 0;
  bool whole_source = false;  // speaks of the file as a whole: printed as 1:1, without an excerpt
};

struct LineColumn {
  int64_t line = 1;    // 1-based
  int64_t column = 1;  // 1-based, in bytes
};

LineColumn LocateByte(const ConfigSource& source, int64_t offset);

// "path:line:column" of a place; "default" where there is none.
std::string PlaceName(const std::vector<ConfigSource>& sources, const ConfigPlace& place);

// Collects errors. Not thread-safe.
class ConfigDiagnostics {
 public:
  void Add(const ConfigPlace& place, std::string message);
  size_t size() const { return entries_.size(); }
  // OK without errors; else InvalidArgument holding every error in order of source and place, each with its line and a caret:
  //   configs/moe.textproto:12:7: error: Optim has no field 'lrr'; did you mean 'lr'?
  //     optim { lrr: 0.1 }
  //             ^
  absl::Status Finish(const std::vector<ConfigSource>& sources) const;

 private:
  struct Entry {
    ConfigPlace place;
    std::string message;
  };
  std::vector<Entry> entries_;
};

// "; did you mean 'x'?" for the closest candidate; where none is close, "; known are: a, b, c" (or nothing without candidates).
std::string Suggestion(std::string_view name, const std::vector<std::string>& candidates);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_CONFIG_DIAGNOSTICS_H_
