// Placement files: what is written is read back, what is no placement is refused with its reason.
#include "launch/placement_file.h"

#include <gtest/gtest.h>

#include "base/check.h"
#include "base/fault_file_system.h"

namespace conclave {
namespace {

TEST(PlacementFile, RoundTripAndErrors) {
  FaultFileSystem files;
  const Topology topology{.ranks = 4, .nodes = 2};
  const PlacementTable table = {{0, 1, 2, 3}, {3, 2, 1, 0}};
  const std::string text = RenderPlacement(table, topology);
  const auto read = [&](const std::string& content, const Topology& expected) {
    CHECK_OK(files.WriteAtomically("p.json", content));
    return ReadPlacement(files, "p.json", expected);
  };
  EXPECT_EQ(*read(text, topology), table);
  const auto error = [&](const std::string& from, const std::string& to) {
    std::string changed = text;
    changed.replace(changed.find(from), from.size(), to);
    return std::string(read(changed, topology).status().message());
  };
  EXPECT_NE(std::string(read(text, {.ranks = 8, .nodes = 2}).status().message()).find("'p.json': ranks: expected 8, got 4"),
            std::string::npos);
  EXPECT_NE(error("conclave.placement", "conclave.metrics").find("it is no placement"), std::string::npos);
  EXPECT_NE(error("\"version\":1", "\"version\":2").find("version: expected 1, got 2"), std::string::npos);
  EXPECT_NE(error("\"nodes\"", "\"node\"").find("'nodes' is missing"), std::string::npos);
  EXPECT_NE(error("[3,2,1,0]", "[4,2,1,0]").find("layer 1: rank 4 is outside 0..3"), std::string::npos);
  EXPECT_NE(error("]]", "]").find("'p.json'"), std::string::npos);
}

}  // namespace
}  // namespace conclave
