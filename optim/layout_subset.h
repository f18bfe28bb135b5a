// LayoutSubset: the part of a layout that some component keeps state for.
#ifndef CONCLAVE_OPTIM_LAYOUT_SUBSET_H_
#define CONCLAVE_OPTIM_LAYOUT_SUBSET_H_

#include <functional>

#include "tensor/layout.h"

namespace conclave {

// The same blocks, owners and ids, but storage only for the local blocks that `keep` accepts. Vectors over it hold nothing else.
Layout LayoutSubset(const Layout& layout, const std::function<bool(BlockId)>& keep);

}  // namespace conclave

#endif  // CONCLAVE_OPTIM_LAYOUT_SUBSET_H_
