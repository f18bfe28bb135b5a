// TrafficPrediction: the bytes that a routing trace says the dispatch of each mixture layer moves.
#ifndef CONCLAVE_PARALLEL_TRAFFIC_PREDICTION_H_
#define CONCLAVE_PARALLEL_TRAFFIC_PREDICTION_H_

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "parallel/expert_placement.h"
#include "parallel/layer_traffic.h"
#include "parallel/mesh.h"
#include "parallel/placement_problem.h"
#include "parallel/routing_trace.h"

namespace conclave {

// Coordinates of the expert axis in the order of their nodes, which is how placements count ranks.
struct PlannerRanks {
  Topology topology;                  // one node where nodes have unequal numbers of ranks of the axis
  bool even = true;                   // they have equal numbers
  std::vector<int> coordinate, rank;  // of a planner's rank, of a coordinate

  // Nodes as CoordinatesByNode gives them. Not collective.
  PlannerRanks(const Mesh& mesh, int64_t ranks_per_node);
};

// table with every rank r called to[r].
PlacementTable Renamed(PlacementTable table, const std::vector<int>& to);

// What tokens of a trace would take if they went the ways that were counted.
class TrafficPrediction {
 public:
  struct Bytes {
    double inside = 0, between = 0;
  };
  struct Dispatch {
    DispatchConfig::Route route = DispatchConfig::FLAT;  // not AUTO
    int64_t ranks_per_node = 0;
    int top_k = 1;
  };
  // Nothing where counts by trace do not say what crosses which link: a route in two levels whose nodes are others than the transport's,
  // which has several, or on which the ranks of one data column are spread otherwise than those of another. Nor where ranks times top_k are
  // more than a trace has experts. Not collective.
  static std::optional<TrafficPrediction> For(const Mesh& mesh, const Dispatch& dispatch);

  // Whence a token goes to its experts: the rank of the mesh that owns it, and the turn that says which copy of an expert serves it.
  struct Source {
    int home = 0;
    int64_t turn = -1;
  };
  // sources: [tokens]. Bytes of the rows of each layer. Exact, to the byte, where `counted` is of the tokens of the trace, any number of
  // times, and nothing is folded; with folding the mean over the orders in which tokens may have their experts.
  std::vector<Bytes> Of(const RoutingTrace& trace, std::span<const Source> sources, const ExpertPlacement& placement,
                        const std::vector<LayerTraffic>& counted) const;

 private:
  RoutingTrace HostsOf(const RoutingTrace& trace, std::span<const Source> sources, const ExpertPlacement& placement) const;
  int RankOf(int mesh_rank) const { return rank_[static_cast<size_t>(mesh_rank) % rank_.size()]; }

  TrafficPrediction(Topology topology, std::vector<int> rank) : topology_(topology), rank_(std::move(rank)) {}
  Topology topology_;      // as many ranks on every node; no token knows those that are not there
  std::vector<int> rank_;  // there, by rank of the mesh: of all data columns, or of the first where all are alike
  int axis_ = 1;
  DispatchConfig::Route route_ = DispatchConfig::FLAT;
  bool one_node_ = false;  // to the transport, whatever the nodes of the route
};

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_TRAFFIC_PREDICTION_H_
