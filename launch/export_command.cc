// conclave export: a trained language model as a Hugging Face model.

#include <cstdio>

#include "launch/commands.h"
#include "launch/job.h"
#include "launch/loading.h"
#include "trainer/hf_weights.h"
#include "trainer/stop_signal.h"

namespace conclave {
namespace {

int RunExport(const Arguments& arguments, const std::vector<std::string>&) {
  const RunFolder folder(&RealFileSystem(), arguments.positional());
  const std::string out = arguments.Get("--out");
  if (out.empty()) return PrintsForAll() ? Fail(InvalidArgument("export: give --out DIR")) : kExitUsage;
  return RunJob({}, [&](Communicator& world) -> absl::StatusOr<int> {
    if (world.size() > 1) return InvalidArgument("export writes one file from one rank; start it without a launcher");
    ASSIGN_OR_RETURN(const Experiment config, ConfigForReading(folder, world.size()));
    if (!config.model().has_moe_lm()) return FailedPrecondition("export: the run's model is no moe_lm; only language models are exported");
    Assembly assembly;
    RETURN_IF_ERROR(OpenTrained(folder, config, world, &assembly).status());
    RETURN_IF_ERROR(SaveHfModel(RealFileSystem(), out, config.model().moe_lm(), assembly.scheme->point()));
    std::printf("%s\n", out.c_str());
    return kExitFinished;
  });
}

}  // namespace

Command ExportCommand() {
  return {{.name = "export",
           .positional = "RUN_DIR",
           .summary = "Writes the newest checkpoint of a run as a Hugging Face model: config.json and model.safetensors.",
           .options = {{"--out", "DIR", "where to (created)"}}},
          RunExport};
}

}  // namespace conclave
