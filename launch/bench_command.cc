// conclave bench: how fast the parts of training are on this machine.

#include <cstdio>

#include "base/strings.h"
#include "bench/benches.h"
#include "launch/commands.h"
#include "launch/job.h"
#include "launch/loading.h"
#include "parallel/trace_files.h"
#include "trainer/config_loader.h"
#include "trainer/stop_signal.h"

namespace conclave {
namespace {

constexpr const char* kDefaultConfig = "configs/quickstart/moe_kjv.textproto";

int Print(const absl::StatusOr<BenchReport>& report, bool json) {
  if (!report.ok()) return Fail(report.status());
  std::fputs((json ? RenderJson(*report) : RenderTable(*report)).c_str(), stdout);
  return kExitFinished;
}

// A bench of ranks: its report is printed by rank 0.
int RunOnRanks(const Arguments& arguments, const Experiment* config,
               const std::function<absl::StatusOr<BenchReport>(Communicator&)>& bench) {
  const absl::StatusOr<int64_t> ranks = arguments.Integer("--ranks", 1);
  if (!ranks.ok() || *ranks < 1) return PrintsForAll() ? Fail(InvalidArgument("--ranks: a number from 1 on is needed")) : kExitUsage;
  return RunJob({.config = config, .loopback_ranks = static_cast<int>(*ranks)}, [&](Communicator& world) -> absl::StatusOr<int> {
    ASSIGN_OR_RETURN(const BenchReport report, bench(world));
    return world.rank() == 0 ? Print(report, arguments.Has("--json")) : kExitFinished;
  });
}

int RunTraining(const Arguments& arguments) {
  const std::string path = arguments.positional(1).empty() ? kDefaultConfig : arguments.positional(1);
  const absl::StatusOr<LoadedConfig> loaded = LoadConfig(path, arguments.All("--set"));
  if (!loaded.ok()) return PrintsForAll() ? FailConfig(loaded.status()) : kExitUsage;
  const absl::StatusOr<int64_t> steps = arguments.Integer("--steps", TrainingBenchOptions().steps);
  if (!steps.ok() || *steps < 1) return PrintsForAll() ? Fail(InvalidArgument("--steps: a number from 1 on is needed")) : kExitUsage;
  return RunOnRanks(arguments, &loaded->config, [&](Communicator& world) -> absl::StatusOr<BenchReport> {
    RETURN_IF_ERROR(CheckConfigForRanks(*loaded, world.size()));
    return BenchTraining(loaded->config, world, {.steps = static_cast<int>(*steps)});
  });
}

int RunCollectives(const Arguments& arguments) {
  const absl::StatusOr<int64_t> kib = arguments.Integer("--kib", 0);
  if (!kib.ok() || (arguments.Has("--kib") && *kib < 1))
    return PrintsForAll() ? Fail(InvalidArgument("--kib: a number from 1 on is needed")) : kExitUsage;
  CollectiveBenchOptions options{.codec = arguments.positional(1)};
  if (*kib > 0) options.smallest_bytes = options.largest_bytes = *kib * 1024;
  return RunOnRanks(arguments, nullptr, [&](Communicator& world) { return BenchCollectives(world, options); });
}

int RunPlacement(const Arguments& arguments) {
  const std::string& path = arguments.positional(1);
  const absl::StatusOr<int64_t> effort = arguments.Integer("--effort", 0);
  if (!effort.ok() || (arguments.Has("--effort") && *effort < 1)) return Fail(InvalidArgument("--effort: a number from 1 on is needed"));
  if (path.empty()) return Print(BenchPlacement(nullptr, *effort), arguments.Has("--json"));
  const absl::StatusOr<RoutingTrace> trace = ReadTrace(RealFileSystem(), path);
  return trace.ok() ? Print(BenchPlacement(&*trace, *effort), arguments.Has("--json")) : Fail(trace.status());
}

int RunCrossover(const Arguments& arguments) {
  const std::string& codec = arguments.positional(1);
  return Print(BenchCrossover(codec.empty() ? "natural {}" : codec), arguments.Has("--json"));
}

int RunBench(const Arguments& arguments, const std::vector<std::string>&) {
  const std::string& what = arguments.positional();
  const bool has_argument = !arguments.positional(1).empty() && what != "placement" && what != "crossover" && what != "collectives";
  if (what != "train" && (has_argument || arguments.Has("--set") || arguments.Has("--steps"))) {
    return PrintsForAll() ? Fail(InvalidArgument("bench %s: CONFIG, --set and --steps go with bench train only", what)) : kExitUsage;
  }
  const bool alone = what == "kernels" || what == "codecs" || what == "placement" || what == "crossover";
  if (alone && !PrintsForAll()) return kExitFinished;  // one process measures
  if (what == "kernels") return Print(BenchKernels(), arguments.Has("--json"));
  if (what == "codecs") return Print(BenchCodecs(), arguments.Has("--json"));
  if (what == "placement") return RunPlacement(arguments);
  if (what == "crossover") return RunCrossover(arguments);
  if (what == "collectives") return RunCollectives(arguments);
  if (what == "train") return RunTraining(arguments);
  const std::string closest =
      ClosestName(what, std::vector<std::string>{"kernels", "collectives", "codecs", "placement", "crossover", "train"});
  if (!PrintsForAll()) return kExitUsage;
  return Fail(InvalidArgument("unknown bench '%s'%s; known: kernels, collectives, codecs, placement, crossover, train", what,
                              closest.empty() ? "" : "; did you mean '" + closest + "'?"));
}

}  // namespace

Command BenchCommand() {
  return {{.name = "bench",
           .positional = "WHAT [INPUT]",
           .summary = "Measures on this machine: medians and quartiles over repeated runs.\n"
                      "WHAT is kernels (compute kernels, one thread), codecs (compression), placement (expert placement of the routing\n"
                      "trace INPUT, by default of Markov chains), crossover (the link rate below which the codec INPUT pays), collectives "
                      "(exchanges between the job's ranks) or train (steps of the config\n"
                      "INPUT, by default configs/quickstart/moe_kjv.textproto).",
           .options = {{"--json", "", "print one JSON object"},
                       {"--ranks", "N", "collectives, train: ranks as threads, without a launcher (default 1)"},
                       {"--kib", "N", "collectives: vectors of N KiB alone (default 4 to 16384)"},
                       {"--effort", "N", "placement: length of the search (default 60)"},
                       {"--steps", "N", "train: measured steps (default 20)"},
                       {"--set", "PATH=VALUE", "train: override a field", true}}},
          RunBench};
}

}  // namespace conclave
