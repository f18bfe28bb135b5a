// CheckpointStore: a folder of checkpoints "step-<N>", each the complete train state, each either committed or not there at all.
#ifndef CONCLAVE_TRAINER_CHECKPOINT_STORE_H_
#define CONCLAVE_TRAINER_CHECKPOINT_STORE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/file_system.h"
#include "base/status.h"
#include "comm/communicator.h"
#include "proto/checkpoint.pb.h"
#include "tensor/state_dict.h"
#include "trainer/checkpoint_catalog.h"
#include "trainer/checkpoint_load.h"
#include "trainer/checkpoint_match.h"
#include "trainer/checkpoint_shard.h"

namespace conclave {

struct SaveRequest {
  const StateDict* dict = nullptr;  // tensors on the CPU; each name canonical on exactly one rank
  SavedState state;  // rank 0's is written. state.cursor.step names the checkpoint; state.values must be empty: the store fills it
                     // from the dictionary's scalars
  CheckpointIdentity identity;   // rank 0's; host and written_unix_ms are filled in where unset
  std::optional<double> metric;  // validation loss at this step, where there is one; lower is better
};

// Facts of the process that tests replace.
struct CheckpointStoreOptions {
  const Clock* clock = nullptr;  // null: RealClock()
};

// All methods are collective over `control`; every rank gets OK, or every rank gets the same error, which names the rank, the path, the
// call and the system's reason. One store per folder and job; one thread. Saving never changes the state; N ranks may write what M ranks
// read. Law: a folder step-N is complete, or is refused by its checksums; after a save returned OK its step outlives any crash until
// retention removes it.
class CheckpointStore {
 public:
  // Creates the folder if need be, and removes what dead runs left behind half done. control, files outlive the store.
  static absl::StatusOr<std::unique_ptr<CheckpointStore>> Open(const FileSystem& files, Communicator& control, const std::string& folder,
                                                               const CheckpointConfig& config, const CheckpointStoreOptions& options = {});

  // Writes, commits, then removes older checkpoints as the config says. On an error the step does not exist (only where the very last sync
  // of the commit failed may it), earlier ones are untouched, and training may go on. Failing to remove old ones is a warning. A committed
  // step of the same number is replaced. Cost: every tensor once through CRC32C, a 64-bit digest and the disk; three small messages a rank.
  absl::Status Save(const SaveRequest& request);

  // The newest checkpoint that can be read; a damaged one is reported and the next older is taken. nullopt: there is none (the state is
  // untouched). Errors: FailedPrecondition if the checkpoint is of another model or optimizer; DataLoss if there are checkpoints but all
  // are damaged (tensors may then hold parts of them).
  absl::StatusOr<std::optional<LoadedCheckpoint>> LoadNewest(const StateDict& dict, const LoadOptions& options = {});
  // This one and no other. Errors: NotFound, DataLoss, FailedPrecondition.
  absl::StatusOr<LoadedCheckpoint> LoadStep(int64_t step, const StateDict& dict, const LoadOptions& options = {});

  // Committed steps, ascending.
  absl::StatusOr<std::vector<int64_t>> Steps();
  const std::string& folder() const { return folder_; }

 private:
  CheckpointStore(const FileSystem& files, Communicator& control, std::string folder, const CheckpointConfig& config, const Clock& clock);
  bool is_root() const { return control_.rank() == 0; }

  // The phases of a save; each ends with all ranks knowing how it went.
  absl::Status WriteAndCommit(const SaveRequest& request, std::string* temporary);
  absl::Status Prepare(const SaveRequest& request, ShardPlan* plan, std::string* temporary);
  absl::Status CommitOnRoot(const SaveRequest& request, const std::vector<std::string>& shards, const std::string& temporary);
  // Of the older folders in `steps` (rank 0's, ascending; what is tried is taken off), the newest that is whole; nullopt: none.
  absl::StatusOr<std::optional<FoundCheckpoint>> NextCandidate(std::vector<int64_t>* steps);

  const FileSystem& files_;
  Communicator& control_;
  const std::string folder_;
  const CheckpointConfig config_;
  const Clock& clock_;
  CheckpointCatalog catalog_;  // rank 0 decides
  std::set<int64_t> damaged_;  // found by reading; not tried again
};

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_CHECKPOINT_STORE_H_
