#include "launch/place_traffic.h"

#include <cstdio>

#include "base/strings.h"
#include "parallel/sequence_homes.h"
#include "trainer/json.h"

namespace conclave {
namespace {

// `table` on the tokens of a trace; homes: [tokens], or empty for any.
TrafficReport::Line TrafficLine(const std::string& name, const RoutingTrace& trace, const Topology& topology, const std::vector<int>& homes,
                                const PlacementTable& table) {
  const RoutedSets sets = RoutedSets::Of(trace, topology.ranks, homes);
  TrafficReport::Line line{.name = name, .layers = {}, .tokens = trace.tokens(), .homes = sets.homes()};
  for (int j = 0; j < sets.layers(); ++j) {
    TrafficReport::Layer& layer = line.layers.emplace_back();
    layer.touched = CountTouched(sets, j, table[j], topology);
    for (size_t r = 0; r < kPlannedRoutes.size(); ++r) layer.rows[r] = CountRows(sets, j, table[j], topology, kPlannedRoutes[r]);
  }
  line.load = WorstLoadRatio(RoutingCounts::Of(trace), table, topology.ranks);
  return line;
}

// A token's experts stand on at least k / (E / nodes) nodes, one of which may be its own.
double FewestRows(const RoutingTrace& trace, const TrafficRequest& request) {
  const int nodes = request.topology.nodes, of_node = trace.experts() / nodes;
  const int touched = (trace.top_k() + of_node - 1) / of_node;
  return request.homes_in_order || request.sequence_tokens > 0 ? touched - 1 : touched * (nodes - 1.0) / nodes;
}

void PrintTrafficJson(const TrafficReport& report) {
  std::string text = absl::StrFormat("{\"objective\":\"coactivation\",\"ranks\":%d,\"nodes\":%d,\"floor_between\":", report.topology.ranks,
                                     report.topology.nodes);
  AppendJsonNumber(report.floor, &text);
  if (report.moves >= 0) absl::StrAppendFormat(&text, ",\"moves\":%d", report.moves);
  text += ",\"placements\":[";
  for (const TrafficReport::Line& line : report.lines) {
    const auto number = [&](const char* name, int64_t count) {
      absl::StrAppendFormat(&text, "\"%s\":", name);
      AppendJsonNumber(static_cast<double>(count) / static_cast<double>(line.homes), &text);
    };
    text += text.back() == '[' ? "{\"name\":" : ",{\"name\":";
    AppendJsonString(line.name, &text);
    absl::StrAppendFormat(&text, ",\"tokens\":%d,\"largest_load_over_mean\":", line.tokens);
    AppendJsonNumber(line.load, &text);
    const TrafficReport::Layer sum = line.Sum();
    for (size_t r = 0; r < kPlannedRoutes.size(); ++r) {
      absl::StrAppendFormat(&text, ",\"%s\":{", DispatchConfig::Route_Name(kPlannedRoutes[r]));
      number("inside", sum.rows[r].inside);
      text += ',';
      number("between", sum.rows[r].between);
      text += '}';
    }
    text += ",\"layers\":[";
    for (const TrafficReport::Layer& layer : line.layers) {
      text += text.back() == '[' ? "{" : ",{";
      number("other_ranks", layer.touched.inside);
      text += ',';
      number("other_nodes", layer.touched.between);
      text += '}';
    }
    text += "]}";
  }
  std::printf("%s]}\n", text.c_str());
}

void PrintTrafficText(const TrafficReport& report) {
  std::printf("%-28s %14s %14s %14s\n", "placement", "other nodes", "other ranks", "largest load");
  const auto scale = [](const TrafficReport::Line& line) {
    return 1.0 / static_cast<double>(line.tokens * line.homes * static_cast<int64_t>(line.layers.size()));
  };
  for (const TrafficReport::Line& line : report.lines) {
    const TrafficReport::Layer sum = line.Sum();
    std::printf("%-28s %14.4f %14.4f %7.2f x mean\n", line.name.c_str(), scale(line) * static_cast<double>(sum.touched.between),
                scale(line) * static_cast<double>(sum.touched.inside), line.load);
  }
  std::printf("per token and layer: other nodes that its experts stand on, and other ranks of its own node\n\n");
  std::printf("%-28s", "rows between | inside nodes");
  for (const DispatchConfig::Route route : kPlannedRoutes) std::printf(" %25s", DispatchConfig::Route_Name(route).c_str());
  for (const TrafficReport::Line& line : report.lines) {
    std::printf("\n%-28s", line.name.c_str());
    for (const RowCount& rows : line.Sum().rows) {
      std::printf("           %6.4f | %6.4f", scale(line) * static_cast<double>(rows.between),
                  scale(line) * static_cast<double>(rows.inside));
    }
  }
  std::printf("\nper token and layer, on the way to the experts; between nodes no placement sends fewer than %.4f\n\n", report.floor);
  std::printf("%-8s", "layer");
  for (const TrafficReport::Line& line : report.lines) std::printf(" %25s", line.name.c_str());
  for (size_t j = 0; j < report.lines[0].layers.size(); ++j) {
    std::printf("\n%-8d", static_cast<int>(j));
    for (const TrafficReport::Line& line : report.lines) {
      const double tokens = static_cast<double>(line.tokens * line.homes);
      std::printf("           %6.4f | %6.4f", static_cast<double>(line.layers[j].touched.between) / tokens,
                  static_cast<double>(line.layers[j].touched.inside) / tokens);
    }
  }
  std::printf("\nother nodes | other ranks of the own node, per token\n");
  if (report.moves >= 0) std::printf("moves                        %lld experts change rank\n", static_cast<long long>(report.moves));
}

}  // namespace

TrafficReport::Layer TrafficReport::Line::Sum() const {
  Layer sum;
  for (const Layer& layer : layers) {
    sum.touched += layer.touched;
    for (size_t r = 0; r < sum.rows.size(); ++r) sum.rows[r] += layer.rows[r];
  }
  return sum;
}

absl::StatusOr<TrafficReport> PlanTraffic(const TrafficRequest& request, const PlacementSolver& solver) {
  const RoutingTrace& trace = *request.trace;
  const Topology& topology = request.topology;
  const auto homes_of = [&](const RoutingTrace& tokens) {
    return request.homes_in_order ? HomesInOrder(tokens.tokens(), topology.ranks) : std::vector<int>();
  };
  const RoutingCounts counts = RoutingCounts::Of(trace);
  const RoutedSets sets = RoutedSets::Of(trace, topology.ranks, homes_of(trace));
  const PlacementProblem problem{
      .counts = &counts, .topology = topology, .current = request.current, .sets = &sets, .objective = PlacementObjective::kTouched};
  ASSIGN_OR_RETURN(PlacementPlan plan, PlanPlacement(problem, solver));
  TrafficReport report{.topology = topology, .lines = {}, .table = {}, .floor = FewestRows(trace, request)};
  if (!request.current.empty()) report.moves = plan.moves;
  const PlacementTable contiguous = ContiguousTable(trace.layers(), trace.experts(), topology.ranks);
  const auto add = [&](const std::string& name, const RoutingTrace& tokens) {
    report.lines.push_back(TrafficLine("contiguous" + name, tokens, topology, homes_of(tokens), contiguous));
    if (!request.current.empty() && name.empty())
      report.lines.push_back(TrafficLine("current", tokens, topology, homes_of(tokens), request.current));
    report.lines.push_back(TrafficLine("plan" + name, tokens, topology, homes_of(tokens), plan.table));
  };
  add("", trace);
  for (const TrafficRequest::Other& other : request.others) add(", " + other.name, *other.trace);
  if (request.sequence_tokens > 0) {
    ASSIGN_OR_RETURN(JointPlan joint, PlanJointly(trace, request.sequence_tokens, problem, solver));
    const std::vector<int> homes = TokenHomes(joint.homes, request.sequence_tokens);
    report.lines.push_back(TrafficLine("plan, sequences placed too", trace, topology, homes, joint.table));
  }
  report.table = std::move(plan.table);
  return report;
}

void PrintTraffic(const TrafficReport& report, bool json) { json ? PrintTrafficJson(report) : PrintTrafficText(report); }

}  // namespace conclave
