#include "comm/reduction_tree.h"

#include <bit>
#include <numeric>

#include <gtest/gtest.h>

#include "tests/comm/test_vectors.h"

namespace conclave {
namespace {

// The definition, written down as it is read.
template <typename T>
std::vector<T> Recursive(const std::vector<std::vector<T>>& leaves, int lo, int hi) {
  if (hi - lo == 1) return leaves[lo];
  int half = 1;
  while (half * 2 < hi - lo) half *= 2;
  std::vector<T> left = Recursive(leaves, lo, lo + half);
  const std::vector<T> right = Recursive(leaves, lo + half, hi);
  for (size_t i = 0; i < left.size(); ++i) left[i] += right[i];
  return left;
}

template <typename T>
std::vector<std::vector<T>> Leaves(int n, int64_t width) {
  std::vector<std::vector<T>> leaves;
  for (int i = 0; i < n; ++i) leaves.push_back(TestVector<T>(i, width, 11));
  return leaves;
}

// The tree as `cuts` ranks would form it: each adds its own interval, one finishes. Leaves in `absent` never arrive.
template <typename T>
std::vector<T> Distributed(const std::vector<std::vector<T>>& leaves, const std::vector<int>& cuts, const std::vector<bool>& absent) {
  const int n = static_cast<int>(leaves.size());
  const int64_t width = static_cast<int64_t>(leaves[0].size());
  std::vector<Buffer> memory;
  std::vector<TreeAccumulator> sums;
  std::vector<Partial> pieces;
  for (size_t r = 0; r + 1 < cuts.size(); ++r) {
    const int slots = TreeAccumulator::SlotsNeeded(cuts[r], cuts[r + 1], n);
    memory.emplace_back(std::max<int64_t>(slots * width * static_cast<int64_t>(sizeof(T)), 1));
    TreeAccumulator sum({cuts[r], cuts[r + 1]}, n, DTypeOf<T>(), width, {memory.back().data(), width * static_cast<int64_t>(sizeof(T))});
    for (int leaf = cuts[r]; leaf < cuts[r + 1]; ++leaf) {
      EXPECT_TRUE(absent[leaf] || sum.Add(leaf, leaves[leaf].data()));
    }
    sum.Close();
    const std::vector<TreeNode> cover = Cover(cuts[r], cuts[r + 1], n);
    EXPECT_EQ(cover.size(), sum.partials().size());
    for (size_t i = 0; i < cover.size(); ++i) EXPECT_EQ(cover[i], sum.partials()[i].node);
    pieces.insert(pieces.end(), sum.partials().begin(), sum.partials().end());
    EXPECT_FALSE(sum.Add(cuts[r], leaves[0].data())) << "a leaf twice";
  }
  EXPECT_EQ(MergeSiblings(pieces, n, DTypeOf<T>(), width), 1);
  const T* data = reinterpret_cast<const T*>(pieces[0].data);
  return std::vector<T>(data, data + width);
}

template <typename T>
void EverySplitGivesTheSameBits(int n) {
  const std::vector<std::vector<T>> leaves = Leaves<T>(n, 9);
  const std::vector<T> expected = Recursive(leaves, 0, n);
  const std::vector<bool> none(n, false);
  for (int a = 0; a <= n; ++a) {
    for (int b = a; b <= n; ++b) EXPECT_TRUE(SameBits(Distributed<T>(leaves, {0, a, b, n}, none), expected)) << n << ": " << a << ' ' << b;
  }
  std::vector<int> each(n + 1);
  std::iota(each.begin(), each.end(), 0);
  EXPECT_TRUE(SameBits(Distributed<T>(leaves, each, none), expected)) << n << " ranks";
}

// Whichever leaf's memory the sum is to stay in.
TEST(ReductionTree, TheSumStaysInTheMemoryThatIsKept) {
  constexpr int64_t kWidth = 9;
  for (const int n : {1, 2, 3, 5, 8, 13}) {
    const std::vector<std::vector<float>> leaves = Leaves<float>(n, kWidth);
    const std::vector<float> expected = Recursive(leaves, 0, n);
    for (int kept = 0; kept < n; ++kept) {
      std::vector<std::vector<float>> memory = leaves;
      std::vector<Partial> pieces;
      for (int i = 0; i < n; ++i) pieces.push_back({{i, i + 1}, reinterpret_cast<std::byte*>(memory[i].data())});
      const std::byte* const place = pieces[kept].data;
      ASSERT_EQ(MergeSiblings(pieces, n, DType::kF32, kWidth, place), 1);
      EXPECT_EQ(pieces[0].data, place) << n << " leaves, kept " << kept;
      EXPECT_TRUE(SameBits(memory[kept], expected)) << n << " leaves, kept " << kept;
    }
  }
}

TEST(ReductionTree, EverySplitGivesTheSameBits) {
  for (const int n : {1, 2, 3, 5, 7, 8, 11, 13, 16}) {
    EverySplitGivesTheSameBits<float>(n);
    EverySplitGivesTheSameBits<double>(n);
  }
}

TEST(ReductionTree, TheOrderOfAdditionsShowsInTheTestData) {
  const auto leaves = Leaves<float>(8, 64);
  std::vector<float> left_to_right = leaves[0];
  for (int i = 1; i < 8; ++i) {
    for (int j = 0; j < 64; ++j) left_to_right[j] += leaves[i][j];
  }
  EXPECT_FALSE(SameBits(left_to_right, Recursive(leaves, 0, 8)));
}

TEST(ReductionTree, AbsentLeavesArePlusZeroAndAreAdded) {
  for (const int n : {1, 3, 8}) {
    for (int mask = 0; mask < (1 << n); ++mask) {
      std::vector<std::vector<float>> leaves(n, {-0.0f, 1.5f}), zeroed = leaves;
      std::vector<bool> absent(n);
      for (int i = 0; i < n; ++i) {
        absent[i] = (mask >> i & 1) != 0;
        if (absent[i]) zeroed[i] = {0.0f, 0.0f};
      }
      const std::vector<float> expected = Recursive(zeroed, 0, n);
      const std::vector<float> got = Distributed<float>(leaves, {0, n / 3, n}, absent);
      EXPECT_TRUE(SameBits(got, expected)) << n << " leaves, absent " << mask;
      EXPECT_EQ(std::signbit(got[0]), mask == 0) << "-0 stays only where every leaf is -0";
    }
  }
}

TEST(ReductionTree, Covers) {
  EXPECT_EQ(Cover(0, 8, 8), (std::vector<TreeNode>{{0, 8}}));
  EXPECT_EQ(Cover(2, 5, 8), (std::vector<TreeNode>{{2, 4}, {4, 5}}));
  EXPECT_EQ(Cover(5, 8, 8), (std::vector<TreeNode>{{5, 6}, {6, 8}}));
  EXPECT_EQ(Cover(4, 7, 7), (std::vector<TreeNode>{{4, 7}})) << "the right spine is not a power of two";
  EXPECT_TRUE(Cover(3, 3, 8).empty());
  EXPECT_EQ(SplitPoint({0, 8}), 4);
  EXPECT_EQ(SplitPoint({0, 5}), 4);
  EXPECT_EQ(SplitPoint({4, 7}), 6);
}

TEST(ReductionTree, FewPartialVectors) {
  for (int n = 1; n <= 64; ++n) {
    for (int ranks = 1; ranks <= n; ++ranks) {
      for (int r = 0; r < ranks; ++r) {
        const int lo = r * n / ranks, hi = (r + 1) * n / ranks, count = hi - lo;
        const int log = std::bit_width(static_cast<unsigned>(count)) - 1;
        const bool aligned = lo % static_cast<int>(std::bit_ceil(static_cast<unsigned>(count))) == 0;
        EXPECT_LE(TreeAccumulator::SlotsNeeded(lo, hi, n), aligned ? log + 1 : 2 * log + 2) << lo << ' ' << hi << ' ' << n;
      }
    }
  }
  EXPECT_EQ(TreeAccumulator::SlotsNeeded(0, 8, 8), 3) << "leaves 0-3, 4-5 and 6, before 7 joins them";
}

TEST(ReductionTree, SumLeavesIsTheTree) {
  const auto leaves = Leaves<double>(6, 3);
  std::vector<double> flat;
  for (const auto& leaf : leaves) flat.insert(flat.end(), leaf.begin(), leaf.end());
  SumLeaves(flat, 6);
  EXPECT_TRUE(SameBits(std::vector<double>(flat.begin(), flat.begin() + 3), Recursive(leaves, 0, 6)));
}

}  // namespace
}  // namespace conclave
