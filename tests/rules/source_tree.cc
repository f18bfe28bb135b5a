#include "tests/rules/source_tree.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

namespace conclave::rules {
namespace {

const std::set<std::string> kFolders = {"base",   "proto", "tensor", "comm", "parallel", "optim", "models",  "data", "trainer",
                                        "launch", "tests", "bench",  "docs", "tools",    "cmake", "configs", ".ci"};
const std::set<std::string> kTextExtensions = {".h",     ".cc",  ".cu",        ".cuh",  ".proto",  ".md", ".sh",
                                               ".cmake", ".txt", ".textproto", ".json", ".sbatch", ""};

std::vector<std::string> SplitLines(std::istream& in) {
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

void ReadFolder(const std::filesystem::path& root, const std::filesystem::path& folder, std::vector<SourceFile>* files) {
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file() || !kTextExtensions.contains(entry.path().extension().string())) continue;
    std::ifstream in(entry.path());
    files->push_back({std::filesystem::relative(entry.path(), root).generic_string(), SplitLines(in)});
  }
}

std::vector<SourceFile> ReadRepository() {
  const std::filesystem::path root = CONCLAVE_SOURCE_DIR;
  std::vector<SourceFile> files;
  for (const auto& entry : std::filesystem::directory_iterator(root)) {
    const std::string name = entry.path().filename().string();
    if (entry.is_directory() && kFolders.contains(name)) ReadFolder(root, entry.path(), &files);
    if (entry.is_regular_file() && kTextExtensions.contains(entry.path().extension().string())) {
      std::ifstream in(entry.path());
      files.push_back({name, SplitLines(in)});
    }
  }
  std::sort(files.begin(), files.end(), [](const SourceFile& a, const SourceFile& b) { return a.path < b.path; });
  return files;
}

}  // namespace

std::string SourceFile::Folder() const {
  const size_t slash = path.find('/');
  return slash == std::string::npos ? "" : path.substr(0, slash);
}

std::string SourceFile::Extension() const { return std::filesystem::path(path).extension().string(); }

bool SourceFile::IsCpp() const {
  const std::string extension = Extension();
  return extension == ".h" || extension == ".cc" || extension == ".cu" || extension == ".cuh";
}

const std::vector<SourceFile>& RepositoryFiles() {
  static const std::vector<SourceFile> files = ReadRepository();
  return files;
}

SourceFile FileOf(std::string path, std::string_view text) {
  std::istringstream in{std::string(text)};
  return {std::move(path), SplitLines(in)};
}

std::string CodeOnly(std::string_view line) {
  std::string code;
  bool quoted = false;
  for (size_t i = 0; i < line.size(); ++i) {
    if (!quoted && line.substr(i, 2) == "//") break;
    if (quoted && line[i] == '\\') {
      ++i;
      continue;
    }
    const bool is_quote = line[i] == '"' && !(i > 0 && i + 1 < line.size() && line[i - 1] == '\'' && line[i + 1] == '\'');
    if (is_quote) quoted = !quoted;
    if (!quoted || is_quote) code += line[i];
  }
  return code;
}

std::string Render(const std::vector<Violation>& violations) {
  std::ostringstream out;
  for (const Violation& v : violations) out << v.path << ":" << v.line << ": " << v.what << "\n";
  return out.str();
}

}  // namespace conclave::rules
