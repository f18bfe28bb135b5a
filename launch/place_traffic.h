// conclave place --objective coactivation: plans for the traffic of training, and what every route would send.
#ifndef CONCLAVE_LAUNCH_PLACE_TRAFFIC_H_
#define CONCLAVE_LAUNCH_PLACE_TRAFFIC_H_

#include <array>
#include <string>
#include <vector>

#include "parallel/placement_solver.h"

namespace conclave {

inline constexpr std::array kPlannedRoutes = {DispatchConfig::FLAT, DispatchConfig::DEDUPLICATED, DispatchConfig::HIERARCHICAL,
                                              DispatchConfig::DEDUPLICATED_HIERARCHICAL};

struct TrafficRequest {
  const RoutingTrace* trace = nullptr;  // planned on
  struct Other {
    std::string name;
    const RoutingTrace* trace;
  };
  std::vector<Other> others;  // reported on too
  Topology topology;
  PlacementTable current;       // empty: contiguous blocks
  bool homes_in_order = false;  // the trace is one step's tokens, rank r owns the r-th equal share; else any rank owns any token
  int64_t sequence_tokens = 0;  // above 0: whole sequences of so many tokens, which are placed on ranks too
};

struct TrafficReport {
  struct Layer {
    RowCount touched;                                    // other nodes; other ranks of the own node
    std::array<RowCount, kPlannedRoutes.size()> rows{};  // of each route, on the way to the experts
  };
  struct Line {
    std::string name;
    std::vector<Layer> layers;
    int64_t tokens = 0, homes = 1;  // counts are of all tokens, times homes
    double load = 0;                // largest of a rank over the mean
    Layer Sum() const;
  };
  Topology topology;
  std::vector<Line> lines;
  PlacementTable table;
  int64_t moves = -1;  // from the current placement; -1: there is none
  double floor = 0;    // rows between nodes, a token and layer: fewer are impossible with so many experts a token and a node
};

// Errors: the solver's, PlaceSequences'.
absl::StatusOr<TrafficReport> PlanTraffic(const TrafficRequest& request, const PlacementSolver& solver);
void PrintTraffic(const TrafficReport& report, bool json);

}  // namespace conclave

#endif  // CONCLAVE_LAUNCH_PLACE_TRAFFIC_H_
