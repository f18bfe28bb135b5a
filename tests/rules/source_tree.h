#ifndef CONCLAVE_TESTS_RULES_SOURCE_TREE_H_
#define CONCLAVE_TESTS_RULES_SOURCE_TREE_H_
// The text of the repository, as the style rules read it.

#include <string>
#include <string_view>
#include <vector>

namespace conclave::rules {

// path is relative to the repository root, with '/' between the parts.
struct SourceFile {
  std::string path;
  std::vector<std::string> lines;

  std::string Folder() const;     // the first part of the path, empty for a file of the root
  std::string Extension() const;  // with its dot
  bool IsCpp() const;             // .h .cc .cu .cuh
};

// One breach of a rule, readable as a compiler message: "path:line: what".
struct Violation {
  std::string path;
  int line = 0;
  std::string what;
};

// Every file of the repository's own folders and of its root (never build output, runs or the version store), sorted by path.
const std::vector<SourceFile>& RepositoryFiles();

// A file made of literal text, for tests of the rules themselves.
SourceFile FileOf(std::string path, std::string_view text);

// The line without string literals and // comments, so that words in either do not count as code.
std::string CodeOnly(std::string_view line);

// One violation a line, for a failure message.
std::string Render(const std::vector<Violation>& violations);

}  // namespace conclave::rules

#endif  // CONCLAVE_TESTS_RULES_SOURCE_TREE_H_
