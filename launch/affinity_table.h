// conclave trace affinity: how well a placement can follow the routing of traces, as a table over training steps and numbers of ranks.
#ifndef CONCLAVE_LAUNCH_AFFINITY_TABLE_H_
#define CONCLAVE_LAUNCH_AFFINITY_TABLE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "parallel/placement_solver.h"

namespace conclave {

// One trace on one number of ranks, for tokens that stay with their first expert until the next layer. Shares are of all changes of layer.
struct AffinityLine {
  int64_t step = 0;
  int experts = 0, layers = 0, ranks = 1;
  int64_t tokens = 0;
  double affinity = 0;    // P(most likely next expert | expert), the mean over experts and layers
  double reach = 0;       // of the next layer's choices on the experts / ranks most likely ones: no placement keeps more on a rank
  double contiguous = 0;  // kept on a rank by contiguous blocks
  double planned = 0;     // kept by a plan made from every other token, of those
  double unseen = 0;      // of the others, which the plan has not seen
  // Hops between ranks that the plan takes off those of contiguous blocks, on tokens it has not seen.
  double fewer_hops() const { return contiguous < 1 ? (unseen - contiguous) / (1 - contiguous) : 0; }
};

// Errors: a trace of fewer than two tokens or one layer, experts not divisible by ranks, the solver's.
absl::StatusOr<AffinityLine> MeasureAffinity(const RoutingTrace& trace, int ranks, const PlacementSolver& solver);

// A table with a heading, or one JSON object a line.
void PrintAffinity(const std::vector<AffinityLine>& lines, bool json);

}  // namespace conclave

#endif  // CONCLAVE_LAUNCH_AFFINITY_TABLE_H_
