// Command lines: positional arguments, --name value (or --name=value) and flags, checked against what a command knows.
#ifndef CONCLAVE_LAUNCH_ARGUMENTS_H_
#define CONCLAVE_LAUNCH_ARGUMENTS_H_

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace conclave {

struct OptionSpec {
  std::string name;   // "--run-dir"
  std::string value;  // "DIR"; empty: a flag
  std::string help;
  bool repeated = false;
};

struct CommandSpec {
  std::string name;        // "train"
  std::string positional;  // "CONFIG"; several in their order: "WHAT [CONFIG]", optional ones in brackets; the last may be "X...": any
                           // number; empty: none
  std::string summary;
  std::vector<OptionSpec> options;
};

class Arguments {
 public:
  // Errors: InvalidArgument naming the argument, with the closest known name.
  static absl::StatusOr<Arguments> Parse(const CommandSpec& spec, const std::vector<std::string>& arguments);

  // The i-th positional argument; empty where an optional one was not given.
  const std::string& positional(size_t i = 0) const { return positional_[i]; }
  const std::vector<std::string>& positionals() const { return positional_; }
  bool Has(const std::string& option) const { return values_.contains(option); }
  std::string Get(const std::string& option, const std::string& fallback = "") const;
  std::vector<std::string> All(const std::string& option) const;
  absl::StatusOr<int64_t> Integer(const std::string& option, int64_t fallback) const;
  absl::StatusOr<double> Real(const std::string& option, double fallback) const;
  bool help() const { return help_; }

 private:
  std::vector<std::string> positional_;  // as many as the spec names, or more
  std::map<std::string, std::vector<std::string>> values_;
  bool help_ = false;
};

std::string HelpText(const CommandSpec& spec);

}  // namespace conclave

#endif  // CONCLAVE_LAUNCH_ARGUMENTS_H_
