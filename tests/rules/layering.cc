#include <map>
#include <regex>
#include <set>
#include <string>

#include "tests/rules/rules.h"

namespace conclave::rules {
namespace {

using Folders = std::set<std::string>;

// What each folder may include besides itself. Folders that are not keys here (tests, tools) may include everything.
const std::map<std::string, Folders> kMayInclude = {
    {"proto", {}},
    {"base", {}},
    {"tensor", {"base"}},
    {"comm", {"base", "tensor", "proto"}},
    {"data", {"base", "tensor", "proto"}},
    {"parallel", {"base", "tensor", "comm", "proto"}},
    {"optim", {"base", "tensor", "comm", "proto"}},
    {"models", {"base", "tensor", "parallel", "data", "proto"}},
    {"trainer", {"base", "tensor", "comm", "data", "parallel", "optim", "models", "proto"}},
    {"bench", {"base", "tensor", "comm", "data", "parallel", "optim", "models", "trainer", "proto"}},
    {"launch", {"base", "tensor", "comm", "data", "parallel", "optim", "models", "trainer", "bench", "proto"}},
};
const Folders kOwnFolders = {"proto",  "base",    "tensor", "comm",  "data",  "parallel", "optim",
                             "models", "trainer", "launch", "tests", "bench", "tools"};
const Folders kThirdPartyInQuotes = {"absl", "google", "gtest", "benchmark"};
const Folders kMayIncludeMpi = {"comm", "tests", "bench", "tools"};

bool StartsWithAny(const std::string& text, std::initializer_list<const char*> prefixes) {
  for (const char* prefix : prefixes) {
    if (text.starts_with(prefix)) return true;
  }
  return false;
}

// Empty when the include is legal.
std::string WhyRefused(const SourceFile& file, const std::string& included, bool quoted) {
  const std::string from = file.Folder();
  const std::string to = included.substr(0, included.find('/'));
  if (included == "mpi.h" && kOwnFolders.contains(from) && !kMayIncludeMpi.contains(from))
    return "MPI is reached through comm/, not by <mpi.h>";
  if (file.Extension() == ".cu" && StartsWithAny(included, {"absl/", "google/", "proto/"}))
    return "a .cu file includes neither abseil nor protobuf";
  if (!quoted) return "";
  if (included.find('/') == std::string::npos) return "\"" + included + "\": ours by the full path from the root, other libraries in <>";
  if (kThirdPartyInQuotes.contains(to)) return "";
  if (!kOwnFolders.contains(to)) return "\"" + included + "\" is in no folder of this repository: use <> for other libraries";
  if (to == "proto" && !included.ends_with(".pb.h")) return "of proto/ only the generated .pb.h files are included";
  const auto allowed = kMayInclude.find(from);
  if (allowed == kMayInclude.end() || from == to || allowed->second.contains(to)) return "";
  return from + "/ may not include " + to + "/ (\"" + included + "\")";
}

}  // namespace

std::vector<Violation> CheckLayering(const std::vector<SourceFile>& files) {
  static const std::regex include_line(R"re(^\s*#\s*include\s*(["<])([^">]+)[">])re");
  std::vector<Violation> violations;
  for (const SourceFile& file : files) {
    if (!file.IsCpp()) continue;
    for (size_t i = 0; i < file.lines.size(); ++i) {
      std::smatch match;
      if (!std::regex_search(file.lines[i], match, include_line)) continue;
      const std::string why = WhyRefused(file, match[2], match[1] == "\"");
      if (!why.empty()) violations.push_back({file.path, static_cast<int>(i) + 1, why});
    }
  }
  return violations;
}

}  // namespace conclave::rules
