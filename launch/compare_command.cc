// conclave compare: which of several experiments reaches a target for the fewest bytes, or evaluations.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>

#include "base/strings.h"
#include "launch/commands.h"
#include "launch/contest.h"
#include "launch/job.h"
#include "launch/loading.h"
#include "launch/svg_plot.h"
#include "trainer/config_loader.h"
#include "trainer/json.h"
#include "trainer/stop_signal.h"

namespace conclave {
namespace {

struct Comparison {
  std::vector<Entrant> entrants;
  ContestOptions contest;
  std::string measure;  // as the plots call it
  std::string folder;   // of the plots; empty: none
  bool json = false;
};

// An axis that no entrant has is a slip of the pen.
absl::Status CheckServes(const std::vector<Entrant>& entrants, const std::string& option, const GridAxis& axis) {
  for (const Entrant& entrant : entrants) {
    ASSIGN_OR_RETURN(const LoadedConfig loaded, LoadConfig(entrant.config_path, entrant.overrides));
    if (!ResolvePath(loaded.config, axis.path).empty()) return absl::OkStatus();
  }
  return InvalidArgument(
      "%s: none of the %d entrants has a field '%s'; the fields are in docs/config.md, and those of a scheme or codec "
      "count where a config names it",
      option, entrants.size(), axis.path);
}

// Entrants: every config under every combination of the varied values. Names are the configs', with what is varied.
absl::Status ListEntrants(const Arguments& arguments, Comparison* comparison) {
  std::vector<GridAxis> varied;
  for (const std::string& text : arguments.All("--vary")) {
    ASSIGN_OR_RETURN(GridAxis axis, ParseGridAxis(text));
    varied.push_back(std::move(axis));
  }
  for (const std::string& path : arguments.positionals()) {
    ASSIGN_OR_RETURN(const LoadedConfig loaded, LoadConfig(path, arguments.All("--set")));
    std::vector<Entrant> entrants{{loaded.config.name(), path, arguments.All("--set")}};
    for (const GridAxis& axis : varied) {
      const std::string field = ResolvePath(loaded.config, axis.path);
      if (field.empty()) continue;
      std::vector<Entrant> next;
      for (const Entrant& entrant : entrants) {
        for (const std::string& value : axis.values) {
          Entrant one = entrant;
          one.name += absl::StrFormat(" %s=%s", field.substr(field.rfind('.') + 1), value);
          one.overrides.push_back(field + "=" + value);
          next.push_back(std::move(one));
        }
      }
      entrants = std::move(next);
    }
    comparison->entrants.insert(comparison->entrants.end(), entrants.begin(), entrants.end());
  }
  for (const GridAxis& axis : varied) RETURN_IF_ERROR(CheckServes(comparison->entrants, "--vary", axis));
  for (const GridAxis& axis : comparison->contest.tuned) RETURN_IF_ERROR(CheckServes(comparison->entrants, "--tune", axis));
  return absl::OkStatus();
}

template <typename T>
absl::StatusOr<T> ChoiceOf(const Arguments& arguments, const std::string& option, const std::vector<std::pair<std::string, T>>& choices) {
  if (!arguments.Has(option)) return choices[0].second;
  std::string known;
  for (const auto& [name, value] : choices) {
    if (arguments.Get(option) == name) return value;
    known += (known.empty() ? "" : ", ") + name;
  }
  return InvalidArgument("option '%s': expected one of %s, got '%s'", option, known, arguments.Get(option));
}

absl::Status ReadNumbers(const Arguments& arguments, ContestOptions* contest) {
  ASSIGN_OR_RETURN(contest->race.target, arguments.Real("--target", 1e-8));
  ASSIGN_OR_RETURN(contest->race.max_evaluations, arguments.Integer("--max-evaluations", 200'000));
  ASSIGN_OR_RETURN(contest->race.measure_every, arguments.Integer("--measure-every", 1));
  ASSIGN_OR_RETURN(const int64_t seeds, arguments.Integer("--seeds", 5));
  ASSIGN_OR_RETURN(const int64_t tuning_seeds, arguments.Integer("--tuning-seeds", seeds));
  ASSIGN_OR_RETURN(const int64_t ranks, arguments.Integer("--ranks", 1));
  if (seeds < 1 || tuning_seeds < 1 || ranks < 1 || contest->race.max_evaluations < 1 || contest->race.measure_every < 1) {
    return InvalidArgument("--seeds, --tuning-seeds, --ranks, --max-evaluations and --measure-every take numbers from 1 on");
  }
  if (!(contest->race.target > 0 && contest->race.target < 1)) {
    return InvalidArgument("--target: a factor between 0 and 1 is needed, got %g", contest->race.target);
  }
  contest->seeds = static_cast<int>(seeds);
  contest->tuning_seeds = static_cast<int>(tuning_seeds);
  contest->ranks = static_cast<int>(ranks);
  return absl::OkStatus();
}

absl::StatusOr<Comparison> ReadComparison(const Arguments& arguments) {
  Comparison comparison{
      .measure = arguments.Get("--measure", "distance"), .folder = arguments.Get("--out"), .json = arguments.Has("--json")};
  RETURN_IF_ERROR(ReadNumbers(arguments, &comparison.contest));
  ASSIGN_OR_RETURN(
      comparison.contest.race.measure,
      ChoiceOf<RaceMeasure>(arguments, "--measure",
                            {{"distance", RaceMeasure::kDistance}, {"gap", RaceMeasure::kGap}, {"mapping", RaceMeasure::kMapping}}));
  ASSIGN_OR_RETURN(comparison.contest.race.budgeted,
                   ChoiceOf<RaceCost>(
                       arguments, "--by",
                       {{"two-way", RaceCost::kTwoWayBytes}, {"uplink", RaceCost::kUplinkBytes}, {"evaluations", RaceCost::kEvaluations}}));
  for (const std::string& text : arguments.All("--tune")) {
    ASSIGN_OR_RETURN(GridAxis axis, ParseGridAxis(text));
    comparison.contest.tuned.push_back(std::move(axis));
  }
  RETURN_IF_ERROR(ListEntrants(arguments, &comparison));
  return comparison;
}

// The cheapest entrant by which gains are counted: of those that send everything exactly, or of all where there is none.
const EntrantResult& BaselineOf(const std::vector<EntrantResult>& results, double RaceCosts::*cost) {
  const bool some = std::ranges::any_of(results, [&](const EntrantResult& r) { return r.exact && std::isfinite(r.Median(cost)); });
  const EntrantResult* best = nullptr;
  for (const EntrantResult& result : results) {
    if (some && !result.exact) continue;
    if (best == nullptr || result.Median(cost) < best->Median(cost)) best = &result;
  }
  return *best;
}

// Mbit/s of a link below which the entrant arrives before the baseline: where the bytes it saves take as long as its work takes longer, by
// the seconds of this run plus bytes / rate. Infinite where it is faster without a link too, 0 where it saves no bytes or does not arrive,
// and where ranks hosted several workers: seconds are then of all of them, and bytes of one.
double Crossover(const EntrantResult& baseline, const EntrantResult& entrant) {
  if (!baseline.alone || !entrant.alone) return 0;
  const double bytes = baseline.Median(&RaceCosts::two_way_bytes) - entrant.Median(&RaceCosts::two_way_bytes);
  const double seconds = entrant.MedianTime() - baseline.MedianTime();
  if (!(bytes > 0) || !std::isfinite(seconds)) return 0;
  return seconds > 0 ? 8e-6 * bytes / seconds : INFINITY;
}

std::string Amount(double value) { return std::isfinite(value) ? HumanCount(std::llround(value)) : "-"; }

void PrintTable(const std::vector<EntrantResult>& results) {
  size_t width = 8;
  for (const EntrantResult& result : results) width = std::max(width, result.name.size());
  const EntrantResult &up = BaselineOf(results, &RaceCosts::uplink_bytes), &both = BaselineOf(results, &RaceCosts::two_way_bytes);
  std::printf(
      "medians over %zu seeds, of one worker (seconds: of this process); gains are against the best exact method of this run (uplink: %s; "
      "two-way: %s)\n",
      results[0].races.size(), up.name.c_str(), both.name.c_str());
  std::printf("%-*s %8s %9s %6s %9s %6s %8s %11s %9s %8s  %s\n", static_cast<int>(width), "entrant", "reached", "uplink B", "gain",
              "two-way B", "gain", "frames B", "evaluations", "rounds", "seconds", "settings (* at the edge of their grid)");
  for (const EntrantResult& r : results) {
    std::printf("%-*s %4d/%-3zu %9s %6.2f %9s %6.2f %8s %11s %9s %8.3f  %s%s\n", static_cast<int>(width), r.name.c_str(), r.reached(),
                r.races.size(), Amount(r.Median(&RaceCosts::uplink_bytes)).c_str(), MedianGain(up, r, &RaceCosts::uplink_bytes),
                Amount(r.Median(&RaceCosts::two_way_bytes)).c_str(), MedianGain(both, r, &RaceCosts::two_way_bytes),
                Amount(r.Median(&RaceCosts::header_bytes)).c_str(), Amount(r.Median(&RaceCosts::evaluations)).c_str(),
                Amount(r.Median(&RaceCosts::rounds)).c_str(), r.MedianTime(), JoinStrings(r.settings, " ").c_str(), r.at_edge ? " *" : "");
  }
  if (!std::ranges::all_of(results, &EntrantResult::alone)) {
    std::printf("bandwidths below which fewer bytes pay are modelled with one worker a rank only (--ranks)\n");
  }
  for (const EntrantResult& r : results) {
    const double below = Crossover(both, r);
    if (&r == &both || r.exact || below == 0) continue;
    if (std::isfinite(below)) {
      std::printf("%s: modelled to arrive before %s on links below %.4g Mbit/s\n", r.name.c_str(), both.name.c_str(), below);
    } else {
      std::printf("%s: modelled to arrive before %s on any link\n", r.name.c_str(), both.name.c_str());
    }
  }
  for (const EntrantResult& r : results) {
    std::map<std::string, int> ends;
    for (const RaceResult& race : r.races) {
      if (race.end != RaceEnd::kReached) ++ends[absl::StrFormat("%s at %.1e of the start", NameOf(race.end), race.measure)];
    }
    for (const auto& [end, count] : ends) std::printf("%s: %d of %zu %s\n", r.name.c_str(), count, r.races.size(), end.c_str());
  }
}

void AppendMember(const char* name, double value, std::string* out) {
  absl::StrAppendFormat(out, ",\"%s\":", name);
  AppendJsonNumber(value, out);
}

// One object a line.
void PrintJson(const std::vector<EntrantResult>& results) {
  const EntrantResult &up = BaselineOf(results, &RaceCosts::uplink_bytes), &both = BaselineOf(results, &RaceCosts::two_way_bytes);
  const EntrantResult& thrifty = BaselineOf(results, &RaceCosts::evaluations);
  for (const EntrantResult& r : results) {
    std::string line = "{\"entrant\":";
    AppendJsonString(r.name, &line);
    AppendMember("seeds", static_cast<double>(r.races.size()), &line);
    AppendMember("reached", r.reached(), &line);
    AppendMember("uplink_bytes", r.Median(&RaceCosts::uplink_bytes), &line);
    AppendMember("uplink_gain", MedianGain(up, r, &RaceCosts::uplink_bytes), &line);
    AppendMember("two_way_bytes", r.Median(&RaceCosts::two_way_bytes), &line);
    AppendMember("two_way_gain", MedianGain(both, r, &RaceCosts::two_way_bytes), &line);
    AppendMember("header_bytes", r.Median(&RaceCosts::header_bytes), &line);
    AppendMember("evaluations", r.Median(&RaceCosts::evaluations), &line);
    AppendMember("evaluations_of_baseline", 1 / MedianGain(both, r, &RaceCosts::evaluations), &line);
    AppendMember("evaluations_of_fewest", 1 / MedianGain(thrifty, r, &RaceCosts::evaluations), &line);
    AppendMember("rounds", r.Median(&RaceCosts::rounds), &line);
    AppendMember("seconds", r.MedianTime(), &line);
    AppendMember("crossover_mbit", Crossover(both, r), &line);
    AppendMember("candidates", r.candidates, &line);
    absl::StrAppendFormat(&line, ",\"at_edge\":%s,\"worst_measure\":", r.at_edge ? "true" : "false");
    double worst = 0;
    for (const RaceResult& race : r.races) worst = std::max(worst, std::isfinite(race.measure) ? race.measure : INFINITY);
    AppendJsonNumber(worst, &line);
    line += ",\"settings\":";
    AppendJsonString(JoinStrings(r.settings, " "), &line);
    std::printf("%s}\n", line.c_str());
  }
}

// The first seed's curves.
absl::Status WritePlots(const Comparison& comparison, const std::vector<EntrantResult>& results) {
  const FileSystem& files = RealFileSystem();
  RETURN_IF_ERROR(files.CreateDirs(comparison.folder));
  struct Plot {
    const char *file, *label;
    double RaceCosts::*cost;
  };
  const std::string measure = comparison.measure == "gap" ? "duality gap" : "squared " + comparison.measure;
  for (const Plot& plot : {Plot{"two_way.svg", "two-way bytes sent by a worker", &RaceCosts::two_way_bytes},
                           Plot{"uplink.svg", "uplink bytes of a worker", &RaceCosts::uplink_bytes},
                           Plot{"evaluations.svg", "operator evaluations of a worker", &RaceCosts::evaluations}}) {
    std::vector<PlotLine> lines;
    for (const EntrantResult& result : results) {
      PlotLine line{.name = result.name};
      for (const RacePoint& point : result.races[0].curve) {
        line.x.push_back(point.costs.*plot.cost);
        line.y.push_back(point.measure);
      }
      lines.push_back(std::move(line));
    }
    const PlotOptions options{
        .title = measure + " against " + plot.label, .x_label = plot.label, .y_label = measure + ", relative to the start", .log_x = true};
    RETURN_IF_ERROR(files.WriteAtomically(JoinPath(comparison.folder, plot.file), RenderPlot(options, lines)));
  }
  return absl::OkStatus();
}

int Run(const Arguments& arguments, const std::vector<std::string>&) {
  const absl::StatusOr<Comparison> comparison = ReadComparison(arguments);
  if (!comparison.ok()) return FailConfig(comparison.status());
  std::vector<EntrantResult> results;
  for (const Entrant& entrant : comparison->entrants) {
    absl::StatusOr<EntrantResult> result = RunEntrant(entrant, comparison->contest);
    if (!result.ok()) return Fail(Annotate(result.status(), entrant.name));
    results.push_back(*std::move(result));
  }
  if (comparison->json) {
    PrintJson(results);
  } else {
    PrintTable(results);
  }
  if (comparison->folder.empty()) return kExitFinished;
  const absl::Status plotted = WritePlots(*comparison, results);
  return plotted.ok() ? kExitFinished : Fail(plotted);
}

}  // namespace

Command CompareCommand() {
  return {
      {.name = "compare",
       .positional = "CONFIG...",
       .summary =
           "Races experiments to one accuracy: what each takes of bytes, evaluations, rounds and time.\n"
           "All start from the same points; gains are over the best method that sends everything exactly. Runs in memory and writes no\n"
           "run folder.",
       .options = {{"--set", "PATH=VALUE", "override a field of every config", true},
                   {"--vary", "PATH=V1,V2,...", "an entrant for each value; `*` in a path: the chosen member, as in optim.*.p", true},
                   {"--tune", "PATH=V1,V2,...", "the cheapest value for each entrant; LOW..HIGH/N: N values in equal ratios", true},
                   {"--by", "COST", "what is tuned for: two-way (default), uplink or evaluations"},
                   {"--measure", "WHAT", "distance (default), gap or mapping"},
                   {"--target", "FACTOR", "of the measure (distance and mapping squared) at the start (default 1e-8)"},
                   {"--seeds", "N", "medians are over seeds 1 to N (default 5)"},
                   {"--tuning-seeds", "N", "seeds that the tuning looks at (default: all)"},
                   {"--max-evaluations", "N", "give up after so many (default 200000)"},
                   {"--measure-every", "N", "steps between two looks at the measure (default 1)"},
                   {"--ranks", "N", "ranks as threads (default 1); the results are the same"},
                   {"--out", "DIR", "write two_way.svg, uplink.svg and evaluations.svg there"},
                   {"--json", "", "one JSON object a line for each entrant"}}},
      Run};
}

}  // namespace conclave
