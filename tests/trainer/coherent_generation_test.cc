// Tokens that stay with their experts: the logits of ordinary expert parallelism, one all-to-all a layer, fewer bytes.
#include <unistd.h>

#include <gtest/gtest.h>

#include <map>
#include <mutex>

#include "comm/loopback.h"
#include "tests/trainer/config_fixture.h"
#include "trainer/generator.h"

namespace conclave {
namespace {

constexpr char kConfig[] = R"(name: "coherent"
trainer { steps: 20 workers: 4 global_batch: 8 }
optim { first_order { lr: 0.01 rule { adamw {} } } }
model { precision { compute: F64 } moe_lm { layers: 2 width: 32 heads: 4 kv_heads: 2 context: 16 init_std: 0.4 moe { experts: 8 top_k: 1 hidden: 16 } } }
data { sources { text { path: "a.txt" } } }
)";

class CoherentGenerationTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = JoinPath(testing::TempDir(), absl::StrFormat("coherent-%d", getpid()));
    ASSERT_TRUE(RealFileSystem().CreateDirs(folder_).ok());
    std::string text;
    for (int i = 0; i < 200; ++i) text += absl::StrFormat("line %d of a short text\n", i);
    ASSERT_TRUE(RealFileSystem().WriteAtomically(JoinPath(folder_, "text.txt"), text).ok());
  }
  void TearDown() override { RealFileSystem().RemoveTree(folder_).IgnoreError(); }

  Experiment Config(int expert, const std::vector<std::string>& more) const {
    std::vector<std::string> overrides{"data.sources[0].text.path=\"" + JoinPath(folder_, "text.txt") + "\"",
                                       "data.cache_dir=\"" + JoinPath(folder_, "cache") + "\"",
                                       absl::StrFormat("parallel.expert=%d", expert)};
    overrides.insert(overrides.end(), more.begin(), more.end());
    const absl::StatusOr<LoadedConfig> loaded = LoadText(kConfig, overrides);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return loaded->config;
  }

  struct Outcome {
    absl::Status status;
    Generated generated;                                            // rank 0's
    std::map<std::pair<int, int64_t>, std::vector<double>> logits;  // by prompt and step
    int64_t BytesOf(std::string_view label) const {
      for (const auto& line : generated.traffic.lines) {
        if (line.label == label) return line.bytes;
      }
      return 0;
    }
    int64_t MessagesOf(std::string_view label) const {
      for (const auto& line : generated.traffic.lines) {
        if (line.label == label) return line.messages;
      }
      return 0;
    }
  };
  static Outcome Run(int ranks, const Experiment& config, GenerateOptions options) {
    Outcome outcome;
    absl::Status first;  // rank 0's
    std::mutex mutex;
    options.on_logits = [&](int prompt, int64_t step, std::span<const double> logits) {
      const std::lock_guard lock(mutex);
      std::vector<double>& kept = outcome.logits[{prompt, step}];
      EXPECT_TRUE(kept.empty()) << "two ranks draw token " << step << " of prompt " << prompt;
      kept.assign(logits.begin(), logits.end());
    };
    outcome.status = RunRanks(ranks, [&](Communicator& world) -> absl::Status {
      Assembly assembly;
      RETURN_IF_ERROR(Assemble(config, world, RealFileSystem(), &assembly));
      absl::StatusOr<Generated> mine = Generate(assembly, kPrompts, options, nullptr);
      if (world.rank() == 0) first = mine.status();
      if (world.rank() == 0 && mine.ok()) outcome.generated = *std::move(mine);
      return absl::OkStatus();
    });
    if (!first.ok()) outcome.status = first;
    return outcome;
  }

  inline static const std::vector<std::string> kPrompts = {"line 1", "a", "some longer text that runs over the end", "line 20 of", "of a"};
  std::string folder_;
};

// Bits, in double and in float, with one expert a token and with more, with a shared expert, and beyond the end of the context.
TEST_F(CoherentGenerationTest, LogitsAreThoseOfOrdinaryExpertParallelism) {
  const std::vector<std::vector<std::string>> kinds = {
      {},
      {"model.precision.compute=F32", "model.moe_lm.position=ROTARY", "model.moe_lm.layers=3", "model.moe_lm.moe.every=2"},
      {"model.moe_lm.moe.top_k=3", "model.moe_lm.moe.shared_hidden=8", "model.moe_lm.moe.shared_gate=true"},
      {"model.moe_lm.moe.top_k=2", "parallel.dispatch.route=HIERARCHICAL", "parallel.dispatch.ranks_per_node=2"}};
  for (const auto& more : kinds) {
    for (const int expert : {1, 2, 4}) {
      const int ranks = expert == 1 ? 1 : 4;
      if (ranks == 1 && more.size() == 3) continue;
      const Experiment config = Config(expert, more);
      const Outcome ordinary = Run(ranks, config, {.tokens = 14, .temperature = 1, .seed = 3});
      const Outcome coherent = Run(ranks, config, {.tokens = 14, .temperature = 1, .seed = 3, .coherent = true});
      ASSERT_TRUE(ordinary.status.ok() && coherent.status.ok()) << ordinary.status << coherent.status;
      EXPECT_EQ(coherent.generated.texts, ordinary.generated.texts) << more.size() << " " << expert;
      ASSERT_EQ(ordinary.logits.size(), kPrompts.size() * 14);
      EXPECT_TRUE(coherent.logits == ordinary.logits) << more.size() << " " << expert;
    }
  }
}

