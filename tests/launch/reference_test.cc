#include "launch/reference.h"

#include <gtest/gtest.h>

#include "base/file_system.h"
#include "base/strings.h"

namespace conclave {
namespace {

TEST(Reference, ThePageIsTheSchemas) {
  const absl::StatusOr<std::string> page = RealFileSystem().ReadAll(JoinPath(CONCLAVE_SOURCE_DIR, "docs/config.md"));
  ASSERT_TRUE(page.ok()) << page.status();
  EXPECT_TRUE(*page == ConfigReference()) << "write it anew: conclave check --reference > docs/config.md";
}

TEST(Reference, RowsHoldTypeDefaultBoundsAndMeaning) {
  const std::string text = ConfigReference();
  for (const char* row : {"| `lr` | number > 0 | required | yes | learning rate before schedule and multipliers |",
                          "| `experts` | integer in [1, 65536] | required | no | routed experts a block |",
                          "| `expert` | integer in [1, 65536] | `1` | reshard | ranks the experts are split over |",
                          "| `exact` | [ExactExchange](#ExactExchange) |  |  | one of `kind`, taken where none is set |"}) {
    EXPECT_NE(text.find(row), std::string::npos) << row;
  }
}

TEST(Reference, EveryLinkHasItsSection) {
  const std::string text = ConfigReference();
  int links = 0;
  for (size_t at = text.find("](#"); at != std::string::npos; at = text.find("](#", at + 1), ++links) {
    const std::string name = text.substr(at + 3, text.find(')', at) - at - 3);
    EXPECT_NE(text.find("\n## " + name + "\n"), std::string::npos) << name;
  }
  EXPECT_GT(links, 20);
}

}  // namespace
}  // namespace conclave
