#include "trainer/replica_check.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "base/digest.h"
#include "trainer/agreement.h"

namespace conclave {
namespace {

constexpr int64_t kHeldElsewhere = std::numeric_limits<int64_t>::max();

// Not negative, so that a smallest and a largest can be found in one reduction, and less than kHeldElsewhere.
int64_t ReplicaDigest(std::span<const std::byte> bytes) { return static_cast<int64_t>(DigestOf(bytes) >> 2); }

struct ReplicaEntry {
  int64_t id = 0;  // of its name
  const StateEntry* entry = nullptr;
};

std::vector<ReplicaEntry> EntriesOf(const StateDict& state) {
  std::vector<ReplicaEntry> entries;
  for (const StateEntry& entry : state.entries()) entries.push_back({ReplicaDigest(std::as_bytes(std::span(entry.name))), &entry});
  std::ranges::sort(entries, {}, &ReplicaEntry::id);
  return entries;
}

// The ids that more than one rank holds, ascending; equal on all ranks.
absl::StatusOr<std::vector<int64_t>> SharedIds(const std::vector<ReplicaEntry>& entries, Communicator& world) {
  std::string mine(entries.size() * sizeof(int64_t), '\0');
  for (size_t i = 0; i < entries.size(); ++i) std::memcpy(mine.data() + i * sizeof(int64_t), &entries[i].id, sizeof(int64_t));
  ASSIGN_OR_RETURN(const std::vector<std::string> texts, GatherTexts(world, "replica names", mine));
  std::vector<int64_t> all, shared;
  for (const std::string& text : texts) {
    const size_t begin = all.size();
    all.resize(begin + text.size() / sizeof(int64_t));
    std::memcpy(all.data() + begin, text.data(), text.size());
  }
  std::ranges::sort(all);
  for (size_t i = 1; i < all.size(); ++i) {
    if (all[i] == all[i - 1] && (shared.empty() || shared.back() != all[i])) shared.push_back(all[i]);
  }
  return shared;
}

std::string ListOf(const std::vector<int>& ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < ranks.size(); ++i) text += (i == 0 ? "" : i + 1 == ranks.size() ? " and " : ", ") + std::to_string(ranks[i]);
  return text;
}

// Which ranks hold what is not the majority's.
absl::Status Blame(const std::string& name, const std::vector<int64_t>& digests) {
  std::map<int64_t, std::vector<int>> groups;
  for (size_t r = 0; r < digests.size(); ++r) {
    if (digests[r] != kHeldElsewhere) groups[digests[r]].push_back(static_cast<int>(r));
  }
  size_t most = 0, with_most = 0;
  for (const auto& [digest, ranks] : groups) most = std::max(most, ranks.size());
  for (const auto& [digest, ranks] : groups) with_most += ranks.size() == most ? 1 : 0;
  std::vector<std::vector<int>> named;
  for (const auto& [digest, ranks] : groups) {
    if (with_most > 1 || ranks.size() < most) named.push_back(ranks);
  }
  std::ranges::sort(named);
  std::string text;
  for (const std::vector<int>& ranks : named) text += (text.empty() ? "" : " from ") + ListOf(ranks);
  return DataLoss(
      "replicas of '%s' are not the same bytes any more: %s; memory or a processor is at fault there, or the program: go on from an "
      "earlier "
      "checkpoint without these ranks",
      name, with_most > 1 ? text + " differ" : text + " differ from the others");
}

}  // namespace

absl::Status CheckReplicas(const StateDict& state, Communicator& world) {
  if (world.size() == 1) return absl::OkStatus();
  const std::vector<ReplicaEntry> entries = EntriesOf(state);
  ASSIGN_OR_RETURN(const std::vector<int64_t> shared, SharedIds(entries, world));
  const size_t count = shared.size();
  std::vector<int64_t> table(2 * count, kHeldElsewhere);  // digests, and what is left of kHeldElsewhere above them
  std::vector<const StateEntry*> held(count, nullptr);
  for (const ReplicaEntry& own : entries) {
    const auto found = std::ranges::lower_bound(shared, own.id);
    if (found == shared.end() || *found != own.id) continue;
    const auto i = static_cast<size_t>(found - shared.begin());
    held[i] = own.entry;
    const Tensor& data = own.entry->data;
    table[i] = ReplicaDigest({static_cast<const std::byte*>(data.raw()), static_cast<size_t>(data.bytes())});
    table[count + i] = -table[i];
  }
  const std::vector<int64_t> mine = table;
  if (count == 0) return absl::OkStatus();
  RETURN_IF_ERROR(world.AllReduce("replicas", Tensor(table.data(), {static_cast<int64_t>(2 * count)}, DType::kI64), ReduceOp::kMin));
  size_t bad = 0;
  while (bad < count && table[bad] == -table[count + bad]) ++bad;
  if (bad == count) return absl::OkStatus();
  int64_t digest = mine[bad];
  std::vector<int64_t> digests(static_cast<size_t>(world.size()));
  RETURN_IF_ERROR(world.AllGather("replicas", Tensor(&digest, {1}, DType::kI64), Tensor(digests.data(), {world.size()}, DType::kI64)));
  const auto holder = std::ranges::find_if(digests, [](int64_t d) { return d != kHeldElsewhere; }) - digests.begin();
  std::string name = held[bad] == nullptr ? "" : held[bad]->name;
  RETURN_IF_ERROR(BroadcastText(world, "replicas", static_cast<int>(holder), &name));
  return Blame(name, digests);
}

}  // namespace conclave
