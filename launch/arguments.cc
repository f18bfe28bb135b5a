#include "launch/arguments.h"

#include <algorithm>
#include <cmath>

#include "base/strings.h"

namespace conclave {
namespace {

absl::Status UnknownOption(const CommandSpec& spec, const std::string& name) {
  std::vector<std::string> known{"--help"};
  for (const OptionSpec& option : spec.options) known.push_back(option.name);
  const std::string closest = ClosestName(name, known);
  return InvalidArgument("unknown option '%s'%s (see conclave %s --help)", name, closest.empty() ? "" : "; did you mean '" + closest + "'?",
                         spec.name);
}

}  // namespace

absl::StatusOr<Arguments> Arguments::Parse(const CommandSpec& spec, const std::vector<std::string>& arguments) {
  Arguments result;
  const std::vector<std::string> wanted = spec.positional.empty() ? std::vector<std::string>{} : SplitString(spec.positional, ' ');
  const bool any_number = spec.positional.ends_with("...");
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument == "--help" || argument == "-h") {
      result.help_ = true;
      return result;
    }
    if (argument.size() < 2 || argument[0] != '-') {
      if (result.positional_.size() == wanted.size() && !any_number)
        return InvalidArgument("unexpected argument '%s' (see conclave %s --help)", argument, spec.name);
      result.positional_.push_back(argument);
      continue;
    }
    const size_t equals = argument.find('=');
    const std::string name = argument.substr(0, equals);
    const OptionSpec* option = nullptr;
    for (const OptionSpec& candidate : spec.options) option = candidate.name == name ? &candidate : option;
    if (option == nullptr) return UnknownOption(spec, name);
    std::vector<std::string>& values = result.values_[name];
    if (!values.empty() && !option->repeated) return InvalidArgument("option '%s' is given twice", name);
    if (option->value.empty()) {
      if (equals != std::string::npos) return InvalidArgument("option '%s' takes no value", name);
      values.push_back("");
    } else if (equals != std::string::npos) {
      values.push_back(argument.substr(equals + 1));
    } else if (i + 1 < arguments.size()) {
      values.push_back(arguments[++i]);
    } else {
      return InvalidArgument("option '%s' needs a value %s", name, option->value);
    }
  }
  for (size_t i = result.positional_.size(); i < wanted.size(); ++i) {
    if (wanted[i][0] != '[') return InvalidArgument("missing argument %s (see conclave %s --help)", wanted[i], spec.name);
  }
  result.positional_.resize(std::max(result.positional_.size(), wanted.size()));
  return result;
}

std::string Arguments::Get(const std::string& option, const std::string& fallback) const {
  const auto it = values_.find(option);
  return it == values_.end() ? fallback : it->second.back();
}

std::vector<std::string> Arguments::All(const std::string& option) const {
  const auto it = values_.find(option);
  return it == values_.end() ? std::vector<std::string>{} : it->second;
}

absl::StatusOr<int64_t> Arguments::Integer(const std::string& option, int64_t fallback) const {
  if (!Has(option)) return fallback;
  const absl::StatusOr<int64_t> value = ParseInt64(Get(option));
  if (!value.ok()) return InvalidArgument("option '%s': expected an integer, got '%s'", option, Get(option));
  return value;
}

absl::StatusOr<double> Arguments::Real(const std::string& option, double fallback) const {
  if (!Has(option)) return fallback;
  const absl::StatusOr<double> value = ParseDouble(Get(option));
  if (!value.ok() || !std::isfinite(*value)) return InvalidArgument("option '%s': expected a number, got '%s'", option, Get(option));
  return value;
}

std::string HelpText(const CommandSpec& spec) {
  std::string text = absl::StrFormat("usage: conclave %s%s%s [options]\n\n%s\n\n", spec.name, spec.positional.empty() ? "" : " ",
                                     spec.positional, spec.summary);
  for (const OptionSpec& option : spec.options) {
    const std::string left = option.value.empty() ? option.name : option.name + " " + option.value;
    absl::StrAppendFormat(&text, "  %-26s %s\n", left, option.help);
  }
  absl::StrAppendFormat(&text, "  %-26s %s\n", "--help", "this text");
  return text;
}

}  // namespace conclave
