#include "launch/loading.h"

#include <filesystem>

#include <gtest/gtest.h>

#include "base/file_system.h"

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

}  // namespace
}  // namespace conclave
