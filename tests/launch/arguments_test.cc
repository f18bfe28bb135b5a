#include "launch/arguments.h"

#include <gtest/gtest.h>

namespace conclave {
namespace {

using Words = std::vector<std::string>;

CommandSpec TrainLike() {
  return {.name = "train",
          .positional = "CONFIG",
          .summary = "Trains.",
          .options = {{"--set", "PATH=VALUE", "override", true}, {"--run-dir", "DIR", "run folder"}, {"--resume", "", "go on"}}};
}

CommandSpec BenchLike() {
  return {.name = "bench", .positional = "WHAT [CONFIG]", .summary = "Measures.", .options = {{"--json", "", "JSON"}}};
}

std::string ErrorOf(const CommandSpec& spec, const Words& words) {
  const absl::StatusOr<Arguments> parsed = Arguments::Parse(spec, words);
  if (parsed.ok()) return "";
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(parsed.status().message());
}

TEST(Arguments, ValuesFollowOrAreJoinedByEquals) {
  for (const Words& words :
       {Words{"a.textproto", "--run-dir", "runs/x", "--resume"}, Words{"--resume", "--run-dir=runs/x", "a.textproto"}}) {
    const absl::StatusOr<Arguments> parsed = Arguments::Parse(TrainLike(), words);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->positional(), "a.textproto");
    EXPECT_EQ(parsed->Get("--run-dir"), "runs/x");
    EXPECT_TRUE(parsed->Has("--resume"));
    EXPECT_FALSE(parsed->Has("--set"));
    EXPECT_EQ(parsed->Get("--set", "none"), "none");
  }
}

TEST(Arguments, OnlyTheFirstEqualsSplits) {
  const absl::StatusOr<Arguments> parsed = Arguments::Parse(TrainLike(), {"a", "--set=trainer.steps=3", "--set", "name=\"x\""});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->All("--set"), (Words{"trainer.steps=3", "name=\"x\""}));
}

TEST(Arguments, ErrorsNameTheArgument) {
  EXPECT_EQ(ErrorOf(TrainLike(), {"a", "--run-dri", "x"}),
            "unknown option '--run-dri'; did you mean '--run-dir'? (see conclave train --help)");
  EXPECT_EQ(ErrorOf(TrainLike(), {"a", "--run-dir", "x", "--run-dir=y"}), "option '--run-dir' is given twice");
  EXPECT_EQ(ErrorOf(TrainLike(), {"a", "--resume=yes"}), "option '--resume' takes no value");
  EXPECT_EQ(ErrorOf(TrainLike(), {"a", "--run-dir"}), "option '--run-dir' needs a value DIR");
  EXPECT_EQ(ErrorOf(TrainLike(), {"a", "b"}), "unexpected argument 'b' (see conclave train --help)");
  EXPECT_EQ(ErrorOf(TrainLike(), {"--resume"}), "missing argument CONFIG (see conclave train --help)");
}

TEST(Arguments, DotsTakeAnyNumberOfPositionals) {
  const CommandSpec spec{.name = "compare", .positional = "CONFIG...", .options = {{"--json", "", "JSON"}}};
  const absl::StatusOr<Arguments> three = Arguments::Parse(spec, {"a", "--json", "b", "c"});
  ASSERT_TRUE(three.ok()) << three.status();
  EXPECT_EQ(three->positionals(), (Words{"a", "b", "c"}));
  EXPECT_EQ(ErrorOf(spec, {"--json"}), "missing argument CONFIG... (see conclave compare --help)");
}

TEST(Arguments, BracketedPositionalsAreOptional) {
  const absl::StatusOr<Arguments> one = Arguments::Parse(BenchLike(), {"kernels", "--json"}),
                                  two = Arguments::Parse(BenchLike(), {"train", "a.textproto"});
  ASSERT_TRUE(one.ok() && two.ok());
  EXPECT_EQ(one->positional(0), "kernels");
  EXPECT_EQ(one->positional(1), "");
  EXPECT_EQ(two->positional(1), "a.textproto");
  EXPECT_EQ(ErrorOf(BenchLike(), {}), "missing argument WHAT (see conclave bench --help)");
  EXPECT_EQ(ErrorOf(BenchLike(), {"a", "b", "c"}), "unexpected argument 'c' (see conclave bench --help)");
}

TEST(Arguments, NumbersAreWholeAndComplete) {
  const CommandSpec spec{.name = "generate", .options = {{"--tokens", "N", ""}, {"--temperature", "T", ""}}};
  const absl::StatusOr<Arguments> good = Arguments::Parse(spec, {"--tokens", "12", "--temperature=0.5"}),
                                  bad = Arguments::Parse(spec, {"--tokens=12x", "--temperature", "warm"}),
                                  none = Arguments::Parse(spec, {});
  ASSERT_TRUE(good.ok() && bad.ok() && none.ok());
  EXPECT_EQ(*good->Integer("--tokens", 0), 12);
  EXPECT_EQ(*good->Real("--temperature", 0), 0.5);
  EXPECT_EQ(*none->Integer("--tokens", 7), 7);
  EXPECT_EQ(*none->Real("--temperature", 0.25), 0.25);
  EXPECT_EQ(bad->Integer("--tokens", 0).status().message(), "option '--tokens': expected an integer, got '12x'");
  EXPECT_EQ(bad->Real("--temperature", 0).status().message(), "option '--temperature': expected a number, got 'warm'");
  for (const char* endless : {"nan", "inf", "-inf", "1e999"}) {
    const absl::StatusOr<Arguments> arguments = Arguments::Parse(spec, {"--temperature", endless});
    ASSERT_TRUE(arguments.ok());
    EXPECT_FALSE(arguments->Real("--temperature", 0).ok()) << endless;
  }
}

TEST(Arguments, HelpWinsOverWhatIsMissing) {
  const absl::StatusOr<Arguments> parsed = Arguments::Parse(TrainLike(), {"--help"});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_TRUE(parsed->help());
}

TEST(Arguments, HelpTextListsEveryOption) {
  const std::string text = HelpText(TrainLike());
  EXPECT_EQ(text.substr(0, text.find('\n')), "usage: conclave train CONFIG [options]");
  for (const OptionSpec& option : TrainLike().options) EXPECT_NE(text.find("  " + option.name), std::string::npos) << option.name;
}

}  // namespace
}  // namespace conclave
