// RunFolder: the files of one run: config.resolved.textproto, config.input/, overrides.txt, env.textproto, metrics.jsonl, checkpoints/,
// logs/, heartbeat/.
#ifndef CONCLAVE_TRAINER_RUN_FOLDER_H_
#define CONCLAVE_TRAINER_RUN_FOLDER_H_

#include <string>
#include <vector>

#include "base/file_system.h"
#include "trainer/config_loader.h"

namespace conclave {

class RunFolder {
 public:
  RunFolder(const FileSystem* files, std::string path) : files_(files), path_(std::move(path)) {}

  const std::string& path() const { return path_; }
  std::string Checkpoints() const { return JoinPath(path_, "checkpoints"); }
  std::string Metrics() const { return JoinPath(path_, "metrics.jsonl"); }
  std::string Status() const { return JoinPath(path_, "status.json"); }
  std::string Heartbeats() const { return JoinPath(path_, "heartbeat"); }
  std::string Log(int rank) const { return JoinPath(path_, "logs/rank-" + std::to_string(rank) + ".log"); }
  std::string Trace(int64_t step, int rank) const {
    return JoinPath(path_, "trace/step-" + std::to_string(step) + ".rank-" + std::to_string(rank) + ".json");
  }
  std::string Routing() const { return JoinPath(path_, "routing"); }
  std::string RoutingTrace(int64_t step) const { return JoinPath(Routing(), "step-" + std::to_string(step) + ".npy"); }
  std::string ResolvedConfig() const { return JoinPath(path_, "config.resolved.textproto"); }

  // Makes the folders and writes what the run was started with (rank 0 calls it). A folder that holds another run's metrics is refused
  // unless `resume`. Errors: of the file system, FailedPrecondition.
  absl::Status Prepare(const LoadedConfig& loaded, const std::vector<std::string>& arguments, const std::vector<std::string>& overrides,
                       bool resume) const;

  // The config of the run in this folder. Errors: NotFound if it holds none.
  absl::StatusOr<Experiment> ReadConfig() const;

 private:
  absl::Status WriteInputs(const LoadedConfig& loaded) const;
  const FileSystem* files_;
  std::string path_;
};

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_RUN_FOLDER_H_
