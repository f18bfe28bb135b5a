// conclave generate: continues a text with a trained language model.

#include <cstdio>

#include "base/strings.h"
#include "launch/commands.h"
#include "launch/job.h"
#include "launch/loading.h"
#include "trainer/generator.h"
#include "trainer/stop_signal.h"

namespace conclave {
namespace {

absl::StatusOr<GenerateOptions> OptionsFrom(const Arguments& arguments) {
  GenerateOptions options{.cache = !arguments.Has("--no-cache")};
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

int RunGenerate(const Arguments& arguments, const std::vector<std::string>&) {
  const RunFolder folder(&RealFileSystem(), arguments.positional());
  const absl::StatusOr<GenerateOptions> options = OptionsFrom(arguments);
  if (!options.ok()) return PrintsForAll() ? Fail(options.status()) : kExitUsage;
  const absl::StatusOr<std::vector<std::string>> prompts = PromptsFrom(arguments);
  if (!prompts.ok()) return PrintsForAll() ? Fail(prompts.status()) : kExitUsage;
  return RunJob({}, [&](Communicator& world) -> absl::StatusOr<int> {
    ASSIGN_OR_RETURN(const Experiment config, ConfigForReading(folder, world.size()));
    Assembly assembly;
    RETURN_IF_ERROR(OpenTrained(folder, config, world, &assembly));
    std::function<void(const std::string&)> print;
    if (world.rank() == 0) {
      print = [](const std::string& text) {
        std::fwrite(text.data(), 1, text.size(), stdout);
        std::fflush(stdout);
      };
    }
    ASSIGN_OR_RETURN(const std::vector<std::string> texts, Generate(assembly, *prompts, *options, print));
    for (size_t i = 1; world.rank() == 0 && i < texts.size(); ++i) std::printf("\n---\n%s", texts[i].c_str());
    if (world.rank() == 0) std::puts("");
    return kExitFinished;
  });
}

}  // namespace

Command GenerateCommand() {
  return {{.name = "generate",
           .positional = "RUN_DIR",
           .summary = "Continues a text with the newest checkpoint of a run.",
           .options = {{"--prompt", "TEXT", "what to continue"},
                       {"--prompts", "FILE", "continue every line of a file; lines are dealt out over the ranks"},
                       {"--no-cache", "", "compute earlier tokens anew for each token: slower, the same text"},
                       {"--tokens", "N", "tokens to add (default 100)"},
                       {"--temperature", "T", "0 takes the likeliest token (default 0.8)"},
                       {"--top-k", "K", "draw among the K likeliest tokens only (default 0: all)"},
                       {"--seed", "S", "of the draws (default 1)"}}},
          RunGenerate};
}

}  // namespace conclave
