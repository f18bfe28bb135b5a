// LayerTraffic: what the dispatch of one mixture layer moved, counted where rows leave a rank.
#ifndef CONCLAVE_PARALLEL_LAYER_TRAFFIC_H_
#define CONCLAVE_PARALLEL_LAYER_TRAFFIC_H_

#include <array>
#include <vector>

#include "comm/communicator.h"
#include "parallel/routed_sets.h"

namespace conclave {

// What left ranks for others.
struct RowTally {
  RowCount rows, bytes;
  RowTally& operator+=(const RowTally& other) {
    rows += other.rows, bytes += other.bytes;
    return *this;
  }
  bool operator==(const RowTally&) const = default;
};

// How many rows a token is on its way: those of the route; one for each of its experts; or these less the first ones, which come home as
// their sum.
enum class TokenWay { kRoute, kSlots, kFolded };
inline constexpr int kTokenWays = 3;

// Of one layer, forward and backward, on one rank or all of them. Plain integers, so that ranks can be summed up.
struct LayerTraffic {
  RowTally rows;                                     // tokens, results, gradients: "dispatch rows" and "combine rows" of the ledger
  RowTally rest;                                     // what ranks tell each other of them: counts, slots, weights, pieces
  std::array<int64_t, kTokenWays> token_bytes = {};  // by TokenWay: tokens that went it, times the bytes of a row

  // `tokens` go a way; what of them leaves this rank is to be counted there.
  RowTally* Begin(TokenWay way, int64_t tokens, int64_t row_bytes) {
    token_bytes[static_cast<size_t>(way)] += tokens * row_bytes;
    return &rows;
  }
  LayerTraffic& operator+=(const LayerTraffic& other);
  bool operator==(const LayerTraffic&) const = default;
};

// Every rank's counts, in place. Collective on all ranks; cost: an all-reduce of 11 integers a layer.
absl::Status SumTraffic(Communicator& control, std::vector<LayerTraffic>* layers);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_LAYER_TRAFFIC_H_
