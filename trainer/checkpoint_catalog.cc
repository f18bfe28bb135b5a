#include "trainer/checkpoint_catalog.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/log.h"
#include "trainer/checkpoint_manifest.h"

namespace conclave {

using Kind = CheckpointFolderName::Kind;

CheckpointCatalog::CheckpointCatalog(const FileSystem& files, std::string folder, const Clock& clock)
    : files_(files), folder_(std::move(folder)), clock_(clock) {}

CheckpointOwner CheckpointCatalog::Self() const { return CheckpointOwner::Self(clock_.WallNanos() / 1'000'000); }

std::string CheckpointCatalog::PathOf(int64_t step) const { return JoinPath(folder_, CheckpointFolderName::Of(Kind::kStep, step)); }

std::string CheckpointCatalog::TemporaryPathOf(int64_t step) const {
  return JoinPath(folder_, CheckpointFolderName::Of(Kind::kTemporary, step, Self()));
}

absl::Status CheckpointCatalog::ClearOne(const std::string& name, const CheckpointFolderName& parsed, const std::set<int64_t>& steps) {
  const std::string path = JoinPath(folder_, name);
  if (parsed.owner.has_value() && !parsed.owner->IsGone(Self())) {
    LOG_WARNING << "leaving '" << path << "' alone: its owner (process " << parsed.owner->process << " on " << parsed.owner->host
                << ") may be alive";
    return absl::OkStatus();
  }
  if (parsed.kind == Kind::kReplaced && !steps.contains(parsed.step)) {
    LOG_WARNING << "restoring '" << PathOf(parsed.step) << "', which was about to be replaced when a run stopped";
    RETURN_IF_ERROR(files_.Rename(path, PathOf(parsed.step)));
    return files_.SyncDir(folder_);
  }
  LOG_INFO << "removing '" << path << "', left by a run that stopped";
  return files_.RemoveTree(path);
}

absl::Status CheckpointCatalog::ClearLeftovers() {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, files_.ListDir(folder_));
  ASSIGN_OR_RETURN(const std::vector<int64_t> folders, Folders());
  const std::set<int64_t> steps(folders.begin(), folders.end());
  for (const std::string& name : names) {
    if (name == std::string(kLatestName) + ".tmp") RETURN_IF_ERROR(files_.RemoveFile(JoinPath(folder_, name)));
    const CheckpointFolderName parsed = CheckpointFolderName::Parse(name);
    if (parsed.kind == Kind::kStep || parsed.kind == Kind::kOther) continue;
    RETURN_IF_ERROR(ClearOne(name, parsed, steps));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int64_t>> CheckpointCatalog::Folders() const {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, files_.ListDir(folder_));
  std::vector<int64_t> steps;
  for (const std::string& name : names) {
    const CheckpointFolderName parsed = CheckpointFolderName::Parse(name);
    if (parsed.kind == Kind::kStep) steps.push_back(parsed.step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

const CheckpointCatalog::Facts& CheckpointCatalog::Examine(int64_t step) {
  const auto [it, is_new] = facts_.try_emplace(step);
  if (!is_new) return it->second;
  const auto manifest = ReadManifest(files_, PathOf(step));
  if (!manifest.ok()) {
    LOG_WARNING << "'" << PathOf(step) << "' is no checkpoint: " << std::string(manifest.status().message());
    return it->second;
  }
  it->second.whole = true;
  if (manifest->has_metric() && !std::isnan(manifest->metric())) it->second.metric = manifest->metric();
  if (manifest->identity().has_parent_step()) it->second.parent = manifest->identity().parent_step();
  return it->second;
}

absl::StatusOr<std::vector<int64_t>> CheckpointCatalog::WholeSteps() {
  ASSIGN_OR_RETURN(std::vector<int64_t> steps, Folders());
  std::erase_if(steps, [this](int64_t step) { return !Examine(step).whole; });
  return steps;
}

absl::Status CheckpointCatalog::Commit(const std::string& temporary, int64_t step) {
  const std::string path = PathOf(step), aside = JoinPath(folder_, CheckpointFolderName::Of(Kind::kReplaced, step, Self()));
  facts_.erase(step);
  ASSIGN_OR_RETURN(const FileKind kind, files_.Kind(path));
  const bool replaces = kind != FileKind::kMissing;
  if (replaces) RETURN_IF_ERROR(files_.Rename(path, aside));
  if (absl::Status renamed = files_.Rename(temporary, path); !renamed.ok()) {
    if (replaces) files_.Rename(aside, path).IgnoreError();
    return renamed;
  }
  RETURN_IF_ERROR(files_.SyncDir(folder_));
  if (replaces) {
    if (absl::Status removed = files_.RemoveTree(aside); !removed.ok())
      LOG_WARNING << "a replaced checkpoint stays: " << std::string(removed.message());
  }
  return absl::OkStatus();
}

absl::Status CheckpointCatalog::Announce(int64_t step) const {
  return files_.WriteAtomically(JoinPath(folder_, kLatestName), CheckpointFolderName::Of(Kind::kStep, step) + "\n");
}

std::set<int64_t> CheckpointCatalog::Kept(const CheckpointConfig& config, int64_t saved, const std::vector<int64_t>& whole) {
  std::set<int64_t> kept = {saved};
  const int64_t last = std::clamp<int64_t>(config.keep_last(), 1, static_cast<int64_t>(whole.size()));
  kept.insert(whole.end() - last, whole.end());
  std::optional<std::pair<double, int64_t>> best;
  for (const int64_t step : whole) {
    if (config.keep_every() > 0 && step % config.keep_every() == 0) kept.insert(step);
    if (files_.Exists(JoinPath(PathOf(step), kPinName))) kept.insert(step);
    const std::optional<double> metric = Examine(step).metric;
    if (metric.has_value() && (!best.has_value() || *metric <= best->first)) best = {*metric, step};
  }
  if (config.keep_best() && best.has_value()) kept.insert(best->second);
  for (auto step = whole.rbegin(); step != whole.rend(); ++step) {  // a parent is older than its child
    if (const auto parent = Examine(*step).parent; kept.contains(*step) && parent.has_value()) kept.insert(*parent);
  }
  return kept;
}

absl::Status CheckpointCatalog::Remove(int64_t step) {
  const std::string trash = JoinPath(folder_, CheckpointFolderName::Of(Kind::kTrash, step, Self()));
  facts_.erase(step);
  RETURN_IF_ERROR(files_.Rename(PathOf(step), trash));
  RETURN_IF_ERROR(files_.SyncDir(folder_));
  return files_.RemoveTree(trash);
}

absl::Status CheckpointCatalog::Retire(const CheckpointConfig& config, int64_t saved, const std::set<int64_t>& damaged) {
  ASSIGN_OR_RETURN(std::vector<int64_t> whole, WholeSteps());
  std::erase_if(whole, [&damaged](int64_t step) { return damaged.contains(step); });
  if (whole.empty()) return absl::OkStatus();
  const std::set<int64_t> kept = Kept(config, saved, whole);
  for (const int64_t step : whole) {
    if (!kept.contains(step)) RETURN_IF_ERROR(Remove(step));
  }
  return absl::OkStatus();
}

}  // namespace conclave
