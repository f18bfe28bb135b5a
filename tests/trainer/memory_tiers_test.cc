#include "trainer/memory_tiers.h"

#include <gtest/gtest.h>

namespace conclave {
namespace {

TEST(MemoryTiers, EqualityFitsAndAByteLessDoesNot) {
  // alpha = 2 / 8. device: 16 * 1000 + 4 * 12000 / 4 / 6 = 18000; host: 16 * 3000 = 48000; disk: 144000. Two machines.
  const MixtureSize size{.dense = 1000, .sparse = 12000, .experts = 8, .top_k = 2, .layers = 6};
  MachineMemory memory{.machines = 2, .device = 9000, .host = 24000, .disk = 72000};
  for (const TierDemand& demand : DemandsOf(size, memory)) {
    EXPECT_EQ(demand.needed, demand.available) << demand.tier;
    EXPECT_TRUE(demand.fits) << demand.tier;
  }
  EXPECT_TRUE(CheckTiers(DemandsOf(size, memory), 2).ok());
  for (int64_t* tier : {&memory.device, &memory.host, &memory.disk}) {
    *tier -= 1;
    const absl::Status refused = CheckTiers(DemandsOf(size, memory), 2);
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
    *tier += 1;
  }
  memory.host = 20000, memory.disk = 0;
  EXPECT_EQ(
      CheckTiers(DemandsOf(size, memory), 2).message(),
      "the model does not fit: host memory: 16 alpha S = 46.9 KiB, but 2 machines have 39.1 KiB; use more machines, fewer or narrower "
      "experts");
}

// A third of a byte too much is too much.
TEST(MemoryTiers, FractionsCount) {
  const MixtureSize size{.dense = 1, .sparse = 1, .experts = 3, .top_k = 1, .layers = 1};
  EXPECT_FALSE(DemandsOf(size, {.device = 17})[0].fits);
  EXPECT_TRUE(DemandsOf(size, {.device = 18})[0].fits);
  EXPECT_FALSE(DemandsOf(size, {.host = 5})[0].fits);
  EXPECT_EQ(DemandsOf(size, {.host = 5})[0].needed, 6);
}

TEST(MemoryTiers, CountsAModelsParameters) {
  MoeLmConfig config;
  config.set_layers(2), config.set_width(8), config.set_heads(2), config.set_context(4), config.set_vocab_size(5);
  config.mutable_moe()->set_experts(4), config.mutable_moe()->set_top_k(2), config.mutable_moe()->set_hidden(3),
      config.mutable_moe()->set_every(1);
  config.mutable_moe()->set_groups(1), config.mutable_moe()->set_group_top_k(1), config.mutable_moe()->set_group_score_top(1);
  config.set_tied_head(true), config.set_embedding_parts(1);
  const auto model = MakeMoeLm(config, {});
  ASSERT_TRUE(model.ok()) << model.status();
  const absl::StatusOr<MixtureSize> size = SizeOfMixture(**model, 2);
  ASSERT_TRUE(size.ok());
  EXPECT_EQ(size->sparse, 2 * 4 * 2 * 3 * 8);  // layers, experts, up and down
  int64_t all = 0;
  for (int i = 0; i < (*model)->parameters().size(); ++i) all += (*model)->parameters()[BlockId{i}].shape.elements();
  EXPECT_EQ(size->dense + size->sparse, all);
  EXPECT_EQ(size->layers, 2);
}

}  // namespace
}  // namespace conclave
