// Layers of a config: defaults, includes, the file, overrides; where each value comes from; how errors look.
#include <ostream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/trainer/config_fixture.h"

namespace conclave {
namespace {

std::string Message(const absl::StatusOr<LoadedConfig>& loaded) { return std::string(loaded.status().message()); }

TEST(ConfigLayersTest, DefaultsFillWhatNoLayerSets) {
  const absl::StatusOr<LoadedConfig> loaded = LoadText(kSmallConfig);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const Experiment& config = loaded->config;
  EXPECT_TRUE(config.has_seed());
  EXPECT_EQ(config.seed(), 1u);
  EXPECT_EQ(config.comm().bucket_bytes(), 4 << 20);
  EXPECT_EQ(config.parallel().numerics(), ParallelConfig::FIXED_MESH);
  EXPECT_DOUBLE_EQ(config.optim().first_order().rule().adamw().beta2(), 0.95);
  EXPECT_TRUE(config.optim().first_order().exchange().has_exact());
  EXPECT_TRUE(config.optim().schedule().has_constant());
  EXPECT_TRUE(config.data().tokenizer().has_bytes());
  EXPECT_EQ(config.data().cache_dir(), "runs/cache");
  EXPECT_EQ(config.model().moe_lm().moe().top_k(), 2);
  EXPECT_FALSE(config.trainer().has_init_from()) << "its absence has a meaning";
  EXPECT_EQ(loaded->Origin("seed"), "default");
  EXPECT_EQ(loaded->Origin("trainer.workers"), "x.textproto:2:21");
}

TEST(ConfigLayersTest, AbsentMixtureStaysAbsent) {
  const absl::StatusOr<LoadedConfig> loaded =
      LoadText("name: 'd' optim { gda { gamma: 1 } } model { moe_lm { } } data { sources { text { path: 'a' } } }");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_FALSE(loaded->config.model().moe_lm().has_moe());
}

TEST(ConfigLayersTest, ALaterLayerWins) {
  const FileReader reader =
      MemoryReader({{"configs/base.textproto", std::string(kSmallConfig) + "seed: 5\ncheckpoint { every: 3 keep_last: 4 }"},
                    {"configs/x.textproto", "include: \"base.textproto\"\nname: \"x\"\ncheckpoint { every: 7 }"}});
  const absl::StatusOr<LoadedConfig> loaded = LoadConfig("configs/x.textproto", {"checkpoint.dir=/tmp/c", "checkpoint.dir=/tmp/d"}, reader);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->config.name(), "x");
  EXPECT_EQ(loaded->config.seed(), 5u);
  EXPECT_EQ(loaded->config.checkpoint().every(), 7);
  EXPECT_EQ(loaded->config.checkpoint().keep_last(), 4);
  EXPECT_EQ(loaded->config.checkpoint().dir(), "/tmp/d");
  EXPECT_EQ(loaded->Origin("checkpoint.every"), "configs/x.textproto:3:14");
  EXPECT_EQ(loaded->Origin("checkpoint.keep_last"), "configs/base.textproto:7:23");
  EXPECT_EQ(loaded->Origin("checkpoint.dir"), "--set checkpoint.dir=/tmp/d");
}

TEST(ConfigLayersTest, AListReplacesTheIncludedOne) {
  const FileReader reader =
      MemoryReader({{"b", std::string(kSmallConfig)},
                    {"x", "include: 'b' data { sources { weight: 3 shards { path: 's' } } sources { text { path: 't' } } }"}});
  const absl::StatusOr<LoadedConfig> loaded = LoadConfig("x", {}, reader);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  ASSERT_EQ(loaded->config.data().sources_size(), 2);
  EXPECT_EQ(loaded->config.data().sources(0).shards().path(), "s");
  EXPECT_EQ(loaded->config.data().sources(1).text().path(), "t");
  EXPECT_EQ(loaded->Origin("data.sources[0].weight"), "x:1:31");
  EXPECT_EQ(loaded->Origin("data.sources[1].weight"), "default");
}

TEST(ConfigLayersTest, AnotherMemberOfAOneofDropsTheFirst) {
  const FileReader reader = MemoryReader({{"b", kSmallConfig}, {"x", "include: 'b' optim { gda { gamma: 0.5 } }"}});
  const absl::StatusOr<LoadedConfig> loaded = LoadConfig("x", {}, reader);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_FALSE(loaded->config.optim().has_first_order());
  EXPECT_DOUBLE_EQ(loaded->config.optim().gda().gamma(), 0.5);
}

TEST(ConfigLayersTest, ErrorsNameTheFileTheyStandIn) {
  const FileReader reader =
      MemoryReader({{"d/x", "include: 'sub/b'\nname: 'x'\nsede: 1"}, {"d/sub/b", "include: 'c' optim { lr: 1 }"}, {"d/sub/c", "seed: a"}});
  const absl::StatusOr<LoadedConfig> loaded = LoadConfig("d/x", {"nme=1"}, reader);
  ASSERT_FALSE(loaded.ok());
  const std::string message = Message(loaded);
  EXPECT_NE(message.find("d/x:3:1: error: Experiment has no field 'sede'"), std::string::npos) << message;
  EXPECT_NE(message.find("d/sub/b:1:22: error: Optim has no field 'lr'; it belongs into 'first_order { ... }'"), std::string::npos)
      << message;
  EXPECT_NE(message.find("d/sub/c:1:7: error: 'seed' expects a non-negative integer, got a"), std::string::npos) << message;
  EXPECT_NE(message.find("--set:1:1: error: Experiment has no field 'nme'; did you mean 'name'?"), std::string::npos) << message;
  EXPECT_LT(message.find("d/x:3:1"), message.find("d/sub/b:1"));
  EXPECT_LT(message.find("d/sub/c:1"), message.find("--set:1"));
}

TEST(ConfigLayersTest, ACycleIsNamedWhole) {
  const FileReader reader = MemoryReader({{"a", "include: 'b'"}, {"b", "include: 'c'"}, {"c", "include: './b'"}});
  const absl::StatusOr<LoadedConfig> loaded = LoadConfig("a", {}, reader);
  EXPECT_NE(Message(loaded).find("c:1:10: error: include cycle: b -> c -> b"), std::string::npos) << Message(loaded);
}

TEST(ConfigLayersTest, AMissingFileIsTheReadersError) {
  const absl::StatusOr<LoadedConfig> loaded = LoadConfig("gone.textproto", {}, MemoryReader({}));
  EXPECT_EQ(loaded.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Message(loaded), "gone.textproto: error: cannot open 'gone.textproto': no such file");
}

TEST(ConfigLayersTest, TheDiskReaderReadsFiles) {
  EXPECT_EQ(LoadConfig("no/such/config.textproto", {}).status().code(), absl::StatusCode::kNotFound);
}

TEST(ConfigDiagnosticsTest, LooksLikeACompilersError) {
  const absl::StatusOr<LoadedConfig> loaded = LoadText(std::string(kSmallConfig) + "guard: 1\n\tcomm {\t\"é\" lrr: 0.1 }\n");
  EXPECT_EQ(Message(loaded),
            "x.textproto:6:1: error: Experiment has no field 'guard'; it belongs into 'optim { ... }'\n"
            "  guard: 1\n"
            "  ^\n"
            "x.textproto:7:9: error: expected a field name, got \"é\"\n"
            "  \tcomm {\t\"é\" lrr: 0.1 }\n"
            "  \t      \t^");
}

TEST(ConfigOverridesTest, ReachEveryKindOfField) {
  const absl::StatusOr<LoadedConfig> loaded =
      LoadText(kSmallConfig,
               {"optim.first_order.lr=3e-4", "name=two words", "parallel.numerics=WORLD_SIZE_INVARIANT", "data.shuffle=false",
                "seed = 0x10", "data.sources[0].weight=2", "data.sources+={ shards { path: 's' } }", "model.moe_lm.moe={ top_k: 1 }",
                "data.sources[1]={ weight: 5 }", "optim.groups=[{ pattern: '*.bias' weight_decay: 0 }, { pattern: 'head' frozen: true }]"});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const Experiment& config = loaded->config;
  EXPECT_DOUBLE_EQ(config.optim().first_order().lr(), 3e-4);
  EXPECT_EQ(config.name(), "two words");
  EXPECT_EQ(config.parallel().numerics(), ParallelConfig::WORLD_SIZE_INVARIANT);
  EXPECT_FALSE(config.data().shuffle());
  EXPECT_EQ(config.seed(), 16u);
  ASSERT_EQ(config.data().sources_size(), 2);
  EXPECT_DOUBLE_EQ(config.data().sources(0).weight(), 2);
  EXPECT_EQ(config.data().sources(0).text().path(), "a.txt") << "an element keeps what is not overridden";
  EXPECT_DOUBLE_EQ(config.data().sources(1).weight(), 5);
  EXPECT_EQ(config.data().sources(1).shards().path(), "s");
  EXPECT_EQ(config.model().moe_lm().moe().experts(), 4) << "a block is merged";
  EXPECT_EQ(config.model().moe_lm().moe().top_k(), 1);
  ASSERT_EQ(config.optim().groups_size(), 2);
  EXPECT_TRUE(config.optim().groups(1).frozen());
}

TEST(ConfigOverridesTest, EqualsReplacesAList) {
  const absl::StatusOr<LoadedConfig> loaded = LoadText(kSmallConfig, {"data.sources={ text { path: 'b' } }"});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  ASSERT_EQ(loaded->config.data().sources_size(), 1);
  EXPECT_EQ(loaded->config.data().sources(0).text().path(), "b");
}

TEST(ConfigOverridesTest, AFileFaultCanBeOverriddenAway) {
  const absl::StatusOr<LoadedConfig> loaded = LoadText(std::string(kSmallConfig) + "parallel { expert: 3 }", {"parallel.expert=2"});
  EXPECT_TRUE(loaded.ok()) << loaded.status();
}

struct BadOverride {
  std::string text;
  std::string error;  // the first line
};

void PrintTo(const BadOverride& override_text, std::ostream* out) { *out << override_text.text; }

class BadOverrideTest : public testing::TestWithParam<BadOverride> {};

TEST_P(BadOverrideTest, PointsIntoTheOverride) {
  const absl::StatusOr<LoadedConfig> loaded = LoadText(kSmallConfig, {"seed=2", GetParam().text});
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(Message(loaded).substr(0, Message(loaded).find('\n')), GetParam().error);
}

INSTANTIATE_TEST_SUITE_P(
    Overrides, BadOverrideTest,
    testing::Values(
        BadOverride{"optim.lr=3e-4", "--set:2:7: error: Optim has no field 'lr'; it belongs into 'first_order { ... }'"},
        BadOverride{"trainer.step=5", "--set:2:9: error: Trainer has no field 'step'; did you mean 'steps'?"},
        BadOverride{"optim.first_order.lr=abc", "--set:2:22: error: 'lr' expects a number, got abc"},
        BadOverride{"trainer.steps=010", "--set:2:15: error: '010' starts with 0 and would be read as an octal number; write 10"},
        BadOverride{"name", "--set:2:1: error: an override is written as --set path=value, as in --set trainer.steps=100"},
        BadOverride{"=3", "--set:2:1: error: expected a field name here; a path reads as optim.clip_norm"},
        BadOverride{"data.sources.weight=2", "--set:2:6: error: 'sources' is a list: name an element, as sources[0]"},
        BadOverride{"data.sources[3].weight=2", "--set:2:6: error: 'sources' has 1 elements; [3] is none of them"},
        BadOverride{"data.sources[x]=1", "--set:2:13: error: expected the number of an element, as in sources[0]"},
        BadOverride{"seed[0]=1", "--set:2:1: error: 'seed' is no list: write it without [0]"},
        BadOverride{"seed.x=1", "--set:2:6: error: 'seed' is no block: it has no field 'x'"},
        BadOverride{"optim.clip_norm+=1", "--set:2:16: error: '+=' appends to a list and 'clip_norm' holds one value; use '='"},
        BadOverride{"seed=1 2", "--set:2:8: error: nothing may follow the value of 'seed', got '2'"},
        BadOverride{"seed=", "--set:2:6: error: 'seed' has no value: expected a non-negative integer"},
        BadOverride{"comm.timeout_seconds=0", "--set:2:22: error: 'timeout_seconds' must be in (0, 86400] s, got 0"},
        BadOverride{"model.moe_lm.moe={ experts: 8 top_k: 9 }", "--set:2:31: error: top_k 9 is more than the 8 experts there are"},
        BadOverride{"model.moe_lm.moe={ experts: 8", "--set:2:18: error: block opened at 1:18 is not closed"},
        BadOverride{"data.sources+={ txt { path: 'b' } }", "--set:2:17: error: Source has no field 'txt'; did you mean 'text'?"},
        BadOverride{"checkpoint.dir=\"\\q\"", "--set:2:16: error: Invalid escape sequence in string literal."},
        BadOverride{"checkpoint.dir=\"abc", "--set:2:16: error: this string is not closed before the end of the line"}));

TEST(ConfigRanksTest, MeshAndWorkersMustFitTheRanks) {
  const absl::StatusOr<LoadedConfig> loaded = LoadText(std::string(kSmallConfig) + "parallel { expert: 2 }");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_TRUE(CheckConfigForRanks(*loaded, 2).ok());
  EXPECT_TRUE(CheckConfigForRanks(*loaded, 4).ok());
  EXPECT_EQ(CheckConfigForRanks(*loaded, 3).message(),
            "x.textproto:6:12: error: 3 ranks cannot be split over an expert axis of 2; start a multiple of 2\n  parallel { expert: 2 }\n  "
            "           ^");
  EXPECT_EQ(CheckConfigForRanks(*loaded, 8).message(),
            "x.textproto:2:21: error: 8 ranks for 4 workers: each rank needs one; start fewer ranks or raise trainer.workers\n"
            "  trainer { steps: 20 workers: 4 global_batch: 8 }\n                      ^");
  const absl::StatusOr<LoadedConfig> fixed = LoadText(std::string(kSmallConfig) + "parallel { data: 2 expert: 2 }");
  ASSERT_TRUE(fixed.ok()) << fixed.status();
  EXPECT_TRUE(CheckConfigForRanks(*fixed, 4).ok());
  EXPECT_NE(CheckConfigForRanks(*fixed, 2).message().find("the mesh is data 2 x expert 2 = 4 ranks, but 2 were started"),
            absl::string_view::npos);
}

}  // namespace
}  // namespace conclave
