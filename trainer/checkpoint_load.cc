#include "trainer/checkpoint_load.h"

#include <utility>
#include <vector>

#include "base/clock.h"
#include "trainer/agreement.h"
#include "trainer/checkpoint_catalog.h"
#include "trainer/checkpoint_manifest.h"
#include "trainer/checkpoint_reader.h"

namespace conclave {

absl::StatusOr<FoundCheckpoint> FindCheckpoint(const FileSystem& files, const std::string& path) {
  if (files.Exists(JoinPath(path, kManifestName))) {
    ASSIGN_OR_RETURN(CheckpointManifest manifest, ReadManifest(files, path));
    return FoundCheckpoint{path, std::move(manifest)};
  }
  for (const std::string& folder : {path, JoinPath(path, "checkpoints")}) {
    if (!files.Exists(folder)) continue;
    CheckpointCatalog catalog(files, folder, RealClock());
    ASSIGN_OR_RETURN(const std::vector<int64_t> steps, catalog.WholeSteps());
    if (steps.empty()) continue;
    ASSIGN_OR_RETURN(CheckpointManifest manifest, ReadManifest(files, catalog.PathOf(steps.back())));
    return FoundCheckpoint{catalog.PathOf(steps.back()), std::move(manifest)};
  }
  return NotFound("no checkpoint at '%s': expected %s in it, or whole checkpoints step-N in it or in its folder checkpoints", path,
                  std::string(kManifestName));
}

absl::StatusOr<FoundCheckpoint> ShareCheckpoint(Communicator& control, absl::StatusOr<FoundCheckpoint> mine) {
  const bool is_root = control.rank() == 0;
  RETURN_IF_ERROR(AgreeOnOutcome(control, "checkpoint: choice", is_root ? mine.status() : absl::OkStatus()));
  FoundCheckpoint found;
  if (is_root) found = *std::move(mine);
  std::string bytes = is_root ? found.manifest.SerializeAsString() : "";
  RETURN_IF_ERROR(BroadcastText(control, "checkpoint: path", 0, &found.path));
  RETURN_IF_ERROR(BroadcastText(control, "checkpoint: manifest", 0, &bytes));
  if (!is_root) CHECK(found.manifest.ParseFromString(bytes)) << found.path;
  return found;
}

absl::StatusOr<LoadedCheckpoint> LoadFound(const FileSystem& files, Communicator& control, FoundCheckpoint found, const StateDict& dict,
                                           const LoadOptions& options) {
  ASSIGN_OR_RETURN(StateMatch match, MatchState(control, found.manifest, dict, options, found.path));
  const ReadOptions reading{.whole_files = options.prefix.empty(), .share = control.rank(), .shares = control.size()};
  RETURN_IF_ERROR(AgreeOnOutcome(control, "checkpoint: read", ReadTensors(files, found.path, found.manifest, match.tensors, reading)));
  for (const auto& [scalar, value] : match.scalars) scalar->set(value);

  LoadedCheckpoint loaded{.step = static_cast<int64_t>(found.manifest.state().cursor().step()),
                          .path = std::move(found.path),
                          .manifest = std::move(found.manifest),
                          .report = std::move(match.report)};
  loaded.manifest.clear_tensors();
  loaded.manifest.clear_files();
  return loaded;
}

absl::StatusOr<LoadedCheckpoint> LoadCheckpoint(const FileSystem& files, Communicator& control, const std::string& path,
                                                const StateDict& dict, const LoadOptions& options) {
  absl::StatusOr<FoundCheckpoint> mine = FoundCheckpoint{};
  if (control.rank() == 0) mine = FindCheckpoint(files, path);
  ASSIGN_OR_RETURN(FoundCheckpoint found, ShareCheckpoint(control, std::move(mine)));
  return LoadFound(files, control, std::move(found), dict, options);
}

}  // namespace conclave
