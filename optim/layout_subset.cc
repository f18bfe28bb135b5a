#include "optim/layout_subset.h"

#include <utility>
#include <vector>

namespace conclave {

Layout LayoutSubset(const Layout& layout, const std::function<bool(BlockId)>& keep) {
  std::vector<BlockHome> homes(layout.parameters().size());
  for (int i = 0; i < layout.parameters().size(); ++i) {
    homes[i] = layout.home({i});
    // Layout gives a place to what this rank owns, so leaving out the rank leaves out the storage.
    if (!keep({i})) std::erase(homes[i].owners, layout.rank());
  }
  return Layout(&layout.parameters(), layout.rank(), std::move(homes));
}

}  // namespace conclave
