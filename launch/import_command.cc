// conclave import: the config of a Hugging Face model, to start a run from its weights.

#include <cstdio>

#include "google/protobuf/text_format.h"
#include "launch/commands.h"
#include "launch/job.h"
#include "launch/output_file.h"
#include "trainer/hf_weights.h"
#include "trainer/stop_signal.h"

namespace conclave {
namespace {

int RunImport(const Arguments& arguments, const std::vector<std::string>&) {
  if (!PrintsForAll()) return kExitFinished;  // one process reads and writes
  const std::string& folder = arguments.positional();
  const absl::StatusOr<HfModel> model = ReadHfModel(RealFileSystem(), folder);
  if (!model.ok()) return Fail(model.status());
  Experiment config;
  *config.mutable_model()->mutable_moe_lm() = model->config;
  config.mutable_trainer()->mutable_init_from()->set_path(folder);
  std::string text;
  google::protobuf::TextFormat::PrintToString(config, &text);
  if (!arguments.Has("--out")) {
    std::fputs(text.c_str(), stdout);
    return kExitFinished;
  }
  const absl::Status written = WriteOutput(arguments.Get("--out"), text);
  return written.ok() ? kExitFinished : Fail(written);
}

}  // namespace

Command ImportCommand() {
  return {{.name = "import",
           .positional = "HF_DIR",
           .summary = "Prints the model and init_from of a Hugging Face model, to be included in a config.",
           .options = {{"--out", "FILE", "write it there"}}},
          RunImport};
}

}  // namespace conclave
