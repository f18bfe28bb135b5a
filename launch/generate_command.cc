// conclave generate: continues a text with a trained language model.

#include <cstdio>

#include "base/digest.h"
#include "base/strings.h"
#include "launch/commands.h"
#include "launch/job.h"
#include "launch/loading.h"
#include "launch/placement_file.h"
#include "parallel/trace_files.h"
#include "trainer/agreement.h"
#include "trainer/generator.h"
#include "trainer/routing_replay.h"
#include "trainer/stop_signal.h"

namespace conclave {
namespace {

absl::StatusOr<GenerateOptions> OptionsFrom(const Arguments& arguments) {
  GenerateOptions options{.cache = !arguments.Has("--no-cache"), .coherent = arguments.Has("--coherent")};
  ASSIGN_OR_RETURN(const double gibibytes, arguments.Real("--memory-gib", 0));
  constexpr double kMostGibibytes = 1 << 30;
  if (gibibytes < 0 || gibibytes > kMostGibibytes)
    return InvalidArgument("--memory-gib: expected 0 to %g, got %g", kMostGibibytes, gibibytes);
  options.memory_bytes = static_cast<int64_t>(gibibytes * (1 << 30));
  ASSIGN_OR_RETURN(options.tokens, arguments.Integer("--tokens", options.tokens));
  ASSIGN_OR_RETURN(options.temperature, arguments.Real("--temperature", options.temperature));
  ASSIGN_OR_RETURN(options.top_k, arguments.Integer("--top-k", options.top_k));
  ASSIGN_OR_RETURN(const int64_t seed, arguments.Integer("--seed", 1));
  options.seed = static_cast<uint64_t>(seed);
  if (options.tokens < 0 || options.temperature < 0 || options.top_k < 0)
    return InvalidArgument("--tokens, --temperature and --top-k must not be negative");
  return options;
}

// --prompt, or the lines of the file --prompts names.
absl::StatusOr<std::vector<std::string>> PromptsFrom(const Arguments& arguments) {
  if (!arguments.Has("--prompts")) return std::vector<std::string>{arguments.Get("--prompt")};
  if (arguments.Has("--prompt")) return InvalidArgument("--prompt and --prompts: give one of them");
  ASSIGN_OR_RETURN(const std::string text, RealFileSystem().ReadAll(arguments.Get("--prompts")));
  std::vector<std::string> prompts;
  for (const std::string& line : SplitString(text, '\n')) {
    if (!line.empty()) prompts.push_back(line);
  }
  if (prompts.empty()) return InvalidArgument("--prompts: '%s' has no line with text", arguments.Get("--prompts"));
  return prompts;
}

// Where the experts are to be; empty: consecutive.
absl::StatusOr<PlacementTable> PlacementFrom(const Arguments& arguments, const Experiment& config) {
  if (!arguments.Has("--placement")) return PlacementTable{};
  return ReadPlacement(RealFileSystem(), arguments.Get("--placement"), {.ranks = static_cast<int>(config.parallel().expert()), .nodes = 1});
}

void PrintTraffic(const GenerationTraffic& traffic) {
  std::printf("\n%-26s %12s %20s %10s\n", "sent between ranks", "bytes", "between nodes", "messages");
  for (const GenerationTraffic::Line& line : traffic.lines) {
    std::printf("%-26s %12lld %20lld %10lld\n", line.label.c_str(), static_cast<long long>(line.bytes),
                static_cast<long long>(line.between_nodes_bytes), static_cast<long long>(line.messages));
  }
  std::printf("%-26s %12lld\n", "all", static_cast<long long>(traffic.bytes()));
  if (traffic.moves == 0) return;
  std::printf("%-26s %11.2f%% of %lld tokens and layers\n", "rank changes",
              100.0 * static_cast<double>(traffic.hops) / static_cast<double>(traffic.moves), static_cast<long long>(traffic.moves));
}

int RunGenerate(const Arguments& arguments, const std::vector<std::string>&) {
  const RunFolder folder(&RealFileSystem(), arguments.positional());
  const absl::StatusOr<GenerateOptions> options = OptionsFrom(arguments);
  if (!options.ok()) return PrintsForAll() ? Fail(options.status()) : kExitUsage;
  const absl::StatusOr<std::vector<std::string>> prompts = PromptsFrom(arguments);
  if (!prompts.ok()) return PrintsForAll() ? Fail(prompts.status()) : kExitUsage;
  return RunJob({}, [&](Communicator& world) -> absl::StatusOr<int> {
    ASSIGN_OR_RETURN(const Experiment config, ConfigForReading(folder, world.size()));
    Assembly assembly;
    ASSIGN_OR_RETURN(const PlacementTable placement, PlacementFrom(arguments, config));
    ASSIGN_OR_RETURN(const OpenedWeights weights, OpenTrained(folder, config, world, &assembly, placement));
    std::function<void(const std::string&)> print;
    if (world.rank() == 0) {
      print = [](const std::string& text) {
        std::fwrite(text.data(), 1, text.size(), stdout);
        std::fflush(stdout);
      };
    }
    RoutingLog log;
    GenerateOptions here = *options;
    if (arguments.Has("--trace")) {
      RETURN_IF_ERROR(RoutingHeader(assembly).status());  // before any text is made
      here.routing_log = &log;
    }
    ASSIGN_OR_RETURN(const std::unique_ptr<RingMemory> ring, RingFrom(arguments, folder, assembly));
    here.ring = ring.get();
    ASSIGN_OR_RETURN(const Generated generated, Generate(assembly, *prompts, here, print));
    if (arguments.Has("--trace")) {
      Digest64 written_texts;  // beginnings and what was added, each with its end
      for (const std::string& text : generated.texts) written_texts.Update(std::string_view(text.c_str(), text.size() + 1));
      const RoutingOrigin origin{
          .step = weights.step, .checkpoint = weights.digest, .batches = absl::StrFormat("%016x", written_texts.Value())};
      ASSIGN_OR_RETURN(const RoutingTrace trace, GatherRouting(assembly, log, origin));
      absl::Status written;
      if (world.rank() == 0) written = WriteTrace(RealFileSystem(), arguments.Get("--trace"), trace);
      RETURN_IF_ERROR(AgreeOn(world, written, "writing the trace"));
    }
    if (world.rank() != 0) return kExitFinished;
    for (size_t i = 1; i < generated.texts.size(); ++i) std::printf("\n---\n%s", generated.texts[i].c_str());
    std::puts("");
    if (arguments.Has("--traffic")) PrintTraffic(generated.traffic);
    return kExitFinished;
  });
}

}  // namespace

Command GenerateCommand() {
  Command command{
      {.name = "generate",
       .positional = "RUN_DIR",
       .summary = "Continues a text with the newest checkpoint of a run.",
       .options = {{"--prompt", "TEXT", "what to continue"},
                   {"--prompts", "FILE", "continue every line of a file; lines are dealt out over the ranks"},
                   {"--no-cache", "", "compute earlier tokens anew for each token: slower, the same text"},
                   {"--coherent", "", "tokens stay with their experts and every rank keeps all contexts: fewer rows, the same text"},
                   {"--placement", "FILE", "where the experts are, as 'conclave place --out' writes it (default: consecutive)"},
                   {"--memory-gib", "G", "what keys and values may take on a rank (default: what the machine has left)"},
                   {"--trace", "FILE.npy", "write which experts every token chose, prompts included, for 'conclave place'"},
                   {"--traffic", "", "print what the ranks sent each other"},
                   {"--tokens", "N", "tokens to add (default 100)"},
                   {"--temperature", "T", "0 takes the likeliest token (default 0.8)"},
                   {"--top-k", "K", "draw among the K likeliest tokens only (default 0: all)"},
                   {"--seed", "S", "of the draws (default 1)"}}},
      RunGenerate};
  for (const OptionSpec& option : RingOptions()) command.spec.options.push_back(option);
  return command;
}

}  // namespace conclave
