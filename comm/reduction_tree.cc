#include "comm/reduction_tree.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/recycled_vector.h"
#include "comm/sums.h"

namespace conclave {
namespace {

void AppendCover(const TreeNode& node, int lo, int hi, std::vector<TreeNode>& out) {
  if (node.hi <= lo || node.lo >= hi) return;
  if (lo <= node.lo && node.hi <= hi) {
    out.push_back(node);
    return;
  }
  const int split = SplitPoint(node);
  AppendCover({node.lo, split}, lo, hi, out);
  AppendCover({split, node.hi}, lo, hi, out);
}

}  // namespace

int SplitPoint(const TreeNode& node) {
  const int leaves = node.hi - node.lo;
  CHECK_GE(leaves, 2);
  return node.lo + static_cast<int>(std::bit_floor(static_cast<unsigned>(leaves - 1)));
}

bool AreSiblings(const TreeNode& left, const TreeNode& right, int n) {
  if (left.hi != right.lo) return false;
  TreeNode node{0, n};
  while (node.hi - node.lo >= 2) {
    const int split = SplitPoint(node);
    if (node.lo == left.lo && node.hi == right.hi) return split == left.hi;
    if (right.hi <= split) {
      node.hi = split;
    } else if (left.lo >= split) {
      node.lo = split;
    } else {
      return false;
    }
  }
  return false;
}

std::vector<TreeNode> Cover(int lo, int hi, int n) {
  CHECK(0 <= lo && lo <= hi && hi <= n) << lo << ' ' << hi << ' ' << n;
  std::vector<TreeNode> nodes;
  AppendCover({0, n}, lo, hi, nodes);
  return nodes;
}

int MergeSiblings(std::span<Partial> partials, int n, DType dtype, int64_t elements, const std::byte* kept) {
  int top = 0;  // partials[0 .. top - 1] is the stack
  for (const Partial& next : partials) {
    partials[top++] = next;
    while (top >= 2 && AreSiblings(partials[top - 2].node, partials[top - 1].node, n)) {
      Partial &left = partials[top - 2], &right = partials[top - 1];
      if (right.data == kept) std::swap(left.data, right.data);  // a + b has the bits of b + a
      AddInto(dtype, right.data, left.data, elements);
      left.node.hi = right.node.hi;
      --top;
    }
  }
  return top;
}

int TreeAccumulator::SlotsNeeded(int lo, int hi, int n) {
  std::vector<TreeNode> stack;
  size_t most = 0;
  for (int leaf = lo; leaf < hi; ++leaf) {
    TreeNode next{leaf, leaf + 1};
    while (!stack.empty() && AreSiblings(stack.back(), next, n)) {
      next.lo = stack.back().lo;
      stack.pop_back();
    }
    stack.push_back(next);
    most = std::max(most, stack.size());
  }
  return static_cast<int>(most);
}

TreeAccumulator::TreeAccumulator(TreeNode interval, int n, DType dtype, int64_t elements, Memory memory)
    : interval_(interval), n_(n), dtype_(dtype), elements_(elements), memory_(memory) {
  CHECK_LE(SlotsNeeded(interval.lo, interval.hi, n), kMostPartials);
  Reset();
}

bool TreeAccumulator::Add(int leaf, const void* data) {
  if (leaf < next_ || leaf >= interval_.hi) return false;
  while (next_ < leaf) AddNext(nullptr);
  AddNext(data);
  return true;
}

void TreeAccumulator::Close() {
  while (next_ < interval_.hi) AddNext(nullptr);
}

void TreeAccumulator::AddNext(const void* data) {
  const TreeNode leaf{next_, next_ + 1};
  ++next_;
  const size_t bytes = static_cast<size_t>(elements_ * SizeOf(dtype_));
  if (count_ > 0 && AreSiblings(partials_[count_ - 1].node, leaf, n_)) {
    std::byte* const sum = partials_[count_ - 1].data;
    if (data != nullptr) {
      AddInto(dtype_, data, sum, elements_);
    } else {
      AddZero(dtype_, sum, elements_);
    }
    partials_[count_ - 1].node.hi = leaf.hi;
  } else {
    std::byte* const slot = memory_.data + count_ * memory_.slot_bytes;
    if (data != nullptr) {
      if (bytes > 0) std::memcpy(slot, data, bytes);
    } else if (bytes > 0) {
      std::memset(slot, 0, bytes);
    }
    partials_[count_++] = {leaf, slot};
  }
  while (count_ >= 2 && AreSiblings(partials_[count_ - 2].node, partials_[count_ - 1].node, n_)) {
    AddInto(dtype_, partials_[count_ - 1].data, partials_[count_ - 2].data, elements_);
    partials_[count_ - 2].node.hi = partials_[count_ - 1].node.hi;
    --count_;
  }
}

void SumLeaves(std::span<double> values, int n) {
  CHECK_GE(n, 1);
  CHECK_EQ(values.size() % n, 0u);
  const int64_t width = static_cast<int64_t>(values.size()) / n;
  RecycledVector<Partial> leaves(n);
  for (int i = 0; i < n; ++i) leaves[i] = {{i, i + 1}, reinterpret_cast<std::byte*>(values.data() + i * width)};
  CHECK_EQ(MergeSiblings(leaves, n, DType::kF64, width), 1);
}

}  // namespace conclave
