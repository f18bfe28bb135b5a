#include "tests/rules/source_tree.h"

#include <set>
#include <string>

#include <gtest/gtest.h>

namespace conclave::rules {

// The rules would all pass on an empty list: this one says that the list is the repository.
TEST(SourceTree, FindsTheRepository) {
  std::set<std::string> paths;
  for (const SourceFile& file : RepositoryFiles()) paths.insert(file.path);
  for (const char* expected :
       {"CMakeLists.txt", "README.md", "base/status.h", "base/rng.cc", "tests/rules/source_tree.h", "launch/mpirun.sh"}) {
    EXPECT_TRUE(paths.contains(expected)) << expected;
  }
  for (const std::string& path : paths) EXPECT_FALSE(path.starts_with("build/") || path.starts_with(".git/")) << path;
}

TEST(SourceTree, CodeOnlyDropsCommentsAndLiterals) {
  EXPECT_EQ(CodeOnly("int x = 1;  // y"), "int x = 1;  ");
  EXPECT_EQ(CodeOnly("f(\"a // b \\\" c\", y);"), "f(\"\", y);");
  EXPECT_EQ(CodeOnly("char q = '\"'; g(\"h\");"), "char q = '\"'; g(\"\");");
}

}  // namespace conclave::rules
