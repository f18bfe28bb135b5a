// What lies in a folder of checkpoints: which steps, which of them are whole, what is kept and what is cleared away. Knows nothing of
// tensors or ranks.
#ifndef CONCLAVE_TRAINER_CHECKPOINT_CATALOG_H_
#define CONCLAVE_TRAINER_CHECKPOINT_CATALOG_H_

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/file_system.h"
#include "base/status.h"
#include "proto/checkpoint.pb.h"
#include "trainer/checkpoint_owner.h"

namespace conclave {

// A file of this name in a checkpoint's folder keeps it for good.
inline constexpr std::string_view kPinName = "PIN";
// Names the newest step, for people and scripts; no reader of ours relies on it.
inline constexpr std::string_view kLatestName = "latest";

// Not thread-safe; of a job's ranks only rank 0 uses its catalog.
class CheckpointCatalog {
 public:
  CheckpointCatalog(const FileSystem& files, std::string folder, const Clock& clock);

  std::string PathOf(int64_t step) const;
  std::string TemporaryPathOf(int64_t step) const;  // a new name at every call, as far as the clock moves

  // Removes what dead runs (and failed saves of this process) left; a set-aside checkpoint comes back if its successor was never committed.
  // Leftovers of live runs stay.
  absl::Status ClearLeftovers();

  // Steps that have a folder, ascending, whole or not.
  absl::StatusOr<std::vector<int64_t>> Folders() const;
  // Those whose manifest is sound and whose files have their sizes; a warning, once, names each other one and why.
  absl::StatusOr<std::vector<int64_t>> WholeSteps();

  // Makes the finished folder `temporary` the checkpoint of `step`: the commit point. An existing one is set aside first, and trashed
  // afterwards.
  absl::Status Commit(const std::string& temporary, int64_t step);
  // Points the hint `latest` at the step.
  absl::Status Announce(int64_t step) const;

  // Removes whole checkpoints other than: the newest keep_last, `saved`, multiples of keep_every, the best by metric if keep_best, pinned
  // ones, and those a kept one refers to. `damaged` steps do not count as kept, nor are they removed.
  absl::Status Retire(const CheckpointConfig& config, int64_t saved, const std::set<int64_t>& damaged);

 private:
  struct Facts {  // of a step's manifest, which never changes
    bool whole = false;
    std::optional<double> metric;
    std::optional<int64_t> parent;
  };
  const Facts& Examine(int64_t step);
  std::set<int64_t> Kept(const CheckpointConfig& config, int64_t saved, const std::vector<int64_t>& whole);
  absl::Status Remove(int64_t step);
  absl::Status ClearOne(const std::string& name, const CheckpointFolderName& parsed, const std::set<int64_t>& steps);
  CheckpointOwner Self() const;

  const FileSystem& files_;
  const std::string folder_;
  const Clock& clock_;
  std::map<int64_t, Facts> facts_;
};

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_CHECKPOINT_CATALOG_H_