// A pass of one token each: every layer exchanges counts once and rows once, and nothing comes back. Empty messages are in no books, so
// rows are counted by their bytes.
TEST_F(CoherentGenerationTest, OneAllToAllALayer) {
  const Experiment config = Config(4, {"model.moe_lm.layers=5", "model.moe_lm.context=64"});
  const auto run = [&](int64_t tokens, bool coherent) { return Run(4, config, {.tokens = tokens, .coherent = coherent}); };
  const Outcome prompts = run(1, true), more = run(4, true), ordinary_prompts = run(1, false), ordinary = run(4, false);
  ASSERT_TRUE(prompts.status.ok() && more.status.ok() && ordinary_prompts.status.ok() && ordinary.status.ok()) << more.status;
  EXPECT_EQ(more.MessagesOf("dispatch counts") - prompts.MessagesOf("dispatch counts"), 3 * 5 * 4 * 3);  // passes, layers, pairs of ranks
  EXPECT_EQ(more.BytesOf("combine rows"), prompts.BytesOf("combine rows"));
  EXPECT_GT(ordinary.BytesOf("combine rows"), ordinary_prompts.BytesOf("combine rows"));
  const GenerationTraffic& traffic = more.generated.traffic;
  EXPECT_EQ(traffic.moves, 3 * 5 * 5);  // passes, texts, layers
  EXPECT_GT(traffic.hops, 0);
  // The stream, one weight, one expert and the sequence.
  EXPECT_EQ(more.BytesOf("dispatch rows") - prompts.BytesOf("dispatch rows"), traffic.hops * (32 * 8 + 8 + 4 + 4));
}

// With narrow keys and values the sum over all lines is less, though prompts and generated tokens go to every rank.
TEST_F(CoherentGenerationTest, FewerBytesWhereKeysAndValuesAreNarrow) {
  const Experiment config = Config(4, {"model.moe_lm.layers=8", "model.moe_lm.width=64", "model.moe_lm.heads=16", "model.moe_lm.kv_heads=1",
                                       "model.moe_lm.context=64", "model.precision.compute=F32"});
  const Outcome ordinary = Run(4, config, {.tokens = 24}), coherent = Run(4, config, {.tokens = 24, .coherent = true});
  ASSERT_TRUE(ordinary.status.ok() && coherent.status.ok()) << ordinary.status << coherent.status;
  EXPECT_LT(coherent.generated.traffic.bytes(), ordinary.generated.traffic.bytes());
  // Keys and values of 8 layers go to 3 other ranks: those of every prompt, and of every generated token but the last.
  int64_t tokens = 0;
  for (const std::string& prompt : kPrompts) tokens += static_cast<int64_t>(prompt.size()) + 23;
  EXPECT_EQ(coherent.BytesOf("context keys and values"), tokens * 8 * 3 * 2 * 4 * int64_t{sizeof(float)});
}

TEST_F(CoherentGenerationTest, RefusesWhatCannotBe) {
  const auto refused = [&](const std::vector<std::string>& more, const GenerateOptions& options) {
    return Run(2, Config(2, more), options).status;
  };
  const absl::Status memory = refused({}, {.tokens = 4, .coherent = true, .memory_bytes = 1000});
  EXPECT_EQ(memory.code(), absl::StatusCode::kFailedPrecondition);
  // 2 layers, 5 texts of at most 16 tokens, rows of 2 * 16 doubles.
  const absl::Status endless = refused({}, {.tokens = std::numeric_limits<int64_t>::max(), .coherent = true, .memory_bytes = 1000});
  EXPECT_NE(endless.message().find("5 texts of up to 16 tokens"), std::string::npos) << endless;
  EXPECT_NE(memory.message().find("5 texts of up to 16 tokens take 40.0 KiB on each rank, and a rank may take 1000 B"), std::string::npos)
      << memory;
  const absl::Status rounded = refused({"parallel.dispatch.dispatch_forward=BF16"}, {.tokens = 4, .coherent = true});
  EXPECT_EQ(rounded.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(rounded.message().find("leave the coherent mode out"), std::string::npos) << rounded;
  EXPECT_EQ(refused({"model.moe_lm.moe.router=EXPERT_CHOICE"}, {.tokens = 4, .coherent = true}).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(refused({}, {.tokens = 4, .cache = false, .coherent = true}).code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace conclave
