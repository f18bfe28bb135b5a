#include "launch/affinity_table.h"

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <vector>

#include "base/rng.h"

namespace conclave {
namespace {

std::unique_ptr<PlacementSolver> AffinitySolver() {
  PlacementConfig config;
  config.mutable_affinity()->set_effort(5);
  return *MakePlacementSolver(config);
}

RoutingTrace TraceOf(int experts, int layers, int64_t tokens, const std::function<int(int64_t, int)>& expert) {
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int j = 0; j < layers; ++j) ids.push_back(expert(t, j));
  }
  const TraceHeader header{
      .experts = experts, .layers = layers, .top_k = 1, .corpus = "", .step = 7, .seed = 0, .checkpoint = "", .batches = ""};
  return *RoutingTrace::Make(header, std::move(ids));
}

// Every expert has one successor, on the other rank where experts lie in blocks: a plan keeps all, contiguous blocks nothing.
TEST(AffinityTable, PlantedColumnsAreKeptWhole) {
  const RoutingTrace trace = TraceOf(8, 5, 400, [](int64_t t, int j) { return static_cast<int>((t / 2 * 3 % 8 + 4 * j) % 8); });
  const auto line = MeasureAffinity(trace, 2, *AffinitySolver());
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->step, 7);
  EXPECT_DOUBLE_EQ(line->affinity, 1);
  EXPECT_DOUBLE_EQ(line->reach, 1);
  EXPECT_DOUBLE_EQ(line->contiguous, 0);
  EXPECT_DOUBLE_EQ(line->planned, 1);
  EXPECT_DOUBLE_EQ(line->unseen, 1);
  EXPECT_DOUBLE_EQ(line->fewer_hops(), 1);
}

// Without any affinity a plan fits the noise of its own half and gains next to nothing on the other.
TEST(AffinityTable, NoiseIsKeptOnlyWhereItWasSeen) {
  const RngKey key{.seed = 4, .kind = RngKind::kTest};
  const RoutingTrace trace = TraceOf(16, 4, 6000, [&](int64_t t, int j) { return static_cast<int>(key.Below(16, t * 4 + j)); });
  const auto line = MeasureAffinity(trace, 4, *AffinitySolver());
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_NEAR(line->contiguous, 0.25, 0.02);
  EXPECT_GT(line->planned, line->contiguous);
  EXPECT_LE(line->planned, line->reach);
  EXPECT_NEAR(line->unseen, 0.25, 0.02);
}

TEST(AffinityTable, RefusesWhatHasNoTransitions) {
  const auto solver = AffinitySolver();
  EXPECT_FALSE(MeasureAffinity(TraceOf(4, 1, 10, [](int64_t t, int) { return static_cast<int>(t % 4); }), 2, *solver).ok());
  EXPECT_FALSE(MeasureAffinity(TraceOf(4, 2, 10, [](int64_t t, int) { return static_cast<int>(t % 4); }), 3, *solver).ok());
}

}  // namespace
}  // namespace conclave
