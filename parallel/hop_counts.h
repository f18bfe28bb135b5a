// What the plans of a TokenRoute and its exchanges both count.
#ifndef CONCLAVE_PARALLEL_HOP_COUNTS_H_
#define CONCLAVE_PARALLEL_HOP_COUNTS_H_

#include <cstdint>
#include <numeric>
#include <span>

#include "comm/communicator.h"
#include "parallel/row_moves.h"

namespace conclave {

inline int64_t Total(std::span<const int64_t> counts) { return std::accumulate(counts.begin(), counts.end(), int64_t{0}); }

// What this rank sends itself in an exchange, which needs no copy on the way: its places among what is received stand for as many among
// what is sent. The memory is still to be named.
inline RowsElsewhere OwnRows(const Communicator& group, std::span<const int64_t> sent, std::span<const int64_t> received) {
  const auto me = static_cast<size_t>(group.rank());
  return {.begin = Total(received.first(me)), .rows = sent[me], .first = Total(sent.first(me))};
}

// Slots 0, 1, .. of a token that are in one place.
inline int64_t RunOfSlots(std::span<const int64_t> copies) {
  int64_t run = 0;
  while (run < static_cast<int64_t>(copies.size()) && copies[run] >= 0) ++run;
  return run;
}

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_HOP_COUNTS_H_
