// Rules about files as wholes: sizes, names, preprocessor use.
#include <cctype>
#include <map>
#include <regex>
#include <set>
#include <string>

#include "tests/rules/rules.h"

namespace conclave::rules {
namespace {

const std::map<std::string, size_t> kMaxLines = {{".cc", 500}, {".cu", 500}, {".h", 250}, {".cuh", 250}};
const std::set<std::string> kEmptyNames = {"util", "utils", "common", "core", "misc", "helpers"};

// Files that may hold conditional compilation, each for one reason.
const std::set<std::string> kMayBeConditional = {
    "base/simd.h",  // function multi-versioning is off under sanitizers
};
const std::set<std::string> kMayDefineMacros = {"base/status.h", "base/check.h", "base/log.h", "base/simd.h"};

std::string GuardOf(const std::string& path) {
  std::string guard = "CONCLAVE_";
  for (const char c : path)
    guard += std::isalnum(static_cast<unsigned char>(c)) ? static_cast<char>(std::toupper(static_cast<unsigned char>(c))) : '_';
  return guard + "_";
}

// The words of a path: its parts cut at '/', '_', '.' and '-'.
std::vector<std::string> WordsOf(const std::string& path) {
  std::vector<std::string> words(1);
  for (const char c : path) {
    if (c == '/' || c == '_' || c == '.' || c == '-') {
      words.emplace_back();
    } else {
      words.back() += c;
    }
  }
  return words;
}

}  // namespace

std::vector<Violation> CheckSizes(const std::vector<SourceFile>& files) {
  std::vector<Violation> violations;
  for (const SourceFile& file : files) {
    const auto limit = kMaxLines.find(file.Extension());
    if (limit == kMaxLines.end()) continue;
    const size_t count = file.lines.size();
    if (count > limit->second) {
      violations.push_back({file.path, static_cast<int>(count),
                            std::to_string(count) + " lines, at most " + std::to_string(limit->second) + ": split the file by concept"});
    }
  }
  return violations;
}

std::vector<Violation> CheckNames(const std::vector<SourceFile>& files) {
  std::vector<Violation> violations;
  for (const SourceFile& file : files) {
    for (const std::string& word : WordsOf(file.path)) {
      if (kEmptyNames.contains(word)) violations.push_back({file.path, 0, "'" + word + "' names nothing: name the concept"});
    }
  }
  return violations;
}

std::vector<Violation> CheckPreprocessor(const std::vector<SourceFile>& files) {
  static const std::regex directive(R"(^\s*#\s*(if|ifdef|ifndef|elif|else|define|undef|pragma)\b\s*(\S*)\s*(\S*))");
  std::vector<Violation> violations;
  for (const SourceFile& file : files) {
    if (!file.IsCpp()) continue;
    const bool is_header = file.Extension() == ".h" || file.Extension() == ".cuh";
    const std::string guard = GuardOf(file.path);
    bool guarded = false;
    for (size_t i = 0; i < file.lines.size(); ++i) {
      std::smatch match;
      if (!std::regex_search(file.lines[i], match, directive)) continue;
      const std::string word = match[1];
      const std::string name = match[2];
      const int line = static_cast<int>(i) + 1;
      if (is_header && name == guard && (word == "ifndef" || word == "define")) {
        guarded = true;
      } else if (word == "pragma") {
        if (name == "once") violations.push_back({file.path, line, "use the header guard " + guard});
      } else if (word == "define" || word == "undef") {
        if (!kMayDefineMacros.contains(file.path)) violations.push_back({file.path, line, "no new macros (" + name + ")"});
      } else if (!kMayBeConditional.contains(file.path)) {
        violations.push_back(
            {file.path, line, "no conditional compilation (#" + word + " " + name + "): give twin files and let CMake choose"});
      }
    }
    if (is_header && !guarded) violations.push_back({file.path, 1, "no header guard " + guard});
  }
  return violations;
}

}  // namespace conclave::rules
