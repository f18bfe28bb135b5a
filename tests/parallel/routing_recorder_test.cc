// The routing record of a run: exact counts, and a sample that does not depend on who saw which leaf.
#include "parallel/routing_recorder.h"

#include <gtest/gtest.h>

#include <numeric>

#include "base/rng.h"
#include "comm/loopback.h"

namespace conclave {
namespace {

constexpr int kRecordedLayers = 3, kRecordedExperts = 8, kRecordedTopK = 2, kRecordedLeaves = 6;

// Two different experts of a token, a function of where it stands.
std::vector<int32_t> IdsOf(int64_t step, int64_t leaf, int layer, int64_t rows) {
  const RngKey key{
      .seed = 5, .site = static_cast<uint32_t>(layer), .step = static_cast<uint32_t>(step), .worker = static_cast<uint32_t>(leaf)};
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < rows; ++t) {
    const auto first = static_cast<int32_t>(key.Below(kRecordedExperts, 2 * t));
    ids.push_back(first);
    ids.push_back(static_cast<int32_t>((first + 1 + key.Below(kRecordedExperts - 1, 2 * t + 1)) % kRecordedExperts));
  }
  return ids;
}

// Leaves of two steps, 5 + leaf tokens each, shared out over `ranks`.
absl::StatusOr<RoutingWindow> Record(int ranks, int64_t sample) {
  std::vector<RoutingWindow> windows(ranks, {.counts = RoutingCounts(1, 1), .ids = {}, .leaf = {}, .turn = {}});
  RETURN_IF_ERROR(RunRanks(ranks, [&](Communicator& world) -> absl::Status {
    RoutingRecorder recorder({.layers = kRecordedLayers, .experts = kRecordedExperts, .sample = sample, .seed = 3});
    const auto route = [&](int64_t step, int64_t leaf, int layer, int times) {
      std::vector<int32_t> ids = IdsOf(step, leaf, layer, 5 + leaf);
      for (int i = 0; i < times; ++i) recorder.Routed(layer, Tensor(ids.data(), {5 + leaf, kRecordedTopK}, DType::kI32), 16);
    };
    for (int64_t step = 0; step < 2; ++step) {
      recorder.Arm(step);
      for (int64_t leaf = 0; leaf < kRecordedLeaves; ++leaf) {
        if (leaf * ranks / kRecordedLeaves != world.rank()) continue;
        recorder.BeginLeaf(leaf, 10 * step + leaf);
        for (int layer = 0; layer < kRecordedLayers; ++layer) route(step, leaf, layer, 1 + layer % 2);  // layer 1 is recomputed at once
        recorder.EndLeaf();
        route(step, leaf, 0, 1);  // recomputed in the backward pass
      }
      recorder.EndEvaluation();
      recorder.BeginLeaf(0, 0);  // a second evaluation of the step
      route(step, 0, 0, 1);
      recorder.EndLeaf();
    }
    ASSIGN_OR_RETURN(windows[world.rank()], recorder.Gather(world));
    ASSIGN_OR_RETURN(const RoutingWindow next, recorder.Gather(world));
    EXPECT_EQ(next.tokens(), 0);
    EXPECT_EQ(next.counts.total(), 0);
    return absl::OkStatus();
  }));
  for (const RoutingWindow& window : windows) {
    EXPECT_EQ(window.ids, windows[0].ids);
    EXPECT_EQ(window.leaf, windows[0].leaf);
    EXPECT_EQ(window.turn, windows[0].turn);
  }
  return windows[0];
}

bool SameCounts(const RoutingCounts& a, const RoutingCounts& b) {
  for (int j = 0; j < a.layers(); ++j) {
    if (!std::ranges::equal(a.load(j), b.load(j))) return false;
    if (j + 1 < a.layers() && !std::ranges::equal(a.transitions(j), b.transitions(j))) return false;
  }
  return a.layers() == b.layers();
}

TEST(RoutingRecorder, CountsEveryTokenOnceAndKeepsAllThatFit) {
  const auto window = Record(1, 1000);
  ASSERT_TRUE(window.ok()) << window.status();
  std::vector<int32_t> ids, leaves;
  std::vector<int64_t> turns;
  for (int64_t step = 0; step < 2; ++step) {
    for (int64_t leaf = 0; leaf < kRecordedLeaves; ++leaf) {
      for (int64_t t = 0; t < 5 + leaf; ++t) {
        leaves.push_back(static_cast<int32_t>(leaf));
        turns.push_back(10 * step + leaf);
        for (int layer = 0; layer < kRecordedLayers; ++layer) {
          const std::vector<int32_t> chosen = IdsOf(step, leaf, layer, 5 + leaf);
          ids.insert(ids.end(), chosen.begin() + t * kRecordedTopK, chosen.begin() + (t + 1) * kRecordedTopK);
        }
      }
    }
  }
  EXPECT_EQ(window->ids, ids);
  EXPECT_EQ(window->leaf, leaves);
  EXPECT_EQ(window->turn, turns);
  const auto trace = RoutingTrace::Make({.experts = kRecordedExperts, .layers = kRecordedLayers, .top_k = kRecordedTopK}, ids);
  ASSERT_TRUE(trace.ok()) << trace.status();
  EXPECT_TRUE(SameCounts(window->counts, RoutingCounts::Of(*trace)));
}

TEST(RoutingRecorder, IsTheSameOnAnyNumberOfRanks) {
  for (const int64_t sample : {7, 1000}) {
    const auto alone = Record(1, sample);
    ASSERT_TRUE(alone.ok()) << alone.status();
    EXPECT_EQ(alone->tokens(), std::min<int64_t>(sample, 2 * (5 * kRecordedLeaves + 15)));
    for (const int ranks : {2, 3}) {
      const auto together = Record(ranks, sample);
      ASSERT_TRUE(together.ok()) << together.status();
      EXPECT_EQ(together->ids, alone->ids) << ranks << " ranks, sample " << sample;
      EXPECT_EQ(together->leaf, alone->leaf);
      EXPECT_TRUE(SameCounts(together->counts, alone->counts));
    }
  }
}

TEST(RoutingRecorder, DriftIsTheDistanceOfTheTransitions) {
  RoutingCounts a(2, 2), b(2, 2);
  a.transitions(0)[0] = 3, a.transitions(0)[3] = 1;
  b.transitions(0)[0] = 50, b.transitions(0)[1] = 50;
  EXPECT_DOUBLE_EQ(RoutingDrift(a, a), 0);
  EXPECT_DOUBLE_EQ(RoutingDrift(a, b), 0.5);
  EXPECT_DOUBLE_EQ(RoutingDrift(a, RoutingCounts(2, 2)), 0);
}

TEST(RoutingRecorder, DriftOfLoadsIsTheDistanceOfTheShares) {
  RoutingCounts a(2, 3), b(2, 3);
  a.load(0)[0] = 1, a.load(0)[1] = 1, a.load(1)[2] = 7;
  b.load(0)[0] = 50, b.load(0)[2] = 50, b.load(1)[2] = 1;
  EXPECT_DOUBLE_EQ(LoadDrift(a, a), 0);
  EXPECT_DOUBLE_EQ(LoadDrift(a, b), 0.25);  // a half moved in one of two layers
  EXPECT_DOUBLE_EQ(LoadDrift(b, a), 0.25);
  b.load(1)[2] = 0;
  EXPECT_DOUBLE_EQ(LoadDrift(a, b), 1);
}

}  // namespace
}  // namespace conclave
