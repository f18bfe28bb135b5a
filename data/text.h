// Plain text files and the documents in them.
#ifndef CONCLAVE_DATA_TEXT_H_
#define CONCLAVE_DATA_TEXT_H_

#include <string>
#include <string_view>
#include <vector>

#include "base/file_system.h"

namespace conclave {

// The files a config's path names: itself, or, where its last part holds *, ? or [, the files of that folder that match, sorted.
// Errors: NotFound, naming the pattern, if there is none.
absl::StatusOr<std::vector<std::string>> ExpandPaths(const std::string& pattern, const FileSystem& files);

// The whole file. Errors: those of the file system; InvalidArgument if it is empty.
absl::StatusOr<std::string> ReadText(const std::string& path, const FileSystem& files);

// The documents of a text: the non-empty stretches between separators, which belong to none. An empty separator: the text is one document.
std::vector<std::string_view> SplitDocuments(std::string_view text, std::string_view separator);

}  // namespace conclave

#endif  // CONCLAVE_DATA_TEXT_H_
