#include "launch/loading.h"

#include <filesystem>

#include <gtest/gtest.h>

#include "base/digest.h"
#include "base/file_system.h"
#include "comm/loopback.h"
#include "optim/schemes.h"
#include "trainer/trainer.h"

namespace conclave {
namespace {

// Held-out losses become bits a byte by the mean bytes of a token, and that mean weighs tasks by their batches while training.
TEST(ConfigForReading, TasksKeepTheirShares) {
  const absl::StatusOr<LoadedConfig> loaded = LoadConfig(std::string(CONCLAVE_SOURCE_DIR) + "/configs/language/two_tasks.textproto", {});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const std::string path = ::testing::TempDir() + "loading_test_run";
  std::filesystem::remove_all(path);
  const RunFolder folder(&RealFileSystem(), path);
  ASSERT_TRUE(folder.Prepare(*loaded, {}, {}, false).ok());
  const absl::StatusOr<Experiment> config = ConfigForReading(folder, 3);
  ASSERT_TRUE(config.ok()) << config.status();
  ASSERT_EQ(config->data().sources_size(), 2);
  EXPECT_EQ(config->data().sources(0).batch(), 0);
  EXPECT_EQ(config->data().sources(0).weight(), 48);
  EXPECT_EQ(config->data().sources(1).weight(), 12);
  EXPECT_EQ(config->parallel().assignment(), ParallelConfig::WORKERS);
  EXPECT_EQ(config->parallel().expert(), 1);  // of 8 experts on 3 ranks
  std::filesystem::remove_all(path);
}

// A run whose groups of workers would not fit the readers' workers, and whose rows a rank may not take all: neither concerns a reader.
TEST(ConfigForReading, HowItWasTrainedIsLeftOut) {
  const absl::StatusOr<LoadedConfig> loaded = LoadConfig(
      std::string(CONCLAVE_SOURCE_DIR) + "/configs/compression/moe_lm_hierarchical.textproto", {"parallel.dispatch.most_rows=9"});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  ASSERT_TRUE(loaded->config.optim().first_order().exchange().has_hierarchical());
  const std::string path = ::testing::TempDir() + "loading_test_groups";
  std::filesystem::remove_all(path);
  const RunFolder folder(&RealFileSystem(), path);
  ASSERT_TRUE(folder.Prepare(*loaded, {}, {}, false).ok());
  const absl::StatusOr<Experiment> config = ConfigForReading(folder, 5);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->parallel().dispatch().most_rows(), 0);
  std::filesystem::remove_all(path);
  // On five ranks, each with a worker, the scheme that holds the weights is made without a word of groups.
  ParameterSet set;
  set.Add({.name = "w", .shape = {8}});
  const absl::Status made = RunRanks(5, [&](Communicator& world) -> absl::Status {
    std::vector<BlockHome> homes(1);
    homes[0].owners = {0, 1, 2, 3, 4};
    const Layout layout(&set, world.rank(), std::move(homes));
    const SchemeContext context{
        .exchange = {.layout = &layout, .workers = {.workers = static_cast<int>(config->trainer().workers()), .ranks = 5}, .world = &world},
        .initial = [](BlockId, const Tensor&) {}};
    return MakeScheme(config->optim(), context).status();
  });
  EXPECT_EQ(made, absl::OkStatus());
}

// What a trace of routing says of the weights that routed.
TEST(OpenTrained, SaysWhichWeights) {
  const std::string path = ::testing::TempDir() + "loading_test_weights";
  std::filesystem::remove_all(path);
  const absl::StatusOr<LoadedConfig> loaded =
      LoadConfig(std::string(CONCLAVE_SOURCE_DIR) + "/configs/vineq/extragradient.textproto", {"trainer.steps=3"});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const RunFolder folder(&RealFileSystem(), path);
  ASSERT_TRUE(folder.Prepare(*loaded, {}, {}, false).ok());
  const StopRequests stop(&RealFileSystem(), "", 0);
  OpenedWeights opened[2];
  const absl::Status done = RunRanks(2, [&](Communicator& world) -> absl::Status {
    {
      Assembly trained;
      RETURN_IF_ERROR(Assemble(loaded->config, world, RealFileSystem(), &trained));
      ASSIGN_OR_RETURN(const std::unique_ptr<Trainer> trainer,
                       Trainer::Create(&trained, &world, {.files = &RealFileSystem(), .folder = &folder, .stop = &stop}));
      RETURN_IF_ERROR(trainer->Run().status());
    }
    ASSIGN_OR_RETURN(const Experiment config, ConfigForReading(folder, 2));
    Assembly read;
    ASSIGN_OR_RETURN(opened[world.rank()], OpenTrained(folder, config, world, &read));
    return absl::OkStatus();
  });
  ASSERT_TRUE(done.ok()) << done;
  const absl::StatusOr<std::string> manifest = RealFileSystem().ReadAll(path + "/checkpoints/step-3/MANIFEST.pb");
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  for (const OpenedWeights& weights : opened) {
    EXPECT_EQ(weights.step, 3);
    EXPECT_EQ(weights.digest, absl::StrFormat("%016x", DigestOf(*manifest)));
  }
  std::filesystem::remove_all(path);
}

}  // namespace
}  // namespace conclave
