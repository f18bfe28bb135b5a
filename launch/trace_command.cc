// conclave trace: shows, converts and makes routing traces.

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <optional>

#include "base/strings.h"
#include "launch/affinity_table.h"
#include "launch/commands.h"
#include "launch/job.h"
#include "parallel/markov_trace.h"
#include "parallel/routing_counts.h"
#include "parallel/routing_recorder.h"
#include "parallel/trace_files.h"
#include "trainer/json.h"
#include "trainer/layer_report.h"
#include "trainer/run_folder.h"
#include "trainer/stop_signal.h"

namespace conclave {
namespace {

// How unevenly a layer's experts are used: 0 all alike, towards 1 one takes all.
double Gini(std::span<const int64_t> load) {
  std::vector<int64_t> sorted(load.begin(), load.end());
  std::sort(sorted.begin(), sorted.end());
  double weighted = 0, sum = 0;
  for (size_t i = 0; i < sorted.size(); ++i) {
    weighted += static_cast<double>(i + 1) * static_cast<double>(sorted[i]);
    sum += static_cast<double>(sorted[i]);
  }
  const double n = static_cast<double>(sorted.size());
  return sum == 0 ? 0 : 2 * weighted / (n * sum) - (n + 1) / n;
}

void Show(const RoutingTrace& trace, bool json) {
  const RoutingCounts counts = RoutingCounts::Of(trace);
  const TraceHeader& header = trace.header();
  double gini = 0, largest = 0;
  for (int j = 0; j < trace.layers(); ++j) {
    const auto load = counts.load(j);
    gini += Gini(load) / trace.layers();
    largest = std::max(largest, static_cast<double>(*std::max_element(load.begin(), load.end())) * trace.experts() /
                                    (static_cast<double>(trace.tokens()) * trace.top_k()));
  }
  if (json) {
    std::string origin = "\"corpus\":";
    AppendJsonString(header.corpus, &origin);
    origin += ",\"checkpoint\":";
    AppendJsonString(header.checkpoint, &origin);
    origin += ",\"batches\":";
    AppendJsonString(header.batches, &origin);
    std::printf(
        "{\"tokens\":%lld,\"layers\":%d,\"experts\":%d,\"top_k\":%d,%s,\"step\":%lld,\"mean_largest_affinity\":%.9g,"
        "\"largest_load_over_mean\":%.9g,\"mean_gini\":%.9g}\n",
        static_cast<long long>(trace.tokens()), trace.layers(), trace.experts(), trace.top_k(), origin.c_str(),
        static_cast<long long>(header.step), counts.MeanLargestAffinity(), largest, gini);
    return;
  }
  std::printf("tokens              %lld\nlayers              %d\nexperts             %d, %d a token\n",
              static_cast<long long>(trace.tokens()), trace.layers(), trace.experts(), trace.top_k());
  const auto known = [](const std::string& text) { return text.empty() ? "-" : text.c_str(); };
  std::printf("corpus              %s\nstep                %lld\n", known(header.corpus), static_cast<long long>(header.step));
  std::printf("checkpoint          %s\nbatches             %s\n", known(header.checkpoint), known(header.batches));
  std::printf("largest affinity    %.3f, mean over experts; %.3f would be uniform routing\n", counts.MeanLargestAffinity(),
              1.0 / trace.experts());
  std::printf("largest load        %.2f times the mean\nGini of the load    %.3f, mean over layers\n", largest, gini);
}

absl::StatusOr<RoutingTrace> Read(const Arguments& arguments, const std::string& path) {
  if (path.empty()) return InvalidArgument("missing argument TRACE (see conclave trace --help)");
  ASSIGN_OR_RETURN(const int64_t experts, arguments.Integer("--experts", 0));
  if (experts < 0 || experts > 1 << 16) return InvalidArgument("--experts: expected 0..65536, got %d", experts);
  return ReadTrace(RealFileSystem(), path, static_cast<int>(experts));
}

absl::StatusOr<RoutingTrace> Draw(const Arguments& arguments) {
  MarkovInstance instance;
  ASSIGN_OR_RETURN(const int64_t layers, arguments.Integer("--layers", instance.layers));
  ASSIGN_OR_RETURN(const int64_t experts, arguments.Integer("--experts", instance.experts));
  ASSIGN_OR_RETURN(instance.sigma, arguments.Real("--sigma", instance.sigma));
  ASSIGN_OR_RETURN(instance.tokens, arguments.Integer("--tokens", instance.tokens));
  ASSIGN_OR_RETURN(const int64_t seed, arguments.Integer("--seed", 1));
  instance.layers = static_cast<int>(std::clamp<int64_t>(layers, 0, 1 << 20));
  instance.experts = static_cast<int>(std::clamp<int64_t>(experts, 0, 1 << 20));
  instance.seed = static_cast<uint64_t>(seed);
  RETURN_IF_ERROR(CheckMarkovInstance(instance));
  return MarkovTrace(instance);
}

// Steps at whose end the run wrote a routing trace, ascending.
absl::StatusOr<std::vector<int64_t>> TracedSteps(const std::string& run) {
  const RunFolder folder(&RealFileSystem(), run);
  std::vector<int64_t> steps;
  if (RealFileSystem().Exists(folder.Routing())) {
    ASSIGN_OR_RETURN(const std::vector<std::string> names, RealFileSystem().ListDir(folder.Routing()));
    for (const std::string& name : names) {
      if (!name.starts_with("step-") || !name.ends_with(".npy")) continue;
      const absl::StatusOr<int64_t> step = ParseInt64(std::string_view(name).substr(5, name.size() - 9));
      if (step.ok()) steps.push_back(*step);
    }
  }
  if (steps.empty()) return NotFound("'%s' holds no routing trace; train with observe.routing_window above 0", run);
  std::sort(steps.begin(), steps.end());
  return steps;
}

absl::Status ExportTrace(const std::string& run, const std::string& out) {
  if (out.empty()) return InvalidArgument("trace export: missing arguments RUN OUT (see conclave trace --help)");
  ASSIGN_OR_RETURN(const std::vector<int64_t> steps, TracedSteps(run));
  ASSIGN_OR_RETURN(const RoutingTrace trace, ReadTrace(RealFileSystem(), RunFolder(&RealFileSystem(), run).RoutingTrace(steps.back())));
  return WriteTrace(RealFileSystem(), out, trace);
}

// How affinity and load change while a run trains: a line a window.
absl::Status ShowDrift(const std::string& run) {
  ASSIGN_OR_RETURN(const std::vector<int64_t> steps, TracedSteps(run));
  std::printf("%10s  %16s  %10s  %18s\n", "step", "largest affinity", "mean Gini", "moved since before");
  std::optional<RoutingCounts> before;
  for (const int64_t step : steps) {
    ASSIGN_OR_RETURN(const RoutingTrace trace, ReadTrace(RealFileSystem(), RunFolder(&RealFileSystem(), run).RoutingTrace(step)));
    RoutingCounts counts = RoutingCounts::Of(trace);
    double gini = 0;
    for (int j = 0; j < trace.layers(); ++j) gini += Gini(counts.load(j)) / trace.layers();
    std::printf("%10lld  %16.3f  %10.3f  %18s\n", static_cast<long long>(step), counts.MeanLargestAffinity(), gini,
                before ? absl::StrFormat("%.3f", RoutingDrift(*before, counts)).c_str() : "-");
    before = std::move(counts);
  }
  return absl::OkStatus();
}

// What each layer's dispatch moved: a line a window, and the newest window, or the one that ends at `step`, layer by layer.
absl::Status ShowTraffic(const std::string& run, int64_t step) {
  if (run.empty()) return InvalidArgument("trace traffic: missing argument RUN (see conclave trace --help)");
  const std::string path = RunFolder(&RealFileSystem(), run).Metrics();
  ASSIGN_OR_RETURN(const std::string metrics, RealFileSystem().ReadAll(path));
  std::vector<LayerReport> shown;
  bool any = false;
  int64_t found = -1;
  for (const std::string& line : SplitString(metrics, '\n')) {
    if (line.find("\"layers\":") == std::string::npos) continue;
    ASSIGN_OR_RETURN(const JsonValue value, ParseJson(line));
    ASSIGN_OR_RETURN(const std::vector<LayerReport> layers, LayerReportsOf(value));
    const JsonValue* const at = value.Find("step");
    if (layers.empty() || at == nullptr) continue;
    ASSIGN_OR_RETURN(const int64_t ends, at->AsInt64());
    LayerReport sum = layers[0];
    for (size_t j = 1; j < layers.size(); ++j) sum += layers[j];
    std::printf("%s%s", any ? "" : TrafficHeading("step").c_str(), TrafficLine(absl::StrFormat("%d", ends), sum).c_str());
    any = true;
    if (step < 0 || ends == step) shown = layers, found = ends;
  }
  if (!any) return NotFound("'%s' says nothing of layers; train a mixture with observe.routing_window above 0", path);
  if (found < 0) return NotFound("'%s': no window ends at step %d", path, step);
  std::printf("\n%s", TrafficTable(absl::StrFormat("the window that ends at step %d", found), shown).c_str());
  return absl::OkStatus();
}

// A trace, or all traces of a run, on every number of ranks.
absl::Status ShowAffinity(const Arguments& arguments, const std::string& what) {
  if (what.empty()) return InvalidArgument("missing argument TRACE or RUN (see conclave trace --help)");
  PlacementConfig config;
  ASSIGN_OR_RETURN(const int64_t effort, arguments.Integer("--effort", 20));
  if (effort < 0 || effort > 100000) return InvalidArgument("--effort: expected 0..100000, got %d", effort);
  config.mutable_affinity()->set_effort(effort);
  config.mutable_affinity()->set_seed(1);
  ASSIGN_OR_RETURN(const auto search, MakePlacementSolver(config));
  config.mutable_exact();
  ASSIGN_OR_RETURN(const auto exact, MakePlacementSolver(config));
  std::vector<std::string> traces;
  if (what.ends_with(".npy") || what.ends_with(".csv")) {
    traces.push_back(what);
  } else {
    ASSIGN_OR_RETURN(const std::vector<int64_t> steps, TracedSteps(what));
    for (const int64_t step : steps) traces.push_back(RunFolder(&RealFileSystem(), what).RoutingTrace(step));
  }
  std::vector<AffinityLine> lines;
  for (const std::string& path : traces) {
    ASSIGN_OR_RETURN(const RoutingTrace trace, Read(arguments, path));
    for (const std::string& text : SplitString(arguments.Get("--ranks", "4,8"), ',')) {
      ASSIGN_OR_RETURN(const int64_t ranks, ParseInt64(text));
      if (ranks < 1 || ranks > trace.experts()) return InvalidArgument("--ranks: expected 1..%d, got %d", trace.experts(), ranks);
      absl::StatusOr<AffinityLine> line = MeasureAffinity(trace, static_cast<int>(ranks), *exact);
      if (absl::IsUnimplemented(line.status())) line = MeasureAffinity(trace, static_cast<int>(ranks), *search);  // beyond its reach
      RETURN_IF_ERROR(line.status());
      lines.push_back(*line);
    }
  }
  PrintAffinity(lines, arguments.Has("--json"));
  return absl::OkStatus();
}

absl::Status RunWhat(const Arguments& arguments) {
  const std::string &what = arguments.positional(), &first = arguments.positional(1), &second = arguments.positional(2);
  if (what == "show") {
    ASSIGN_OR_RETURN(const RoutingTrace trace, Read(arguments, first));
    Show(trace, arguments.Has("--json"));
    return absl::OkStatus();
  }
  if (what == "convert") {
    if (second.empty()) return InvalidArgument("trace convert: missing argument OUT (see conclave trace --help)");
    ASSIGN_OR_RETURN(const RoutingTrace trace, Read(arguments, first));
    return WriteTrace(RealFileSystem(), second, arguments.Has("--first-slot") ? trace.FirstSlot() : trace);
  }
  if (what == "markov") {
    if (first.empty()) return InvalidArgument("trace markov: missing argument OUT (see conclave trace --help)");
    ASSIGN_OR_RETURN(const RoutingTrace trace, Draw(arguments));
    return WriteTrace(RealFileSystem(), first, trace);
  }
  if (what == "export") return ExportTrace(first, second);
  if (what == "drift") return ShowDrift(first);
  if (what == "traffic") {
    ASSIGN_OR_RETURN(const int64_t step, arguments.Integer("--step", -1));
    return ShowTraffic(first, step);
  }
  if (what == "affinity") return ShowAffinity(arguments, first);
  const std::string closest =
      ClosestName(what, std::vector<std::string>{"show", "convert", "export", "drift", "traffic", "affinity", "markov"});
  return InvalidArgument("unknown '%s'%s; known: show, convert, export, drift, traffic, affinity, markov", what,
                         closest.empty() ? "" : "; did you mean '" + closest + "'?");
}

int RunTrace(const Arguments& arguments, const std::vector<std::string>&) {
  if (!PrintsForAll()) return kExitFinished;  // one process works
  const absl::Status status = RunWhat(arguments);
  return status.ok() ? kExitFinished : Fail(status);
}

}  // namespace

Command TraceCommand() {
  return {
      {.name = "trace",
       .positional = "WHAT [TRACE] [OUT]",
       .summary =
           "Shows, converts and makes routing traces: which expert each token used in each layer.\n"
           "WHAT is show TRACE, convert TRACE OUT, export RUN OUT (the newest trace of a run that recorded its routing), drift RUN (how\n"
           "its routing changed), traffic RUN (what each layer moved between and inside nodes, predicted and measured), affinity TRACE or\n"
           "RUN (what placements could keep on a rank), or markov OUT (a synthetic trace). Files end in .csv or .npy.",
       .options = {{"--experts", "E", "experts of a layer: for files without a header, and for markov (default 64)"},
                   {"--first-slot", "", "convert: keep only each token's first expert"},
                   {"--ranks", "P,...", "affinity: numbers of ranks (default 4,8)"},
                   {"--effort", "N", "affinity: length of the planner's search (default 20)"},
                   {"--step", "N", "traffic: layer by layer for the window that ends at this step (default: the newest)"},
                   {"--json", "", "show, affinity: print JSON objects, one a line"},
                   {"--layers", "L", "markov: layers (default 24)"},
                   {"--tokens", "T", "markov: tokens (default 5000)"},
                   {"--sigma", "S", "markov: strength of the affinity; 0 for none (default 1.5)"},
                   {"--seed", "N", "markov: another seed, another chain (default 1)"}}},
      RunTrace};
}

}  // namespace conclave
