#include "parallel/traffic_prediction.h"

#include <algorithm>
#include <tuple>

#include "base/check.h"
#include "parallel/dispatch_grid.h"
#include "parallel/dispatch_route.h"

namespace conclave {
namespace {

// By rank of a data column: the first of its ranks on the same node.
std::vector<int> NodePattern(const Mesh& mesh, int column) {
  const int axis = mesh.shape().expert;
  std::vector<int> first(axis);
  for (int c = 0; c < axis; ++c) {
    while (mesh.control().Node(column * axis + first[c]) != mesh.control().Node(column * axis + c)) ++first[c];
  }
  return first;
}

// Members of a group on the transport's nodes, as ranks of a topology whose nodes have as many as the largest.
std::pair<Topology, std::vector<int>> FilledNodes(const Communicator& group) {
  const std::vector<std::vector<int>> nodes = MembersByNode(group, 0);
  size_t most = 0;
  for (const std::vector<int>& members : nodes) most = std::max(most, members.size());
  std::vector<int> rank(group.size());
  for (size_t n = 0; n < nodes.size(); ++n) {
    for (size_t i = 0; i < nodes[n].size(); ++i) rank[nodes[n][i]] = static_cast<int>(n * most + i);
  }
  return {{.ranks = static_cast<int>(nodes.size() * most), .nodes = static_cast<int>(nodes.size())}, std::move(rank)};
}

bool AlikeInAllColumns(const Mesh& mesh, const std::vector<int>& pattern) {
  for (int d = 0; d < mesh.shape().data; ++d) {
    if (NodePattern(mesh, d) != pattern) return false;
  }
  return true;
}

}  // namespace

PlannerRanks::PlannerRanks(const Mesh& mesh, int64_t ranks_per_node) : topology{.ranks = mesh.shape().expert} {
  const std::vector<std::vector<int>> nodes = CoordinatesByNode(mesh, ranks_per_node);
  for (const std::vector<int>& members : nodes) coordinate.insert(coordinate.end(), members.begin(), members.end());
  even = std::ranges::all_of(nodes, [&](const auto& members) { return members.size() == nodes[0].size(); });
  if (even) topology.nodes = static_cast<int>(nodes.size());
  rank.resize(coordinate.size());
  for (size_t r = 0; r < coordinate.size(); ++r) rank[coordinate[r]] = static_cast<int>(r);
}

PlacementTable Renamed(PlacementTable table, const std::vector<int>& to) {
  for (std::vector<int>& row : table) {
    for (int& rank : row) rank = to[rank];
  }
  return table;
}

std::optional<TrafficPrediction> TrafficPrediction::For(const Mesh& mesh, const Dispatch& dispatch) {
  const std::vector<int> pattern = NodePattern(mesh, 0);
  const bool alike = AlikeInAllColumns(mesh, pattern), two_levels = InTwoLevels(dispatch.route);
  const bool one_node = std::ranges::all_of(pattern, [](int first) { return first == 0; });
  Topology topology;
  std::vector<int> rank;
  if (two_levels) {
    const PlannerRanks transport(mesh, 0), route(mesh, dispatch.ranks_per_node);
    const bool same = route.coordinate == transport.coordinate && route.topology.nodes == transport.topology.nodes;
    if (!alike || !route.even || (!same && !one_node)) return std::nullopt;
    topology = route.topology, rank = route.rank;
  } else {
    std::tie(topology, rank) = FilledNodes(alike ? mesh.dispatch() : mesh.control());
  }
  if (topology.ranks > RoutingTrace::kMostExperts / dispatch.top_k) return std::nullopt;
  TrafficPrediction prediction(topology, std::move(rank));
  prediction.axis_ = mesh.shape().expert, prediction.route_ = dispatch.route;
  prediction.one_node_ = two_levels && one_node;
  return prediction;
}

// The trace of what serves each token: the i-th of its experts on planner's rank r is named r * top_k + i.
RoutingTrace TrafficPrediction::HostsOf(const RoutingTrace& trace, std::span<const Source> sources,
                                        const ExpertPlacement& placement) const {
  const int k = trace.top_k();
  std::vector<int32_t> ids;
  ids.reserve(trace.ids().size());
  std::vector<int32_t> met(topology_.ranks);
  for (int64_t t = 0; t < trace.tokens(); ++t) {
    for (int j = 0; j < trace.layers(); ++j) {
      std::ranges::fill(met, 0);
      for (int s = 0; s < k; ++s) {
        const auto [home, turn] = sources[t];
        const int from = home % axis_, to = placement.PlaceOf(j, trace.expert(t, j, s), from, turn).coordinate;
        const int r = RankOf(home - from + to);
        ids.push_back(r * k + met[r]++);
      }
    }
  }
  TraceHeader header = trace.header();
  header.experts = topology_.ranks * k;
  absl::StatusOr<RoutingTrace> hosts = RoutingTrace::Make(std::move(header), std::move(ids));
  CHECK(hosts.ok()) << hosts.status();
  return *std::move(hosts);
}

std::vector<TrafficPrediction::Bytes> TrafficPrediction::Of(const RoutingTrace& trace, std::span<const Source> sources,
                                                            const ExpertPlacement& placement,
                                                            const std::vector<LayerTraffic>& counted) const {
  std::vector<int> homes(sources.size()), rank_of(static_cast<size_t>(topology_.ranks) * trace.top_k());
  std::ranges::transform(sources, homes.begin(), [&](const Source& source) { return RankOf(source.home); });
  for (size_t id = 0; id < rank_of.size(); ++id) rank_of[id] = static_cast<int>(id) / trace.top_k();
  const RoutedSets sets = RoutedSets::Of(HostsOf(trace, sources, placement), topology_.ranks, homes);
  std::vector<Bytes> layers;
  for (int j = 0; j < sets.layers(); ++j) {
    // A whole number where the tokens of the trace are those that were counted, so that the product is exact.
    const auto bytes_of = [&](TokenWay way) {
      return static_cast<double>(counted[j].token_bytes[static_cast<size_t>(way)]) / static_cast<double>(sets.tokens());
    };
    Bytes& sum = layers.emplace_back();
    const auto add = [&](const auto& rows, double bytes) {
      sum.inside += static_cast<double>(rows.inside) * bytes;
      sum.between += static_cast<double>(rows.between) * bytes;
    };
    const DispatchConfig::Route by_slot = RouteOf(InTwoLevels(route_), /*once=*/false);
    const double folded = bytes_of(TokenWay::kFolded);
    add(CountRows(sets, j, rank_of, topology_, route_), bytes_of(TokenWay::kRoute));
    add(CountRows(sets, j, rank_of, topology_, by_slot), bytes_of(TokenWay::kSlots) + folded);
    if (folded > 0) add(CountFolded(sets, j, rank_of, topology_, route_), -folded);
    if (one_node_) sum = {.inside = sum.inside + sum.between};
  }
  return layers;
}

}  // namespace conclave
