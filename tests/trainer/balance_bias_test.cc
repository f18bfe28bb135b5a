// The bias that balances experts is train state: moved once for each accepted step, never by evaluation, the same after a stop and resume.
#include <unistd.h>

#include <cmath>

#include <gtest/gtest.h>

#include "comm/loopback.h"
#include "tests/trainer/config_fixture.h"
#include "trainer/trainer.h"

namespace conclave {
namespace {

constexpr char kBiasRun[] = R"(name: "bias"
trainer { steps: 5 workers: 2 global_batch: 4 eval { every: 1 batches: 1 } }
optim { first_order { lr: 0.01 rule { sgd {} } } }
data { sources { text { path: "text.txt" } } tokenizer { bytes {} } validation_fraction: 0.2 }
model { moe_lm { layers: 2 width: 8 heads: 2 context: 8 moe { experts: 4 top_k: 1 router: SIGMOID balance_loss: 0 bias_rate: 0.25 } } }
)";

struct BiasLab {
  const FileSystem& files = RealFileSystem();
  std::string folder = JoinPath(testing::TempDir(), absl::StrFormat("balance_bias-%d", getpid()));

  BiasLab() {
    std::string text;
    for (int i = 0; i < 400; ++i) text += absl::StrFormat("line %d\n", i * i);
    EXPECT_TRUE(files.CreateDirs(folder).ok());
    EXPECT_TRUE(files.WriteAtomically(JoinPath(folder, "text.txt"), text).ok());
  }
  ~BiasLab() { files.RemoveTree(folder).IgnoreError(); }

  // Trains and returns the biases of both layers, equal on all ranks.
  absl::StatusOr<std::vector<float>> Train(const std::string& name, int64_t stop_after, bool resume, int ranks = 1) {
    const std::vector<std::string> overrides = {"data.sources[0].text.path=\"" + JoinPath(folder, "text.txt") + "\"",
                                                "data.cache_dir=\"" + JoinPath(folder, "cache") + "\"",
                                                absl::StrFormat("parallel.expert=%d", ranks)};
    ASSIGN_OR_RETURN(const LoadedConfig loaded, LoadText(kBiasRun, overrides));
    const RunFolder run(&files, JoinPath(folder, name));
    RETURN_IF_ERROR(run.Prepare(loaded, {}, overrides, resume));
    const StopRequests stop(&files, "", 0);
    std::vector<std::vector<float>> biases(ranks);
    RETURN_IF_ERROR(RunRanks(ranks, [&](Communicator& world) -> absl::Status {
      Assembly a;
      RETURN_IF_ERROR(Assemble(loaded.config, world, files, &a));
      ASSIGN_OR_RETURN(
          const std::unique_ptr<Trainer> trainer,
          Trainer::Create(&a, &world, {.files = &files, .folder = &run, .stop = &stop, .resume = resume, .stop_after = stop_after}));
      RETURN_IF_ERROR(trainer->Run().status());
      for (int i = 0; i < a.field->buffers().size(); ++i) {
        const auto values = a.field->buffers().values(i);
        biases[world.rank()].insert(biases[world.rank()].end(), values.begin(), values.end());
      }
      return absl::OkStatus();
    }));
    for (const std::vector<float>& other : biases) EXPECT_EQ(other, biases[0]);
    return biases[0];
  }
};

TEST(BalanceBias, IsTrainState) {
  BiasLab lab;
  const auto straight = lab.Train("straight", 0, false), first = lab.Train("stopped", 2, false), second = lab.Train("stopped", 0, true),
             split = lab.Train("split", 0, false, 2);
  ASSERT_TRUE(straight.ok() && first.ok() && second.ok() && split.ok())
      << straight.status() << first.status() << second.status() << split.status();
  ASSERT_EQ(straight->size(), 8u);
  EXPECT_NE(*first, *straight);
  EXPECT_EQ(*second, *straight);
  EXPECT_EQ(*split, *straight);
  // Five steps of a quarter each, up or down (or none where the load was the mean), whatever was evaluated in between.
  float largest = 0;
  for (const float b : *straight) {
    EXPECT_EQ(b * 4, static_cast<float>(static_cast<int>(b * 4)));
    largest = std::max(largest, std::abs(b));
  }
  EXPECT_GE(largest, 0.25f);
  EXPECT_LE(largest, 1.25f);
}

}  // namespace
}  // namespace conclave
