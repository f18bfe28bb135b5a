#include "parallel/shard_owners.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <vector>

namespace conclave {

Layout SpreadCanonicalOwners(const Layout& layout) {
  const ParameterSet& parameters = layout.parameters();
  std::vector<int> order(parameters.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return parameters[{a}].shape.elements() > parameters[{b}].shape.elements(); });
  std::map<int, int64_t> elements;  // by rank: of the blocks that it is canonical for
  std::vector<BlockHome> homes(parameters.size());
  for (const int i : order) {
    homes[i] = layout.home({i});
    const auto least = std::ranges::min_element(homes[i].owners, {}, [&](int rank) { return elements[rank]; });
    homes[i].canonical = *least;
    elements[*least] += parameters[{i}].shape.elements();
  }
  return Layout(&parameters, layout.rank(), std::move(homes));
}

}  // namespace conclave
