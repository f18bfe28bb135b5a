#include "data/text.h"

#include <fnmatch.h>

namespace conclave {

absl::StatusOr<std::vector<std::string>> ExpandPaths(const std::string& pattern, const FileSystem& files) {
  const std::string name = BaseName(pattern);
  if (name.find_first_of("*?[") == std::string::npos) {
    ASSIGN_OR_RETURN(const FileKind kind, files.Kind(pattern));
    if (kind == FileKind::kFile) return std::vector<std::string>{pattern};
    return NotFound("'%s' %s", pattern,
                    kind == FileKind::kMissing ? "does not exist" : "is a folder; name its files, as in 'folder/*.txt'");
  }
  const std::string folder = ParentPath(pattern);
  ASSIGN_OR_RETURN(const std::vector<std::string> names, files.ListDir(folder));
  std::vector<std::string> paths;
  for (const std::string& candidate : names) {
    if (fnmatch(name.c_str(), candidate.c_str(), FNM_PERIOD) != 0) continue;
    ASSIGN_OR_RETURN(const FileKind kind, files.Kind(JoinPath(folder, candidate)));
    if (kind == FileKind::kFile) paths.push_back(JoinPath(folder, candidate));
  }
  if (paths.empty()) return NotFound("no file matches '%s' (%d names in '%s')", pattern, names.size(), folder);
  return paths;
}

absl::StatusOr<std::string> ReadText(const std::string& path, const FileSystem& files) {
  ASSIGN_OR_RETURN(std::string text, files.ReadAll(path));
  if (text.empty()) return InvalidArgument("text file '%s' is empty: there is nothing to train on", path);
  return text;
}

std::vector<std::string_view> SplitDocuments(std::string_view text, std::string_view separator) {
  std::vector<std::string_view> documents;
  size_t begin = 0;
  while (begin < text.size()) {
    const size_t found = separator.empty() ? std::string_view::npos : text.find(separator, begin);
    const size_t end = found == std::string_view::npos ? text.size() : found;
    if (end > begin) documents.push_back(text.substr(begin, end - begin));
    begin = end + separator.size();
  }
  return documents;
}

}  // namespace conclave
