// Rules about the text inside files: unfinished work, forbidden constructs, the sign flip, links.
#include <filesystem>
#include <initializer_list>
#include <regex>
#include <set>
#include <string>

#include "tests/rules/rules.h"

namespace conclave::rules {
namespace {

// A rule's own text must not break it, so its words are spelled in two pieces.
const std::regex kUnfinished(
    "\\b(TO"
    "DO|FIX"
    "ME|XX"
    "X|HA"
    "CK|PLACE"
    "HOLDER)\\b");
const std::regex kMachinePath(
    "(^|[\\s\"'(=:])/(wo"
    "rk|ro"
    "ot|ho"
    "me)/");

bool IsUnder(const std::string& path, std::initializer_list<const char*> prefixes) {
  for (const char* prefix : prefixes) {
    if (path.starts_with(prefix)) return true;
  }
  return false;
}

bool Exists(const std::string& path) { return std::filesystem::exists(std::filesystem::path(CONCLAVE_SOURCE_DIR) / path); }

void CheckLinksOfLine(const SourceFile& file, int line, const std::string& text, std::vector<Violation>* violations) {
  static const std::regex link(R"(\]\(([^)#\s]+)(#[^)]*)?\))");
  static const std::regex script(R"(`\./([A-Za-z0-9_./-]+))");
  const std::string folder = std::filesystem::path(file.path).parent_path().generic_string();
  for (std::sregex_iterator it(text.begin(), text.end(), link), end; it != end; ++it) {
    const std::string target = (*it)[1];
    if (target.find("://") != std::string::npos || target.starts_with("mailto:")) continue;
    const std::string path = (std::filesystem::path(folder) / target).lexically_normal().generic_string();
    if (!Exists(path)) violations->push_back({file.path, line, "link to " + path + ", which does not exist"});
  }
  for (std::sregex_iterator it(text.begin(), text.end(), script), end; it != end; ++it) {
    const std::string path = (*it)[1];
    if (!path.starts_with("build/") && !Exists(path))
      violations->push_back({file.path, line, "names ./" + path + ", which does not exist"});
  }
}

}  // namespace

std::vector<Violation> CheckWording(const std::vector<SourceFile>& files) {
  std::vector<Violation> violations;
  for (const SourceFile& file : files) {
    for (size_t i = 0; i < file.lines.size(); ++i) {
      const int line = static_cast<int>(i) + 1;
      std::smatch match;
      if (std::regex_search(file.lines[i], match, kUnfinished)) {
        violations.push_back({file.path, line, "'" + match.str() + "': finish it, or leave it out"});
      }
      if (std::regex_search(file.lines[i], kMachinePath)) violations.push_back({file.path, line, "the path of one machine"});
    }
  }
  return violations;
}

std::vector<Violation> CheckForbiddenCode(const std::vector<SourceFile>& files) {
  static const std::regex throws(R"(\bthrow\b)");
  static const std::regex environment(R"(\b(getenv|secure_getenv|setenv)\s*\()");
  std::vector<Violation> violations;
  for (const SourceFile& file : files) {
    if (!file.IsCpp()) continue;
    // What mpirun tells a process arrives in the environment; a terminal's wish for no colour too. Neither is a setting of ours.
    const bool may_read_environment = IsUnder(file.path, {"comm/", "tests/", "bench/", "trainer/progress"});
    for (size_t i = 0; i < file.lines.size(); ++i) {
      const int line = static_cast<int>(i) + 1;
      const std::string code = CodeOnly(file.lines[i]);
      if (std::regex_search(code, throws)) violations.push_back({file.path, line, "no exceptions of ours: return a Status"});
      if (!may_read_environment && std::regex_search(code, environment)) {
        violations.push_back({file.path, line, "no settings from the environment: make it a config field or a flag"});
      }
    }
  }
  return violations;
}

std::vector<Violation> CheckSignFlip(const std::vector<SourceFile>& files) {
  static const std::regex maximiser(R"(\bPlayer::kMax\b)");
  std::vector<Violation> violations;
  for (const SourceFile& file : files) {
    if (!file.IsCpp()) continue;
    if (IsUnder(file.path, {"trainer/model_operator.", "models/", "tests/", "tensor/parameter_set."})) continue;
    for (size_t i = 0; i < file.lines.size(); ++i) {
      if (std::regex_search(CodeOnly(file.lines[i]), maximiser)) {
        violations.push_back({file.path, static_cast<int>(i) + 1, "only trainer/model_operator.cc acts on the maximising player"});
      }
    }
  }
  return violations;
}

std::vector<Violation> CheckLinks(const std::vector<SourceFile>& files) {
  std::vector<Violation> violations;
  for (const SourceFile& file : files) {
    if (file.Extension() != ".md") continue;
    for (size_t i = 0; i < file.lines.size(); ++i) CheckLinksOfLine(file, static_cast<int>(i) + 1, file.lines[i], &violations);
  }
  return violations;
}

}  // namespace conclave::rules
