#include "trainer/generator.h"

#include <unistd.h>

#include <gtest/gtest.h>

#include "comm/loopback.h"
#include "tests/trainer/config_fixture.h"

namespace conclave {
namespace {

constexpr char kText[] = "text.txt";

// A folder with a little text and a config of an untrained language model over its bytes.
class GeneratorTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = JoinPath(testing::TempDir(), absl::StrFormat("generator-%d", getpid()));
    ASSERT_TRUE(RealFileSystem().CreateDirs(folder_).ok());
    std::string text;
    for (int i = 0; i < 200; ++i) text += absl::StrFormat("line %d of a short text\n", i);
    ASSERT_TRUE(RealFileSystem().WriteAtomically(JoinPath(folder_, kText), text).ok());
  }
  void TearDown() override { RealFileSystem().RemoveTree(folder_).IgnoreError(); }

  Experiment Config(const std::vector<std::string>& more = {}) const {
    std::vector<std::string> overrides{"data.sources[0].text.path=\"" + JoinPath(folder_, kText) + "\"",
                                       "data.cache_dir=\"" + JoinPath(folder_, "cache") + "\"", "model.moe_lm.context=16",
                                       "model.moe_lm.init_std=0.5"};
    overrides.insert(overrides.end(), more.begin(), more.end());
    const absl::StatusOr<LoadedConfig> loaded = LoadText(kSmallConfig, overrides);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return loaded->config;
  }

  // What each rank generates.
  static absl::StatusOr<std::vector<std::string>> GenerateOn(int ranks, const Experiment& config, const std::string& prompt,
                                                             const GenerateOptions& options, std::string* pieces = nullptr) {
    std::vector<std::string> texts(ranks);
    RETURN_IF_ERROR(RunRanks(ranks, [&](Communicator& world) -> absl::Status {
      Assembly assembly;
      RETURN_IF_ERROR(Assemble(config, world, RealFileSystem(), &assembly));
      std::function<void(const std::string&)> on_text;
      if (pieces != nullptr && world.rank() == 0) on_text = [&](const std::string& piece) { *pieces += piece; };
      ASSIGN_OR_RETURN(const conclave::Generated all, Generate(assembly, std::span(&prompt, 1), options, on_text));
      texts[world.rank()] = all.texts[0];
      return absl::OkStatus();
    }));
    return texts;
  }

  std::string Generated(const std::string& prompt, const GenerateOptions& options) const {
    const auto texts = GenerateOn(1, Config(), prompt, options);
    EXPECT_TRUE(texts.ok()) << texts.status();
    return texts.ok() ? texts->at(0) : "";
  }

  std::string folder_;
};

TEST_F(GeneratorTest, TheSameArgumentsGiveTheSameText) {
  const GenerateOptions options{.tokens = 40, .temperature = 1, .seed = 3};
  const std::string text = Generated("line 7", options);
  EXPECT_EQ(text.substr(0, 6), "line 7");
  EXPECT_GT(text.size(), 36u);  // the end-of-document id alone has no text, and it is one of 257
  EXPECT_EQ(Generated("line 7", options), text);
  EXPECT_NE(Generated("line 7", {.tokens = 40, .temperature = 1, .seed = 4}), text);
}

TEST_F(GeneratorTest, MoreTokensContinueTheText) {
  const std::string less = Generated("line", {.tokens = 10}), more = Generated("line", {.tokens = 30});
  EXPECT_GT(more.size(), less.size());
  EXPECT_EQ(more.substr(0, less.size()), less);
  EXPECT_EQ(Generated("line", {.tokens = 0}), "line");
}

TEST_F(GeneratorTest, TheLikeliestTokenNeedsNoDraw) {
  const std::string greedy = Generated("a", {.tokens = 20, .temperature = 0, .seed = 1});
  EXPECT_EQ(Generated("a", {.tokens = 20, .temperature = 0, .seed = 2}), greedy);
  EXPECT_EQ(Generated("a", {.tokens = 20, .temperature = 2, .top_k = 1, .seed = 5}), greedy);
}

TEST_F(GeneratorTest, OnlyTheLastContextIsSeen) {
  const std::string window = "0123456789abcdef";  // as long as the context
  const auto continuation = [&](const std::string& prompt) { return Generated(prompt, {.tokens = 12}).substr(prompt.size()); };
  EXPECT_EQ(continuation("another start, then " + window), continuation(window));
}

