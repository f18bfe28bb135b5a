#include "launch/loading.h"

#include <numeric>

#include "base/log.h"
#include "launch/job.h"
#include "trainer/checkpoint_store.h"
#include "trainer/stop_signal.h"

namespace conclave {

int FailConfig(const absl::Status& status) {
  Fail(status);
  return kExitUsage;
}

absl::StatusOr<Experiment> ConfigForReading(const RunFolder& folder, int ranks) {
  ASSIGN_OR_RETURN(Experiment config, folder.ReadConfig());
  const int64_t experts = config.model().has_moe_lm() && config.model().moe_lm().has_moe() ? config.model().moe_lm().moe().experts() : 1;
  config.mutable_parallel()->set_expert(std::gcd(experts, int64_t{ranks}));
  config.mutable_parallel()->set_data(0);
  return config;
}

absl::Status OpenTrained(const RunFolder& folder, const Experiment& config, Communicator& world, Assembly* assembly) {
  const FileSystem& files = RealFileSystem();
  RETURN_IF_ERROR(Assemble(config, world, files, assembly));
  const bool averaged = config.trainer().eval().ema_decay() > 0;
  StateDict state;
  state.Add(averaged ? "average" : "model", assembly->scheme->point());
  assembly->field->buffers().Register(averaged ? "average" : "model", world.rank() == 0, state);
  const std::string path = config.checkpoint().dir().empty() ? folder.Checkpoints() : config.checkpoint().dir();
  ASSIGN_OR_RETURN(const LoadedCheckpoint loaded, LoadCheckpoint(files, world, path, state, {.prefix = averaged ? "average/" : "model/"}));
  if (world.rank() == 0) LOG_INFO << "weights of step " << loaded.step << " from " << loaded.path;
  return absl::OkStatus();
}

}  // namespace conclave
