// Replicas of hot experts: how many each expert gets and which physical slot holds which expert.
#ifndef CONCLAVE_PARALLEL_EXPERT_REPLICAS_H_
#define CONCLAVE_PARALLEL_EXPERT_REPLICAS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"

namespace conclave {

struct Packing {
  std::vector<int> pack;   // of every item
  std::vector<int> place;  // of every item inside its pack, in order of arrival
};

// items / packs items to a pack: by descending weight (stable), each to the lightest pack with room (tie: the lowest). One item a pack: the
// identity. weights.size() must be a multiple of packs.
Packing PackEvenly(std::span<const double> weights, int packs);

struct ReplicaShape {
  int slots = 0;   // physical slots of a layer, over all ranks
  int groups = 1;  // contiguous equal groups of experts that should share a node
  int nodes = 1;
  int ranks = 1;
};

struct ReplicaTable {
  std::vector<int> expert_of;              // [slots]: rank r holds slots r * slots / ranks and on
  std::vector<std::vector<int>> slots_of;  // [experts]: ascending
  // Largest load of a rank if an expert's load is shared evenly among its replicas.
  double MaxRankLoad(std::span<const double> load, int ranks) const;
};

// One layer's table. Groups are packed on nodes, experts replicated inside each node (each further slot to the expert with the largest load
// a replica; tie: first in order), slots packed on the node's ranks; where groups cannot be split evenly over nodes, as one group on one
// node. Deterministic. Errors: InvalidArgument for fewer slots than experts or sizes that do not divide.
// Source: DeepSeek-AI, "Expert Parallelism Load Balancer", 2025.
absl::StatusOr<ReplicaTable> PlanReplicas(std::span<const double> load, const ReplicaShape& shape);

// One layer of a run: copies beside owners that stay where they are.
struct CopyRequest {
  std::span<const double> load;  // [experts] rows
  std::span<const int> owners;   // [experts] ranks
  std::span<const int> node_of;  // [ranks]; empty: one node
  int ranks = 1;
  int per_rank = 0;  // copies that a rank may hold
};

// The ranks with copies of each expert, ascending. One copy after another, each the one that lowers the sum of squares of the ranks' loads
// most (tie: the lower expert, then rank), rows being shared as HostShares says; ends where none lowers it or no rank has room.
// Deterministic. Cost: copies * experts * ranks^2.
std::vector<std::vector<int>> PlanCopiesOfLayer(const CopyRequest& request);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_EXPERT_REPLICAS_H_
