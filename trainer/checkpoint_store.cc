#include "trainer/checkpoint_store.h"

#include <utility>

#include "base/log.h"
#include "base/strings.h"
#include "trainer/agreement.h"
#include "trainer/checkpoint_manifest.h"

namespace conclave {
CheckpointStore::CheckpointStore(const FileSystem& files, Communicator& control, std::string folder, const CheckpointConfig& config,
                                 const Clock& clock)
    : files_(files), control_(control), folder_(std::move(folder)), config_(config), clock_(clock), catalog_(files, folder_, clock) {}

absl::StatusOr<std::unique_ptr<CheckpointStore>> CheckpointStore::Open(const FileSystem& files, Communicator& control,
                                                                       const std::string& folder, const CheckpointConfig& config,
                                                                       const CheckpointStoreOptions& options) {
  const Clock& clock = options.clock != nullptr ? *options.clock : RealClock();
  std::unique_ptr<CheckpointStore> store(new CheckpointStore(files, control, folder, config, clock));
  absl::Status status;
  if (store->is_root()) {
    status = files.CreateDirs(folder);
    if (status.ok()) status = store->catalog_.ClearLeftovers();
  }
  RETURN_IF_ERROR(AgreeOnOutcome(control, "checkpoint: open", status));
  if (!files.Exists(folder))
    status = NotFound("'%s' is not there, though rank 0 sees it; checkpoints need a folder that all hosts share", folder);
  RETURN_IF_ERROR(AgreeOnOutcome(control, "checkpoint: open", status));
  return store;
}

absl::Status CheckpointStore::Save(const SaveRequest& request) {
  CHECK(request.dict != nullptr && request.state.values().empty());
  const int64_t step = static_cast<int64_t>(request.state.cursor().step());
  std::string temporary;
  if (absl::Status status = WriteAndCommit(request, &temporary); !status.ok()) {
    if (is_root() && !temporary.empty()) files_.RemoveTree(temporary).IgnoreError();  // what stays is cleared before the next save
    return Annotate(status, absl::StrFormat("the checkpoint of step %d was not saved", step));
  }
  damaged_.erase(step);
  if (!is_root()) return absl::OkStatus();
  if (absl::Status status = catalog_.Announce(step); !status.ok())
    LOG_WARNING << "step " << step << " is saved, but: " << std::string(status.message());
  if (absl::Status status = catalog_.Retire(config_, step, damaged_); !status.ok()) {
    LOG_WARNING << "step " << step << " is saved, but older checkpoints could not be removed: " << std::string(status.message());
  }
  return absl::OkStatus();
}

absl::Status CheckpointStore::WriteAndCommit(const SaveRequest& request, std::string* temporary) {
  ShardPlan plan;
  RETURN_IF_ERROR(Prepare(request, &plan, temporary));
  const auto shard = WriteShard(files_, *temporary, control_.rank(), plan);
  RETURN_IF_ERROR(AgreeOnOutcome(control_, "checkpoint: shards", shard.status()));
  ASSIGN_OR_RETURN(const std::vector<std::string> shards,
                   GatherTexts(control_, "checkpoint: shard manifests", shard->SerializeAsString(), 0));
  return AgreeOnOutcome(control_, "checkpoint: commit", is_root() ? CommitOnRoot(request, shards, *temporary) : absl::OkStatus());
}

absl::Status CheckpointStore::Prepare(const SaveRequest& request, ShardPlan* plan, std::string* temporary) {
  absl::StatusOr<ShardPlan> planned = PlanShard(*request.dict);
  int64_t bytes = planned.ok() ? planned->file.bytes : 0;
  RETURN_IF_ERROR(control_.AllReduce("checkpoint: bytes", Tensor(&bytes, {1}, DType::kI64), ReduceOp::kSum));

  absl::Status status = planned.status();
  if (status.ok() && is_root()) status = catalog_.ClearLeftovers();
  if (status.ok()) {
    constexpr int64_t kManifestAllowance = 1 << 16;
    const int64_t needed = bytes + bytes / 256 + kManifestAllowance;
    const auto free = files_.FreeBytes(folder_);
    status = free.status();
    if (free.ok() && *free < needed) {
      status = absl::ResourceExhaustedError(
          absl::StrFormat("'%s' has %s free, the checkpoint needs %s; free some space or lower checkpoint.keep_last", folder_,
                          HumanBytes(*free), HumanBytes(needed)));
    }
  }
  if (status.ok() && is_root()) {
    *temporary = catalog_.TemporaryPathOf(static_cast<int64_t>(request.state.cursor().step()));
    status = files_.CreateDir(*temporary);
  }
  RETURN_IF_ERROR(AgreeOnOutcome(control_, "checkpoint: plan", status));
  *plan = *std::move(planned);
  return BroadcastText(control_, "checkpoint: folder", 0, temporary);
}

absl::Status CheckpointStore::CommitOnRoot(const SaveRequest& request, const std::vector<std::string>& shards,
                                           const std::string& temporary) {
  std::vector<ShardManifest> parsed(shards.size());
  for (size_t r = 0; r < shards.size(); ++r) CHECK(parsed[r].ParseFromString(shards[r])) << "of rank " << r;

  CheckpointManifest manifest;
  manifest.set_format_version(kCheckpointFormat);
  *manifest.mutable_state() = request.state;
  *manifest.mutable_identity() = request.identity;
  CheckpointIdentity* identity = manifest.mutable_identity();
  if (identity->host().empty()) identity->set_host(HostName());
  if (identity->written_unix_ms() == 0) identity->set_written_unix_ms(clock_.WallNanos() / 1'000'000);
  if (request.metric.has_value()) manifest.set_metric(*request.metric);
  RETURN_IF_ERROR(JoinShards(parsed, &manifest));

  RETURN_IF_ERROR(files_.WriteAtomically(JoinPath(temporary, kManifestName), EncodeManifest(std::move(manifest))));
  for (size_t r = 0; r < shards.size(); ++r)
    RETURN_IF_ERROR(files_.RemoveFile(JoinPath(temporary, ShardManifestName(static_cast<int>(r)))));
  RETURN_IF_ERROR(files_.SyncDir(temporary));
  return catalog_.Commit(temporary, static_cast<int64_t>(request.state.cursor().step()));
}

absl::StatusOr<std::optional<FoundCheckpoint>> CheckpointStore::NextCandidate(std::vector<int64_t>* steps) {
  FoundCheckpoint found;
  while (is_root() && !steps->empty() && found.path.empty()) {
    const std::string path = catalog_.PathOf(steps->back());
    if (!damaged_.contains(steps->back())) {
      auto manifest = ReadManifest(files_, path);
      if (manifest.ok()) {
        found = {path, *std::move(manifest)};
      } else {
        LOG_WARNING << "'" << path << "' is no checkpoint, trying the next older one: " << std::string(manifest.status().message());
      }
    }
    steps->pop_back();
  }
  ASSIGN_OR_RETURN(found, ShareCheckpoint(control_, std::move(found)));
  return found.path.empty() ? std::nullopt : std::optional(std::move(found));
}

absl::StatusOr<std::optional<LoadedCheckpoint>> CheckpointStore::LoadNewest(const StateDict& dict, const LoadOptions& options) {
  absl::StatusOr<std::vector<int64_t>> folders = std::vector<int64_t>{};
  if (is_root()) folders = catalog_.Folders();
  RETURN_IF_ERROR(AgreeOnOutcome(control_, "checkpoint: folders", folders.status()));
  absl::Status damage;
  for (;;) {
    ASSIGN_OR_RETURN(std::optional<FoundCheckpoint> found, NextCandidate(&*folders));
    if (!found.has_value()) break;
    const int64_t step = static_cast<int64_t>(found->manifest.state().cursor().step());
    auto loaded = LoadFound(files_, control_, *std::move(found), dict, options);
    if (loaded.ok()) return std::optional(*std::move(loaded));
    if (!absl::IsDataLoss(loaded.status())) return loaded.status();
    damage = loaded.status();
    damaged_.insert(step);
    if (is_root())
      LOG_ERROR << "the checkpoint of step " << step << " is damaged, trying the next older one: " << std::string(damage.message());
  }
  if (damage.ok()) return std::nullopt;
  return DataLoss("no checkpoint in '%s' can be read any more; the oldest tried: %s", folder_, std::string(damage.message()));
}

absl::StatusOr<LoadedCheckpoint> CheckpointStore::LoadStep(int64_t step, const StateDict& dict, const LoadOptions& options) {
  absl::StatusOr<FoundCheckpoint> mine = FoundCheckpoint{};
  if (is_root()) {
    const std::string path = catalog_.PathOf(step);
    mine = files_.Exists(path) ? FindCheckpoint(files_, path) : NotFound("no checkpoint '%s'", path);
  }
  ASSIGN_OR_RETURN(FoundCheckpoint found, ShareCheckpoint(control_, std::move(mine)));
  return LoadFound(files_, control_, std::move(found), dict, options);
}

absl::StatusOr<std::vector<int64_t>> CheckpointStore::Steps() {
  absl::StatusOr<std::vector<int64_t>> steps = std::vector<int64_t>{};
  if (is_root()) steps = catalog_.WholeSteps();
  RETURN_IF_ERROR(AgreeOnOutcome(control_, "checkpoint: steps", steps.status()));
  std::string bytes(reinterpret_cast<const char*>(steps->data()), steps->size() * sizeof(int64_t));
  RETURN_IF_ERROR(BroadcastText(control_, "checkpoint: steps", 0, &bytes));
  steps->resize(bytes.size() / sizeof(int64_t));
  std::copy(bytes.begin(), bytes.end(), reinterpret_cast<char*>(steps->data()));
  return steps;
}

}  // namespace conclave
