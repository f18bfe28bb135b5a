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
  };
  // Nothing where counts by trace do not say what crosses which link: ranks of a data column are spread over nodes unevenly or otherwise
  // than those of another, or the nodes of a route in two levels are others than the transport's, which has several. Not collective.
  static std::optional<TrafficPrediction> For(const Mesh& mesh, const Dispatch& dispatch);

  // Whence a token goes to its experts: the coordinate of its home, and the turn that says which copy of an expert serves it.
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

  TrafficPrediction(PlannerRanks ranks, DispatchConfig::Route route, bool one_node)
      : ranks_(std::move(ranks)), route_(route), one_node_(one_node) {}
  PlannerRanks ranks_;
  DispatchConfig::Route route_;
  bool one_node_;  // to the transport, whatever the nodes of the route
};

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_TRAFFIC_PREDICTION_H_
