// Parts: how a vector is cut for exchanges whose means have a server. It follows from the blocks and M alone, never from ranks.
#ifndef CONCLAVE_COMM_BLOCK_PARTS_H_
#define CONCLAVE_COMM_BLOCK_PARTS_H_

#include <vector>

#include "tensor/parameter_set.h"

namespace conclave {

// A contiguous run of one block's elements.
struct BlockPart {
  int64_t first = 0, elements = 0;
  int server = 0;  // the worker that adds it up
};

// By block id: the parts of each block, in order. With M servers (all_serve): a block of n elements has min(M, n / 4096) parts, one at
// least, cut at multiples of 1024; M parts go to workers 0 .. M - 1, fewer to those that have the fewest elements so far, the lower id
// first among equals. Else: one part each, of worker 0.
std::vector<std::vector<BlockPart>> PlanParts(const ParameterSet& parameters, int workers, bool all_serve);

}  // namespace conclave

#endif  // CONCLAVE_COMM_BLOCK_PARTS_H_
