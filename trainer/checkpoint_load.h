// Loading a checkpoint from wherever it is. The store's own loads are made of the same pieces.
#ifndef CONCLAVE_TRAINER_CHECKPOINT_LOAD_H_
#define CONCLAVE_TRAINER_CHECKPOINT_LOAD_H_

#include <cstdint>
#include <string>

#include "base/file_system.h"
#include "base/status.h"
#include "comm/communicator.h"
#include "proto/checkpoint.pb.h"
#include "tensor/state_dict.h"
#include "trainer/checkpoint_match.h"

namespace conclave {

struct LoadedCheckpoint {
  int64_t step = 0;
  std::string path;             // of its folder
  CheckpointManifest manifest;  // without the lists of tensors and files
  LoadReport report;
};

// A checkpoint whose manifest is sound and whose files have their sizes.
struct FoundCheckpoint {
  std::string path;
  CheckpointManifest manifest;
};

// Loads from any path: a checkpoint's folder, a folder of checkpoints or a run folder (the newest whole one then, no fallback). Collective;
// every rank gets OK or the same error. To start from another run's weights: {.prefix = "model/"}. Errors: NotFound; DataLoss;
// FailedPrecondition if it does not fit.
absl::StatusOr<LoadedCheckpoint> LoadCheckpoint(const FileSystem& files, Communicator& control, const std::string& path,
                                                const StateDict& dict, const LoadOptions& options = {});

// The checkpoint that LoadCheckpoint would take, without its tensors' bytes. Not collective. Errors: NotFound, DataLoss.
absl::StatusOr<FoundCheckpoint> FindCheckpoint(const FileSystem& files, const std::string& path);

// Rank 0's on every rank, or rank 0's error. Collective; elsewhere `mine` is not looked at.
absl::StatusOr<FoundCheckpoint> ShareCheckpoint(Communicator& control, absl::StatusOr<FoundCheckpoint> mine);

// Matches, reads and checks; then sets the scalars. Collective. Errors: as LoadCheckpoint's; after DataLoss tensors hold anything, scalars
// are untouched.
absl::StatusOr<LoadedCheckpoint> LoadFound(const FileSystem& files, Communicator& control, FoundCheckpoint found, const StateDict& dict,
                                           const LoadOptions& options);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_CHECKPOINT_LOAD_H_
