// conclave place: plans, offline, which rank should hold which expert.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <optional>

#include "base/strings.h"
#include "launch/commands.h"
#include "launch/job.h"
#include "launch/output_file.h"
#include "launch/place_traffic.h"
#include "launch/placement_file.h"
#include "parallel/expert_replicas.h"
#include "parallel/placement_bound.h"
#include "parallel/placement_program.h"
#include "parallel/placement_solver.h"
#include "parallel/trace_files.h"
#include "trainer/json.h"
#include "trainer/stop_signal.h"

namespace conclave {
namespace {

constexpr int64_t kMost = 1 << 16;

absl::StatusOr<int> Size(const Arguments& arguments, const std::string& option, int64_t fallback) {
  ASSIGN_OR_RETURN(const int64_t value, arguments.Integer(option, fallback));
  if (value < 0 || value > kMost) return InvalidArgument("%s: expected 0..%d, got %d", option, kMost, value);
  return static_cast<int>(value);
}

// One line of the report: a placement on some tokens.
struct Line {
  std::string name;
  const RoutingCounts* counts;
  const PlacementTable* table;
};

struct Report {
  Topology topology;
  std::string solver;
  std::vector<Line> lines;
  int64_t plan_cost = 0, bound = 0, moves = -1, experts = 0;
  double seconds = 0, replica_load = -1;
  int64_t replica_slots = 0;

