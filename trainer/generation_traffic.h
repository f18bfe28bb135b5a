// GenerationTraffic: what ranks sent each other while they generated.
#ifndef CONCLAVE_TRAINER_GENERATION_TRAFFIC_H_
#define CONCLAVE_TRAINER_GENERATION_TRAFFIC_H_

#include <string>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "comm/ledger.h"

namespace conclave {

// Sums over all ranks.
struct GenerationTraffic {
  struct Line {
    std::string label;
    int64_t bytes = 0, between_nodes_bytes = 0, messages = 0;
  };
  std::vector<Line> lines;      // of the labels that carried anything
  int64_t moves = 0, hops = 0;  // coherent: (token, mixture layer) pairs, and those for which the token changed rank
  int64_t bytes() const;
};

// report: this rank's books. moves: this rank's moves and hops. Collective on all ranks.
absl::StatusOr<GenerationTraffic> SumTraffic(Communicator& control, const WireReport& report, std::pair<int64_t, int64_t> moves);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_GENERATION_TRAFFIC_H_
