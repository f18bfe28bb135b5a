#include "optim/parameter_groups.h"

#include <string>

#include "gtest/gtest.h"
#include "tests/optim/test_operators.h"

namespace conclave {
namespace {

ParameterSet SmallModel() {
  ParameterSet parameters;
  parameters.Add({.name = "embedding.weight", .shape = {10, 4}});
  parameters.Add({.name = "blocks.0.norm.gain", .shape = {4}});
  parameters.Add({.name = "blocks.0.attention.qkv.weight", .shape = {12, 4}});
  parameters.Add({.name = "blocks.0.attention.qkv.bias", .shape = {12}});
  parameters.Add({.name = "blocks.0.router.weight", .shape = {8, 4}});
  return parameters;
}

absl::StatusOr<ParameterGroups> Groups(const ParameterSet& parameters, const std::string& groups) {
  const auto config = ParseConfig<OptimConfig>("first_order { lr: 1 rule { adamw { weight_decay: 0.1 } } } " + groups);
  return ParameterGroups::Make(parameters, config.first_order().rule(), config.groups());
}

TEST(GlobTest, StarsAndQuestionMarks) {
  EXPECT_TRUE(GlobMatches("", ""));
  EXPECT_TRUE(GlobMatches("*", ""));
  EXPECT_TRUE(GlobMatches("*.bias", "blocks.0.qkv.bias"));
  EXPECT_TRUE(GlobMatches("blocks.*.w?", "blocks.1.experts.5.w1"));
  EXPECT_TRUE(GlobMatches("*a*b*c", "xxaxbxbxc"));
  EXPECT_TRUE(GlobMatches("a**b", "ab"));
  EXPECT_FALSE(GlobMatches("", "a"));
  EXPECT_FALSE(GlobMatches("?", ""));
  EXPECT_FALSE(GlobMatches("*.bias", "blocks.0.biases"));
  EXPECT_FALSE(GlobMatches("a*b", "abc"));
  EXPECT_FALSE(GlobMatches("blocks.0", "blocks.00"));
}

TEST(ParameterGroupsTest, ByDefaultBlocksOfOneDimDoNotDecay) {
  const ParameterSet parameters = SmallModel();
  const auto groups = Groups(parameters, "");
  ASSERT_TRUE(groups.ok()) << groups.status();
  EXPECT_EQ((*groups)[{0}].weight_decay, 0.1);
  EXPECT_EQ((*groups)[{1}].weight_decay, 0);
  EXPECT_EQ((*groups)[{2}].weight_decay, 0.1);
  EXPECT_EQ((*groups)[{3}].weight_decay, 0);
  for (int i = 0; i < parameters.size(); ++i) {
    EXPECT_EQ((*groups)[{i}].lr_multiplier, 1);
    EXPECT_FALSE((*groups)[{i}].frozen);
    EXPECT_EQ((*groups)[{i}].rule, 0);
  }
}

TEST(ParameterGroupsTest, TheFirstMatchWins) {
  const ParameterSet parameters = SmallModel();
  const auto groups = Groups(parameters, R"(
      groups { pattern: "*.qkv.*" lr_multiplier: 0.5 weight_decay: 0.3 }
      groups { pattern: "*.router.*" rule { sgd { weight_decay: 0.7 } } }
      groups { pattern: "blocks.*" frozen: true lr_multiplier: 9 })");
  ASSERT_TRUE(groups.ok()) << groups.status();
  EXPECT_EQ((*groups)[{2}].lr_multiplier, 0.5);
  EXPECT_EQ((*groups)[{2}].weight_decay, 0.3);
  EXPECT_EQ((*groups)[{3}].weight_decay, 0.3) << "a decay that is written holds for biases too";
  EXPECT_FALSE((*groups)[{3}].frozen);
  EXPECT_EQ((*groups)[{4}].rule, 1);
  EXPECT_EQ((*groups)[{4}].weight_decay, 0.7) << "the decay of the group's own rule";
  ASSERT_EQ(groups->rules().size(), 2u);
  EXPECT_TRUE(groups->rules()[1].has_sgd());
  EXPECT_TRUE((*groups)[{1}].frozen);
  EXPECT_EQ((*groups)[{1}].lr_multiplier, 9);
  EXPECT_EQ((*groups)[{0}].lr_multiplier, 1);
}

TEST(ParameterGroupsTest, APatternWithoutBlocksNamesTheClosestOnes) {
  const ParameterSet parameters = SmallModel();
  const absl::Status status = Groups(parameters, R"(groups { pattern: "*.roouter.*" lr_multiplier: 2 })").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  const std::string message(status.message());
  EXPECT_NE(message.find("optim.groups[0]: pattern \"*.roouter.*\" matches none of the model's 5 blocks; closest: blocks.0.router.weight"),
            std::string::npos)
      << message;
}

TEST(ParameterGroupsTest, APatternThatCanNeverWinIsRefused) {
  const ParameterSet parameters = SmallModel();
  const absl::Status status =
      Groups(parameters, R"(groups { pattern: "*" lr_multiplier: 2 } groups { pattern: "*.bias" weight_decay: 0 })").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(status.message()).find("earlier patterns take all 1 blocks"), std::string::npos) << status;
}

}  // namespace
}  // namespace conclave
