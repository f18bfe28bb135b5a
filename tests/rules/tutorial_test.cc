// The code of docs/tutorial.md is the code that tests/trainer/tutorial_test.cc compiles.
#include <algorithm>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/rules/source_tree.h"

namespace conclave::rules {
namespace {

// The lines after the first line `begin` up to the next line `end`; empty where there is none.
std::vector<std::string> Between(const std::string& path, const std::string& begin, const std::string& end) {
  for (const SourceFile& file : RepositoryFiles()) {
    if (file.path != path) continue;
    const auto first = std::ranges::find(file.lines, begin);
    if (first == file.lines.end()) return {};
    return {first + 1, std::find(first, file.lines.end(), end)};
  }
  return {};
}

TEST(Tutorial, ThePageShowsWhatIsCompiled) {
  const std::vector<std::string> shown = Between("docs/tutorial.md", "```cpp", "```");
  const std::vector<std::string> compiled = Between("tests/trainer/tutorial_test.cc", "// [tutorial]", "// [end]");
  ASSERT_FALSE(shown.empty());
  EXPECT_EQ(shown, compiled);
  EXPECT_LE(shown.size(), 60u);
}

}  // namespace
}  // namespace conclave::rules