  double Gap() const { return plan_cost == 0 ? 0 : 1 - static_cast<double>(bound) / static_cast<double>(plan_cost); }
};

struct Shares {
  double rank, node, cost, load;
};

Shares SharesOf(const Line& line, const Topology& topology) {
  const Crossings crossings = CountCrossings(*line.counts, *line.table, topology);
  const double total = std::max<double>(1, static_cast<double>(line.counts->total()));
  return {crossings.rank / total, crossings.node / total, static_cast<double>(crossings.Cost(topology)) / total,
          WorstLoadRatio(*line.counts, *line.table, topology.ranks)};
}

void PrintText(const Report& report) {
  std::printf("%-28s %12s %12s %12s %14s\n", "placement", "rank changes", "node changes", "cost", "largest load");
  for (const Line& line : report.lines) {
    const Shares s = SharesOf(line, report.topology);
    std::printf("%-28s %10.2f %% %10.2f %% %12.4f %8.2f x mean\n", line.name.c_str(), 100 * s.rank, 100 * s.node, s.cost, s.load);
  }
  std::printf("shares and costs are per token and pair of adjacent layers; a change inside a node costs %lld, between nodes %lld\n",
              static_cast<long long>(report.topology.intra_cost), static_cast<long long>(report.topology.inter_cost));
  if (report.solver == "exact") {
    std::printf("lower bound                  the plan is optimal\n");
  } else {
    std::printf("lower bound                  no placement costs less than %.1f %% of the plan (gap %.1f %%)\n", 100 * (1 - report.Gap()),
                100 * report.Gap());
  }
  if (report.moves >= 0) {
    std::printf("moves                        %lld of %lld experts change rank\n", static_cast<long long>(report.moves),
                static_cast<long long>(report.experts));
  }
  if (report.replica_slots > 0)
    std::printf("replicas                     %lld slots a layer: largest load %.2f x mean\n", static_cast<long long>(report.replica_slots),
                report.replica_load);
  std::printf("planned in                   %s by %s\n", HumanDuration(report.seconds).c_str(), report.solver.c_str());
}

void PrintJson(const Report& report) {
  std::string text = absl::StrFormat("{\"ranks\":%d,\"nodes\":%d,\"solver\":\"%s\",\"seconds\":", report.topology.ranks,
                                     report.topology.nodes, report.solver);
  AppendJsonNumber(report.seconds, &text);
  absl::StrAppendFormat(&text, ",\"cost\":%d,\"lower_bound\":%d,\"gap\":", report.plan_cost, report.bound);
  AppendJsonNumber(report.Gap(), &text);
  if (report.moves >= 0) absl::StrAppendFormat(&text, ",\"moves\":%d,\"experts\":%d", report.moves, report.experts);
  if (report.replica_slots > 0) {
    absl::StrAppendFormat(&text, ",\"replica_slots\":%d,\"replica_largest_load_over_mean\":", report.replica_slots);
    AppendJsonNumber(report.replica_load, &text);
  }
  text += ",\"placements\":[";
  for (const Line& line : report.lines) {
    const Shares s = SharesOf(line, report.topology);
    text += text.back() == '[' ? "{\"name\":" : ",{\"name\":";
    AppendJsonString(line.name, &text);
    for (const auto& [name, value] :
         {std::pair{"rank_changes", s.rank}, {"node_changes", s.node}, {"cost", s.cost}, {"largest_load_over_mean", s.load}}) {
      absl::StrAppendFormat(&text, ",\"%s\":", name);
      AppendJsonNumber(value, &text);
    }
    text += '}';
  }
  std::printf("%s]}\n", text.c_str());
}

absl::StatusOr<PlacementConfig> SolverConfig(const Arguments& arguments, const std::string& name) {
  PlacementConfig config;
  ASSIGN_OR_RETURN(const int64_t seed, arguments.Integer("--seed", 1));
  ASSIGN_OR_RETURN(const int64_t effort, arguments.Integer("--effort", 0));
  if (seed < 0) return InvalidArgument("--seed: expected at least 0, got %d", seed);
  if (effort < 0 || effort > 100'000) return InvalidArgument("--effort: expected 0..100000, got %d", effort);
  if (name == "contiguous") {
    config.mutable_contiguous();
  } else if (name == "random") {
    config.mutable_random()->set_seed(seed);
  } else if (name == "load_greedy") {
    config.mutable_load_greedy();
  } else if (name == "affinity") {
    config.mutable_affinity()->set_seed(seed);
    if (arguments.Has("--effort")) config.mutable_affinity()->set_effort(effort);
  } else if (name == "exact") {
    config.mutable_exact();
  } else if (name == "coactivation") {
    config.mutable_coactivation()->set_seed(seed);
    if (arguments.Has("--effort")) config.mutable_coactivation()->set_effort(effort);
  } else {
    const std::vector<std::string> known{"auto", "contiguous", "random", "load_greedy", "affinity", "exact", "coactivation"};
    const std::string closest = ClosestName(name, known);
    return InvalidArgument("--solver '%s'%s; known: %s", name, closest.empty() ? "" : "; did you mean '" + closest + "'?",
                           JoinStrings(known, ", "));
  }
  return config;
}

absl::StatusOr<PlacementPlan> Plan(const Arguments& arguments, const PlacementProblem& problem, Report* report) {
  const std::string name = arguments.Get("--solver", "auto");
  report->solver = name == "auto" ? "exact" : name;
  const auto start = std::chrono::steady_clock::now();
  const auto solve = [&]() -> absl::StatusOr<PlacementPlan> {
    ASSIGN_OR_RETURN(const PlacementConfig config, SolverConfig(arguments, report->solver));
    ASSIGN_OR_RETURN(const auto solver, MakePlacementSolver(config));
    return PlanPlacement(problem, *solver);
  };
  absl::StatusOr<PlacementPlan> plan = solve();
  if (name == "auto" && absl::IsUnimplemented(plan.status())) {  // beyond the exact solver's reach
    report->solver = "affinity";
    plan = solve();
  }
  report->seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return plan;
}

// Largest load of a rank over the mean, with replicas, in the layer where that is largest.
absl::StatusOr<double> ReplicaLoad(const RoutingCounts& counts, const Topology& topology, int slots) {
  double worst = 0;
  for (int j = 0; j < counts.layers(); ++j) {
    const std::vector<double> load(counts.load(j).begin(), counts.load(j).end());
    ASSIGN_OR_RETURN(const ReplicaTable table, PlanReplicas(load, {.slots = slots, .nodes = topology.nodes, .ranks = topology.ranks}));
    double sum = 0;
    for (const double value : load) sum += value;
    if (sum > 0) worst = std::max(worst, table.MaxRankLoad(load, topology.ranks) * topology.ranks / sum);
  }
  return worst;
}

absl::Status CheckSameShape(const RoutingTrace& elsewhere, const RoutingTrace& trace) {
  if (elsewhere.layers() == trace.layers() && elsewhere.experts() == trace.experts()) return absl::OkStatus();
  return InvalidArgument("--evaluate: %d layers of %d experts, the trace has %d of %d", elsewhere.layers(), elsewhere.experts(),
                         trace.layers(), trace.experts());
}

absl::StatusOr<Topology> TopologyOf(const Arguments& arguments) {
  if (!arguments.Has("--ranks")) return InvalidArgument("missing option --ranks (see conclave place --help)");
  Topology topology;
  ASSIGN_OR_RETURN(topology.ranks, Size(arguments, "--ranks", 1));
  ASSIGN_OR_RETURN(topology.nodes, Size(arguments, "--nodes", 1));
  ASSIGN_OR_RETURN(topology.intra_cost, Size(arguments, "--intra", 1));
  ASSIGN_OR_RETURN(topology.inter_cost, Size(arguments, "--inter", 2));
  return topology;
}

// The part of a command line that --objective coactivation alone reads.
absl::Status RunTraffic(const Arguments& arguments, const RoutingTrace& trace, const Topology& topology) {
  const FileSystem& files = RealFileSystem();
  ASSIGN_OR_RETURN(const int experts, Size(arguments, "--experts", 0));
  ASSIGN_OR_RETURN(const int sequence, Size(arguments, "--sequence", 0));
  const bool half = arguments.Has("--half");
  const RoutingTrace first = half ? trace.Every(2, 0) : trace, second = half ? trace.Every(2, 1) : trace;
  TrafficRequest request{.trace = &first,
                         .others = {},
                         .topology = topology,
                         .current = {},
                         .homes_in_order = arguments.Has("--homes-in-order"),
                         .sequence_tokens = sequence};
  if (half) request.others.push_back({"other half", &second});
  std::optional<RoutingTrace> elsewhere;
  if (arguments.Has("--evaluate")) {
    ASSIGN_OR_RETURN(elsewhere, ReadTrace(files, arguments.Get("--evaluate"), experts));
    RETURN_IF_ERROR(CheckSameShape(*elsewhere, trace));
    request.others.push_back({"--evaluate", &*elsewhere});
  }
  if (arguments.Has("--current")) {
    ASSIGN_OR_RETURN(request.current, ReadPlacement(files, arguments.Get("--current"), topology));
  }
  const std::string name = arguments.Get("--solver", "auto");
  ASSIGN_OR_RETURN(const PlacementConfig config, SolverConfig(arguments, name == "auto" ? "coactivation" : name));
  ASSIGN_OR_RETURN(const auto solver, MakePlacementSolver(config));
  ASSIGN_OR_RETURN(const TrafficReport report, PlanTraffic(request, *solver));
  if (arguments.Has("--out")) RETURN_IF_ERROR(WriteOutput(arguments.Get("--out"), RenderPlacement(report.table, topology)));
  PrintTraffic(report, arguments.Has("--json"));
  return absl::OkStatus();
}

// Options that the objective would not read.
absl::Status CheckObjective(const Arguments& arguments, const std::string& objective) {
  if (objective != "chain" && objective != "coactivation")
    return InvalidArgument("--objective '%s'; known: chain, coactivation", objective);
  const bool chain = objective == "chain";
  for (const char* option : {"--write-lp", "--replicas"}) {
    if (!chain && arguments.Has(option)) return InvalidArgument("%s: only --objective chain has it; leave one of the two out", option);
  }
  for (const char* option : {"--sequence", "--homes-in-order"}) {
    if (chain && arguments.Has(option)) return InvalidArgument("%s: only --objective coactivation has it; add that", option);
  }
  return absl::OkStatus();
}

absl::Status RunPlan(const Arguments& arguments) {
  const FileSystem& files = RealFileSystem();
  const std::string objective = arguments.Get("--objective", "chain");
  RETURN_IF_ERROR(CheckObjective(arguments, objective));
  Report report;
  ASSIGN_OR_RETURN(report.topology, TopologyOf(arguments));
  ASSIGN_OR_RETURN(const int experts, Size(arguments, "--experts", 0));
  ASSIGN_OR_RETURN(const int slots, Size(arguments, "--replicas", 0));
  ASSIGN_OR_RETURN(const RoutingTrace trace, ReadTrace(files, arguments.positional(), experts));
  const bool half = arguments.Has("--half");
  if (half && trace.tokens() < 2) return InvalidArgument("--half: the trace holds one token");
  if (objective == "coactivation") return RunTraffic(arguments, trace, report.topology);
  const RoutingCounts counts = RoutingCounts::Of(half ? trace.Every(2, 0) : trace);
  PlacementProblem problem{.counts = &counts, .topology = report.topology, .current = {}};
  if (arguments.Has("--current")) {
    ASSIGN_OR_RETURN(problem.current, ReadPlacement(files, arguments.Get("--current"), report.topology));
  }
  ASSIGN_OR_RETURN(const PlacementPlan plan, Plan(arguments, problem, &report));
  if (arguments.Has("--write-lp")) RETURN_IF_ERROR(WriteOutput(arguments.Get("--write-lp"), RenderLinearProgram(problem)));
  report.plan_cost = plan.crossings.Cost(report.topology);
  report.bound = report.solver == "exact" ? report.plan_cost : LowerBound(problem);
  report.experts = int64_t{counts.layers()} * counts.experts();
  if (!problem.current.empty()) report.moves = plan.moves;
  if (slots > 0) {
    ASSIGN_OR_RETURN(report.replica_load, ReplicaLoad(counts, report.topology, slots));
    report.replica_slots = slots;
  }
  const PlacementTable contiguous = ContiguousTable(counts.layers(), counts.experts(), report.topology.ranks);
  report.lines.push_back({"contiguous", &counts, &contiguous});
  if (!problem.current.empty()) report.lines.push_back({"current", &counts, &problem.current});
  report.lines.push_back({"plan", &counts, &plan.table});
  RoutingCounts other_half(counts.layers(), counts.experts()), other(counts.layers(), counts.experts());
  if (half) {
    other_half = RoutingCounts::Of(trace.Every(2, 1));
    report.lines.push_back({"contiguous, other half", &other_half, &contiguous});
    report.lines.push_back({"plan, other half", &other_half, &plan.table});
  }
  if (arguments.Has("--evaluate")) {
    ASSIGN_OR_RETURN(const RoutingTrace elsewhere, ReadTrace(files, arguments.Get("--evaluate"), experts));
    RETURN_IF_ERROR(CheckSameShape(elsewhere, trace));
    other = RoutingCounts::Of(elsewhere);
    report.lines.push_back({"contiguous, --evaluate", &other, &contiguous});
    report.lines.push_back({"plan, --evaluate", &other, &plan.table});
  }
  if (arguments.Has("--out")) RETURN_IF_ERROR(WriteOutput(arguments.Get("--out"), RenderPlacement(plan.table, report.topology)));
  arguments.Has("--json") ? PrintJson(report) : PrintText(report);
  return absl::OkStatus();
}

int RunPlace(const Arguments& arguments, const std::vector<std::string>&) {
  if (!PrintsForAll()) return kExitFinished;  // one process plans
  const absl::Status status = RunPlan(arguments);
  return status.ok() ? kExitFinished : Fail(status);
}

}  // namespace

Command PlaceCommand() {
  return {{.name = "place",
           .positional = "TRACE",
           .summary = "Plans which rank holds which expert, so that tokens change rank and node seldom: between layers (chain), or from\n"
                      "home to experts and back in every layer (coactivation), which is what training sends.\n"
                      "TRACE is a routing trace (.csv or .npy). Needs no GPU, no launcher and no model.",
           .options = {{"--ranks", "R", "ranks of the expert axis; needed"},
                       {"--nodes", "N", "nodes they stand on, equally many on each (default 1)"},
                       {"--objective", "NAME", "chain or coactivation (default chain)"},
                       {"--solver", "NAME",
                        "auto, contiguous, random, load_greedy, affinity, exact or coactivation (default auto: exact where it reaches)"},
                       {"--effort", "N", "length of the search (default: affinity 60, coactivation 100)"},
                       {"--seed", "N", "affinity, coactivation, random: another seed, another search (default 1)"},
                       {"--homes-in-order", "", "coactivation: the trace is all of one step, rank r owns the r-th equal share"},
                       {"--sequence", "T", "coactivation: the trace is whole sequences of T tokens; place them on ranks too"},
                       {"--intra", "COST", "of a token that changes rank inside its node (default 1)"},
                       {"--inter", "COST", "of a token that changes node (default 2)"},
                       {"--current", "FILE", "where the experts are now: the plan moves as few as it can"},
                       {"--out", "FILE", "write the plan there"},
                       {"--write-lp", "FILE", "chain: write the problem as a mixed-integer program (LP format), for an outside solver"},
                       {"--half", "", "plan on every other token and report on the rest too"},
                       {"--evaluate", "TRACE", "report the plan on another trace too"},
                       {"--replicas", "SLOTS", "chain: report the load balance with so many physical experts a layer"},
                       {"--experts", "E", "experts of a layer, for traces without a header"},
                       {"--json", "", "print one JSON object"}}},
          RunPlace};
}

}  // namespace conclave
