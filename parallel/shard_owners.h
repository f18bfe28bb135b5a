// Sharded updates: one owner of each block updates it, and the others receive its new value.
#ifndef CONCLAVE_PARALLEL_SHARD_OWNERS_H_
#define CONCLAVE_PARALLEL_SHARD_OWNERS_H_

#include "tensor/layout.h"

namespace conclave {

// The same layout with canonical owners spread over the ranks by size: blocks in descending size, each to the owner that is canonical for
// the fewest elements so far (the lowest rank of several). Blocks stay whole. Every rank gets the same owners. The largest share exceeds
// the mean by at most one block where all blocks have the same owners.
Layout SpreadCanonicalOwners(const Layout& layout);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_SHARD_OWNERS_H_
