#include "comm/block_parts.h"

#include <algorithm>
#include <numeric>

namespace conclave {
namespace {

constexpr int64_t kLeastPart = 4096;  // elements; a frame is below 1 % of their int8 codes
constexpr int64_t kCut = 1024;        // where blocks of integers and groups of random words begin anew too

}  // namespace

std::vector<std::vector<BlockPart>> PlanParts(const ParameterSet& parameters, int workers, bool all_serve) {
  std::vector<std::vector<BlockPart>> parts;
  std::vector<int64_t> load(static_cast<size_t>(workers));
  std::vector<int> order(static_cast<size_t>(workers));
  for (const BlockSpec& spec : parameters.blocks()) {
    const int64_t n = spec.shape.elements(), count = all_serve ? std::clamp<int64_t>(n / kLeastPart, 1, workers) : 1;
    std::iota(order.begin(), order.end(), 0);
    if (all_serve && count < workers) {
      std::ranges::stable_sort(order, {}, [&](int m) { return load[static_cast<size_t>(m)]; });
    }
    std::vector<BlockPart>& own = parts.emplace_back();
    for (int64_t i = 0, first = 0; i < count; ++i) {
      const int64_t end = i + 1 == count ? n : n * (i + 1) / count / kCut * kCut;
      const int server = order[static_cast<size_t>(i)];
      own.push_back({.first = first, .elements = end - first, .server = server});
      load[static_cast<size_t>(server)] += end - first;
      first = end;
    }
  }
  return parts;
}

}  // namespace conclave