TEST_F(GeneratorTest, PiecesAddUpToTheText) {
  std::string pieces;
  const auto texts = GenerateOn(1, Config(), "line 1", {.tokens = 25}, &pieces);
  ASSERT_TRUE(texts.ok()) << texts.status();
  EXPECT_EQ(pieces, texts->at(0));
}

TEST_F(GeneratorTest, SplitExpertsGenerateTheSame) {
  const GenerateOptions options{.tokens = 20, .seed = 3};
  const std::string alone = Generated("line 7", options);
  const auto split = GenerateOn(2, Config({"parallel.expert=2"}), "line 7", options);
  ASSERT_TRUE(split.ok()) << split.status();
  EXPECT_EQ(split->at(0), alone);
  EXPECT_EQ(split->at(1), alone);
}

// Beyond the context, too, where nothing can be kept.
TEST_F(GeneratorTest, TheCacheChangesNoText) {
  const std::vector<std::vector<std::string>> kinds = {
      {}, {"model.moe_lm.position=ROTARY", "model.moe_lm.kv_heads=1", "model.moe_lm.qk_norm=QK_NORM_PER_HEAD"}};
  for (const std::vector<std::string>& more : kinds) {
    for (const std::string prompt : {"line 7", "a prompt that is longer than the context"}) {
      const auto kept = GenerateOn(1, Config(more), prompt, {.tokens = 25, .temperature = 1});
      const auto anew = GenerateOn(1, Config(more), prompt, {.tokens = 25, .temperature = 1, .cache = false});
      ASSERT_TRUE(kept.ok() && anew.ok()) << kept.status() << anew.status();
      EXPECT_EQ(kept->at(0), anew->at(0));
    }
  }
}

// Whatever the number of ranks, and whatever else is asked for.
TEST_F(GeneratorTest, ManyPromptsOnManyRanks) {
  const std::vector<std::string> prompts = {"line 1", "a", "some longer text that runs over", "line 20 of"};
  const GenerateOptions options{.tokens = 20, .temperature = 1, .seed = 3};
  const auto run = [&](int ranks, std::span<const std::string> asked) {
    std::vector<std::string> texts;
    const Experiment config = Config({absl::StrFormat("parallel.expert=%d", ranks)});
    const absl::Status status = RunRanks(ranks, [&](Communicator& world) -> absl::Status {
      Assembly assembly;
      RETURN_IF_ERROR(Assemble(config, world, RealFileSystem(), &assembly));
      ASSIGN_OR_RETURN(const conclave::Generated mine, Generate(assembly, asked, options, nullptr));
      if (world.rank() == ranks - 1) texts = mine.texts;
      return absl::OkStatus();
    });
    EXPECT_TRUE(status.ok()) << status;
    return texts;
  };
  const std::vector<std::string> alone = run(1, prompts);
  ASSERT_EQ(alone.size(), prompts.size());
  for (size_t i = 0; i < prompts.size(); ++i) EXPECT_EQ(alone[i].substr(0, prompts[i].size()), prompts[i]);
  EXPECT_EQ(run(2, prompts), alone);
  EXPECT_EQ(run(2, std::span(prompts).first(3)), std::vector<std::string>(alone.begin(), alone.begin() + 3));
}

TEST_F(GeneratorTest, OnlyLanguageModelsGenerate) {
  const absl::StatusOr<LoadedConfig> game =
      LoadText("name: \"game\"\ntrainer { global_batch: 0 }\noptim { gda { gamma: 0.1 } }\nmodel { bilinear_game { dim: 2 } }\n");
  ASSERT_TRUE(game.ok()) << game.status();
  const auto texts = GenerateOn(1, game->config, "x", {});
  EXPECT_EQ(texts.status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(GeneratorTest, AnEmptyPromptNeedsAnEndOfDocument) {
  EXPECT_GT(Generated("", {.tokens = 20, .temperature = 1}).size(), 10u);
  const auto texts = GenerateOn(1, Config({"data.tokenizer.characters.table_path=\"\""}), "", {.tokens = 5});
  EXPECT_EQ(texts.status().code(), absl::StatusCode::kInvalidArgument) << texts.status();
}

}  // namespace
}  // namespace conclave
