#include "comm/heartbeat.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <string_view>

namespace conclave {
namespace {

double Seconds(int64_t nanos) { return static_cast<double>(nanos) * 1e-9; }

std::string Where(const Heartbeat& h) {
  std::string text = absl::StrFormat("phase %s, step %d", NameOf(h.phase), h.step);
  if (h.waiting != 0) {
    text += absl::StrFormat(", waits for '%s' on %s", h.label, h.communicator);
    if (h.sequence >= 0) text += absl::StrFormat(" (operation %d)", h.sequence);
  } else {
    text += ", outside any wait";
  }
  return text;
}

// Ranks that wait on my communicator but not where the others do.
std::vector<Suspect> OutOfStep(const std::vector<std::optional<Heartbeat>>& ranks, const Heartbeat& mine) {
  const std::string_view group = mine.communicator;
  std::vector<const Heartbeat*> peers;
  int64_t earliest = INT64_MAX, latest = INT64_MIN;
  for (const std::optional<Heartbeat>& h : ranks) {
    if (h->waiting == 0 || group != h->communicator || h->sequence < 0) continue;
    peers.push_back(&*h);
    earliest = std::min(earliest, h->sequence);
    latest = std::max(latest, h->sequence);
  }
  std::vector<Suspect> suspects;
  if (peers.empty()) return suspects;
  if (earliest < latest) {
    for (const Heartbeat* h : peers) {
      if (h->sequence == earliest) {
        suspects.push_back(
            {h->rank, absl::StrFormat("is behind: others are at operation %d of %s; it is in %s", latest, mine.communicator, Where(*h))});
      }
    }
    return suspects;
  }
  std::map<std::string_view, int> votes;
  for (const Heartbeat* h : peers) ++votes[h->label];
  if (votes.size() < 2) return suspects;
  int most = 0;
  for (const auto& [label, count] : votes) most = std::max(most, count);
  const bool tie = std::count_if(votes.begin(), votes.end(), [&](const auto& v) { return v.second == most; }) > 1;
  for (const Heartbeat* h : peers) {
    if (!tie && votes[h->label] == most) continue;
    suspects.push_back({h->rank, absl::StrFormat("is out of step at operation %d of %s: %s", h->sequence, mine.communicator, Where(*h))});
  }
  return suspects;
}

}  // namespace

const char* NameOf(Phase phase) {
  switch (phase) {
    case Phase::kInit:
      return "init";
    case Phase::kStep:
      return "step";
    case Phase::kEvaluate:
      return "evaluate";
    case Phase::kCheckpoint:
      return "checkpoint";
  }
  return "?";
}

std::string HeartbeatFile(const std::string& directory, int rank) { return absl::StrFormat("%s/rank-%d.hb", directory, rank); }

std::vector<std::optional<Heartbeat>> ReadHeartbeats(const std::string& directory, int ranks) {
  std::vector<std::optional<Heartbeat>> all(ranks);
  for (int r = 0; r < ranks; ++r) {
    const int fd = open(HeartbeatFile(directory, r).c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) continue;
    Heartbeat h;
    const bool whole = pread(fd, &h, sizeof(h), 0) == static_cast<ssize_t>(sizeof(h));
    close(fd);
    if (!whole || h.magic != Heartbeat{}.magic || h.rank != r) continue;
    if (static_cast<int32_t>(h.phase) < 0 || static_cast<int32_t>(h.phase) >= kPhases) continue;
    h.label[sizeof(h.label) - 1] = h.communicator[sizeof(h.communicator) - 1] = h.host[sizeof(h.host) - 1] = 0;
    all[r] = h;
  }
  return all;
}

std::vector<Suspect> FindCulprits(const std::vector<std::optional<Heartbeat>>& ranks, const HangView& view) {
  std::vector<Suspect> suspects;
  for (int r = 0; r < static_cast<int>(ranks.size()); ++r) {
    const std::optional<Heartbeat>& h = ranks[r];
    if (r == view.me) continue;
    if (!h.has_value()) {
      suspects.push_back({r, "has written no heartbeat: it never started, or cannot write"});
    } else if (view.wall_ns - h->wall_ns > view.silent_ns) {
      suspects.push_back({r, absl::StrFormat("is stopped, dead or cut off: its last heartbeat is %.1f s old; it was in %s",
                                             Seconds(view.wall_ns - h->wall_ns), Where(*h))});
    }
  }
  if (!suspects.empty() || !ranks[view.me].has_value()) return suspects;
  for (const std::optional<Heartbeat>& h : ranks) {
    if (h->waiting == 0 && h->quiet_ns > view.busy_ns) {
      suspects.push_back(
          {h->rank, absl::StrFormat("is alive but went nowhere for %.1f s: %s; if it was at work, raise comm.timeout_seconds",
                                    Seconds(h->quiet_ns), Where(*h))});
    }
  }
  if (!suspects.empty()) return suspects;
  return OutOfStep(ranks, *ranks[view.me]);
}

std::string Describe(int rank, const std::optional<Heartbeat>& h, int64_t wall_ns) {
  if (!h.has_value()) return absl::StrFormat("rank %d: no heartbeat", rank);
  return absl::StrFormat("rank %d: %s; so for %.1f s; heartbeat %.1f s old, pid %d on %s", rank, Where(*h), Seconds(h->quiet_ns),
                         Seconds(wall_ns - h->wall_ns), h->pid, h->host);
}

}  // namespace conclave
