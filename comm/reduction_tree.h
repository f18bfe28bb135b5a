// The reduction tree: one binary tree over leaf ids 0..n-1, the same for any number of ranks. A node of n leaves splits after the largest
// power of two below n. Whatever interval of leaves a rank holds, it adds up whole nodes of this tree, and whoever has all pieces finishes
// it: the same additions, the same bits.
#ifndef CONCLAVE_COMM_REDUCTION_TREE_H_
#define CONCLAVE_COMM_REDUCTION_TREE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tensor/tensor.h"

namespace conclave {

struct TreeNode {
  int lo = 0, hi = 0;  // leaves lo .. hi - 1
  bool operator==(const TreeNode&) const = default;
};

// Where a node of the tree splits; it must have two leaves at least.
int SplitPoint(const TreeNode& node);

// Whether `left` and `right` are the two children of one node of the tree over n leaves.
bool AreSiblings(const TreeNode& left, const TreeNode& right, int n);

// The largest nodes of the n-leaf tree whose leaves are lo..hi-1 together, in leaf order; at most 2 floor(log2 n) + 1 of them.
std::vector<TreeNode> Cover(int lo, int hi, int n);

// A finished part of the sum.
struct Partial {
  TreeNode node;
  std::byte* data = nullptr;  // [elements], f32 or f64
};

// Adds siblings up until none are left, left + right in the left one's memory, or in the right one's where that is `kept`: whatever the
// vector at `kept` is part of ends up there. `partials`: in leaf order without gaps; returns how many stay, in front.
int MergeSiblings(std::span<Partial> partials, int n, DType dtype, int64_t elements, const std::byte* kept = nullptr);

// Adds leaf vectors that arrive in order, like a binary counter. The memory is the caller's: slot i at memory + i * slot_bytes. lo..hi-1 of
// n leaves need SlotsNeeded vectors: floor(log2(hi - lo)) + 1 where lo is a multiple of a power of two no less than hi - lo, at most twice
// that elsewhere.
class TreeAccumulator {
 public:
  static int SlotsNeeded(int lo, int hi, int n);

  struct Memory {
    std::byte* data = nullptr;
    int64_t slot_bytes = 0;
  };
  TreeAccumulator() = default;
  TreeAccumulator(TreeNode interval, int n, DType dtype, int64_t elements, Memory memory);

  void Reset() { next_ = interval_.lo, count_ = 0; }
  // Adds leaf `leaf`, not before the next one expected; leaves that are passed over count as +0. data: [elements]. False: the leaf is not
  // expected any more.
  [[nodiscard]] bool Add(int leaf, const void* data);
  // All leaves that have not arrived count as +0. Then partials() is Cover(lo, hi, n).
  void Close();
  std::span<const Partial> partials() const { return {partials_.data(), static_cast<size_t>(count_)}; }

 private:
  static constexpr int kMostPartials = 64;
  void AddNext(const void* data);  // null: +0

  TreeNode interval_;
  int n_ = 0;
  DType dtype_ = DType::kF32;
  int64_t elements_ = 0;
  Memory memory_;
  int next_ = 0;
  int count_ = 0;
  std::array<Partial, kMostPartials> partials_;
};

// The sum of n leaves by the tree. values: [n, width], row by row; the result is left in the first row, the others are scratch afterwards.
// Rows of other ranks: leave them zero and AllReduce the whole, which adds nothing but +0.
void SumLeaves(std::span<double> values, int n);

}  // namespace conclave

#endif  // CONCLAVE_COMM_REDUCTION_TREE_H_
