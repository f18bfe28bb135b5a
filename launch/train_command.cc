// conclave train: runs an experiment.

#include <cstdio>

#include "base/log.h"
#include "base/strings.h"
#include "launch/commands.h"
#include "launch/job.h"
#include "launch/loading.h"
#include "trainer/agreement.h"
#include "trainer/config_codecs.h"
#include "trainer/config_resolved.h"
#include "trainer/trainer.h"

namespace conclave {
namespace {

struct TrainRun {
  LoadedConfig loaded;
  RunFolder folder;
  std::vector<std::string> raw, overrides;
  std::string stop_file;
  bool resume = false;
};

absl::StatusOr<int> TrainRank(const TrainRun& run, Communicator& world) {
  const FileSystem& files = RealFileSystem();
  RETURN_IF_ERROR(CheckConfigForRanks(run.loaded, world.size()));
  const StopRequests stop(&files, run.stop_file, run.loaded.config.trainer().time_limit_seconds());
  absl::Status prepared;
  if (world.rank() == 0) prepared = run.folder.Prepare(run.loaded, run.raw, run.overrides, run.resume);
  RETURN_IF_ERROR(AgreeOn(world, prepared, "preparing the run folder"));
  Assembly assembly;
  if (const absl::Status assembled = Assemble(run.loaded.config, world, files, &assembly); !assembled.ok()) {
    // What only the model's blocks refuse has a place in the config too.
    if (absl::IsInvalidArgument(assembled) && assembly.model != nullptr) {
      RETURN_IF_ERROR(CheckCodecsOf(run.loaded, assembly.model->parameters()));
    }
    return assembled;
  }
  if (world.rank() == 0) {
    LOG_INFO << "run folder " << run.folder.path();
    LOG_INFO << absl::StrFormat("%d ranks = data %d x expert %d, %d workers", world.size(), assembly.mesh->shape().data,
                                assembly.mesh->shape().expert, assembly.workers.workers);
  }
  const TrainerOptions options{.files = &files,
                               .folder = &run.folder,
                               .stop = &stop,
                               .resume = run.resume,
                               .config_hash = run.loaded.hash,
                               .resolved_config = ResolvedText(run.loaded)};
  ASSIGN_OR_RETURN(const std::unique_ptr<Trainer> trainer, Trainer::Create(&assembly, &world, options));
  ASSIGN_OR_RETURN(const StopReason reason, trainer->Run());
  if (world.rank() == 0)
    LOG_INFO << "stopped at step " << trainer->step() << (reason == StopReason::kNone ? ", finished" : ", resume with --resume");
  if (reason == StopReason::kNone) return kExitFinished;
  return reason == StopReason::kUser ? kExitUser : kExitRequeue;
}

int RunTrain(const Arguments& arguments, const std::vector<std::string>& raw) {
  const std::vector<std::string> overrides = arguments.All("--set");
  absl::StatusOr<LoadedConfig> loaded = LoadConfig(arguments.positional(), overrides);
  if (!loaded.ok()) return PrintsForAll() ? FailConfig(loaded.status()) : kExitUsage;
  const absl::StatusOr<int64_t> ranks = arguments.Integer("--ranks", 1);
  if (!ranks.ok() || *ranks < 1) return PrintsForAll() ? Fail(InvalidArgument("--ranks: a number from 1 on is needed")) : kExitUsage;
  std::string folder = arguments.Get("--run-dir", loaded->config.trainer().run_dir());
  if (folder.empty()) folder = JoinPath("runs", loaded->config.name());
  InstallStopHandlers();
  TrainRun run{.loaded = *std::move(loaded),
               .folder = RunFolder(&RealFileSystem(), folder),
               .raw = raw,
               .overrides = overrides,
               .stop_file = arguments.Get("--stop-file"),
               .resume = arguments.Has("--resume")};
  return RunJob({.config = &run.loaded.config, .folder = &run.folder, .loopback_ranks = static_cast<int>(*ranks)},
                [&run](Communicator& world) { return TrainRank(run, world); });
}

}  // namespace

Command TrainCommand() {
  return {{.name = "train",
           .positional = "CONFIG",
           .summary = "Trains as the config says.\nUnder mpirun or srun each process is a rank; alone, ranks are threads.",
           .options = {{"--set", "PATH=VALUE", "override a field: --set optim.first_order.lr=1e-3; += appends to a list", true},
                       {"--run-dir", "DIR", "run folder (default: trainer.run_dir, else runs/NAME)"},
                       {"--resume", "", "go on from the newest checkpoint of the run folder"},
                       {"--ranks", "N", "ranks as threads, without a launcher (default 1)"},
                       {"--stop-file", "PATH", "where a launcher writes 'user' or 'preempt' before it sends USR1"}}},
          RunTrain};
}

}  // namespace conclave
