#include "trainer/leaf_gradients.h"

#include <gtest/gtest.h>

#include "base/rng.h"
#include "comm/loopback.h"
#include "comm/reduction_tree.h"
#include "trainer/leaf_table.h"

namespace conclave {
namespace {

// One replicated block and one expert block, both here.
struct Blocks {
  ParameterSet parameters;
  BlockId shared = parameters.Add({.name = "shared", .shape = {5}});
  BlockId expert = parameters.Add({.name = "expert", .shape = {3, 2}, .kind = BlockKind::kExpert, .expert = 0, .moe_layer = 0});
  Layout layout = ReplicatedLayout(&parameters, 0, 1);
};

float Leaf(int64_t leaf, int lane, int64_t i) {
  return RngKey{.seed = 2, .site = static_cast<uint32_t>(leaf), .worker = static_cast<uint32_t>(lane)}.Uniform(i) - 0.4f;
}

// The sum of leaves lo .. hi - 1 by the tree, written as its definition.
float TreeSum(int64_t lo, int64_t hi, int lane, int64_t i) {
  if (hi - lo == 1) return Leaf(lo, lane, i);
  const TreeNode node{static_cast<int>(lo), static_cast<int>(hi)};
  const int64_t split = SplitPoint(node);
  return TreeSum(lo, split, lane, i) + TreeSum(split, hi, lane, i);
}

// What no leaf wrote is zero, whatever the memory held before.
TEST(LeafGradients, ABlockLeftOutReadsAsZeros) {
  Blocks blocks;
  LeafGradients gradients(&blocks.layout, DType::kF32, 2, 1);
  gradients.Begin(/*each_worker=*/true);
  for (int lane = 0; lane < 2; ++lane) gradients.Running(blocks.expert, lane).Fill(7);
  gradients.ClearRunning();
  const GradientSlot slot = gradients.Slot(blocks.expert);
  slot.written[1] = 1;
  for (const float v : gradients.Merge(blocks.expert, 0, 0).span<float>()) EXPECT_EQ(v, 0);
  for (const float v : gradients.Merge(blocks.expert, 1, 0).span<float>()) EXPECT_EQ(v, 7);
}

// An exchange's places take all of it; without them, or with workers kept apart, the memory is the object's own.
TEST(LeafGradients, FormsInThePlacesOfAnExchange) {
  EXPECT_EQ(RunRanks(1,
                     [](Communicator& world) -> absl::Status {
                       Blocks blocks;
                       const std::unique_ptr<Exchange> exchange =
                           MakeExactExchange({.layout = &blocks.layout, .world = &world, .data = &world});
                       LeafGradients gradients(&blocks.layout, DType::kF32, 1, 1);
                       gradients.Begin(/*each_worker=*/false, exchange.get());
                       EXPECT_EQ(gradients.bytes(), 0);
                       for (const BlockId block : {blocks.shared, blocks.expert}) {
                         EXPECT_EQ(gradients.Slot(block).first.raw(), exchange->Place(block).raw());
                         exchange->Place(block).Fill(3);
                         for (const float v : gradients.Running(block, 0).span<float>()) EXPECT_EQ(v, 0);  // nothing was written
                       }
                       gradients.Begin(/*each_worker=*/true, exchange.get());
                       EXPECT_GT(gradients.bytes(), 0);
                       EXPECT_NE(gradients.Slot(blocks.shared).first.raw(), exchange->Place(blocks.shared).raw());
                       return absl::OkStatus();
                     }),
            absl::OkStatus());
}

TEST(LeafGradients, SumsLeavesByTheTree) {
  for (int64_t leaves = 1; leaves <= 17; ++leaves) {
    Blocks blocks;
    LeafGradients gradients(&blocks.layout, DType::kF32, 2, leaves);
    for (int worker = 0; worker < 2; ++worker) {  // the second finds the first one's sums in memory
      gradients.Begin(/*each_worker=*/true);
      for (int64_t leaf = 0; leaf < leaves; ++leaf) {
        if (leaf > 0) gradients.ClearRunning();
        for (const BlockId block : {blocks.shared, blocks.expert}) {
          const GradientSlot slot = gradients.Slot(block);
          ASSERT_EQ(slot.lanes, block == blocks.expert ? 2 : 1);
          for (int lane = 0; lane < slot.lanes; ++lane) {
            float* out = reinterpret_cast<float*>(static_cast<std::byte*>(slot.first.raw()) + lane * slot.stride_bytes);
            for (int64_t i = 0; i < slot.first.elements(); ++i) {
              out[i] = Leaf(leaf, lane, i);
            }
            ASSERT_EQ(slot.written[lane], 0);
            slot.written[lane] = 1;
          }
        }
        for (const BlockId block : {blocks.shared, blocks.expert}) {
          for (int lane = 0; lane < gradients.lanes(block); ++lane) {
            const Tensor sum = gradients.Merge(block, lane, leaf);
            ASSERT_EQ(sum.defined(), leaf + 1 == leaves);
            for (int64_t i = 0; sum.defined() && i < sum.elements(); ++i) {
              EXPECT_EQ(sum.data<float>()[i], TreeSum(0, leaves, lane, i)) << leaves << " leaves, lane " << lane;
            }
          }
        }
      }
    }
  }
}

TEST(LeafGradients, OneLaneWhereWorkersAreFolded) {
  Blocks blocks;
  LeafGradients gradients(&blocks.layout, DType::kF64, 3, 2);
  gradients.Begin(/*each_worker=*/false);
  EXPECT_EQ(gradients.Slot(blocks.expert).lanes, 1);
  gradients.Running(blocks.expert, 0).Fill(2);
  const int64_t small = gradients.bytes();
  gradients.Begin(/*each_worker=*/true);
  EXPECT_EQ(gradients.Slot(blocks.expert).lanes, 3);
  EXPECT_GT(gradients.bytes(), small);
  for (int lane = 0; lane < 3; ++lane) EXPECT_EQ(gradients.Running(blocks.expert, lane).data<double>()[0], 0);
}

// Rows of leaves meet by the tree whatever rank they come from; counters are sums.
TEST(LeafTable, GathersByTheTree) {
  constexpr int kWorkers = 5, kLeavesPerWorker = 3, kLeaves = kWorkers * kLeavesPerWorker;
  const auto value = [](int64_t leaf, int64_t column) { return RngKey{.seed = 5, .site = static_cast<uint32_t>(column)}.Normal(leaf); };
  std::vector<double> workers(kWorkers), column(kLeavesPerWorker);
  for (int m = 0; m < kWorkers; ++m) {
    for (int b = 0; b < kLeavesPerWorker; ++b) column[b] = value(m * kLeavesPerWorker + b, 1);
    workers[m] = (column[0] + column[1]) + column[2];
  }
  const double want = ((workers[0] + workers[1]) + (workers[2] + workers[3])) + workers[4];
  for (const int ranks : {1, 2, 3}) {
    std::vector<double> sums(ranks);
    std::vector<int64_t> counts(ranks);
    ASSERT_TRUE(RunRanks(ranks, [&](Communicator& world) -> absl::Status {
                  LeafTable table(2, 2);
                  for (int use = 0; use < 2; ++use) {  // the second use finds the first one's numbers in memory
                    table.Begin(kLeaves);
                    for (int leaf = world.rank(); leaf < kLeaves; leaf += ranks) {
                      for (int64_t c = 0; c < 2; ++c) table.At(leaf, c) = value(leaf, c);
                      const int64_t ones[] = {1, leaf};
                      table.Count(ones);
                    }
                    RETURN_IF_ERROR(table.Gather(world, kLeavesPerWorker));
                  }
                  sums[world.rank()] = table.Sum(1);
                  counts[world.rank()] = table.Counter(1);
                  EXPECT_EQ(table.Counter(0), kLeaves);
                  return absl::OkStatus();
                }).ok());
    for (int r = 0; r < ranks; ++r) {
      EXPECT_EQ(sums[r], want) << ranks << " ranks";
      EXPECT_EQ(counts[r], kLeaves * (kLeaves - 1) / 2) << ranks << " ranks";
    }
  }
}

}  // namespace
}  // namespace conclave
