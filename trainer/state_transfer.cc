#include "trainer/state_transfer.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <string_view>
#include <vector>

#include "base/crc32c.h"
#include "base/trace.h"

namespace conclave {
namespace {

// What stands before the tensors of one expert.
struct ParcelHeader {
  int64_t layer = 0, expert = 0;
  int64_t bytes = 0;       // of the tensors
  uint32_t names_crc = 0;  // of their names, in order
  uint32_t crc = 0;        // of the tensors
};

using EntryRefs = std::vector<const StateEntry*>;

// The tensors of every (layer, expert) of a dictionary, by name; `others`: of no expert.
struct SortedEntries {
  std::map<std::pair<int, int>, EntryRefs> of_expert;
  EntryRefs others;
};

SortedEntries SortEntries(const ParameterSet& parameters, const StateDict& dict) {
  SortedEntries sorted;
  for (const StateEntry& entry : dict.entries()) {
    const std::string_view name = entry.name;
    const size_t slash = name.rfind('/');
    const BlockId block = parameters.Find(slash == std::string_view::npos ? name : name.substr(slash + 1));
    if (block.value >= 0 && parameters[block].of_mixture()) {
      sorted.of_expert[{parameters[block].moe_layer, parameters[block].expert}].push_back(&entry);
    } else {
      sorted.others.push_back(&entry);
    }
  }
  for (auto& [expert, entries] : sorted.of_expert) {
    std::ranges::sort(entries, {}, [](const StateEntry* entry) -> const std::string& { return entry->name; });
  }
  return sorted;
}

int64_t BytesOf(const EntryRefs& entries) {
  int64_t bytes = 0;
  for (const StateEntry* entry : entries) bytes += entry->data.bytes();
  return bytes;
}

uint32_t NamesCrc(const EntryRefs& entries) {
  uint32_t crc = 0;
  for (const StateEntry* entry : entries) crc = ExtendCrc32c(crc, std::as_bytes(std::span(entry->name.data(), entry->name.size() + 1)));
  return crc;
}

absl::Status CopyHere(const EntryRefs& wanted, const std::map<std::string_view, const StateEntry*>& current) {
  for (const StateEntry* entry : wanted) {
    const auto found = current.find(entry->name);
    if (found == current.end()) return Internal("migration: no state called '%s' before the move", entry->name);
    const Tensor& from = found->second->data;
    if (from.bytes() != entry->data.bytes()) {
      return Internal("migration: '%s' has %d bytes, expected %d", entry->name, from.bytes(), entry->data.bytes());
    }
    if (from.raw() != entry->data.raw()) std::memcpy(entry->data.raw(), from.raw(), static_cast<size_t>(from.bytes()));
  }
  return absl::OkStatus();
}

absl::Status CopyScalars(const StateDict& current, const StateDict& next) {
  std::map<std::string_view, const StateScalar*> by_name;
  for (const StateScalar& scalar : current.scalars()) by_name[scalar.name] = &scalar;
  for (const StateScalar& scalar : next.scalars()) {
    const auto found = by_name.find(scalar.name);
    if (found == by_name.end()) return Internal("migration: no value called '%s' before the move", scalar.name);
    scalar.set(found->second->get());
  }
  return absl::OkStatus();
}

// One MoE layer's experts on their way.
class LayerTransfer {
 public:
  LayerTransfer(const TransferOptions& options, int layer, SortedEntries& current, SortedEntries& next)
      : options_(options), layer_(layer), current_(current), next_(next), counts_(2 * size()), offsets_(2 * size()) {}

  // Enters its collectives whatever happens; the status is about this rank's experts.
  absl::Status Run(TransferReport* report) {
    Pack(report);
    RETURN_IF_ERROR(Exchange());
    return Unpack();
  }

 private:
  int size() const { return options_.group->size(); }
  int me() const { return options_.group->rank(); }
  // visit(expert, source, destination) for every expert that moves, in ascending order.
  template <typename Visit>
  void ForMoves(Visit&& visit) const {
    for (int e = 0; e < options_.from->experts(layer_); ++e) {
      const int source = options_.from->coordinate(layer_, e), destination = options_.to->coordinate(layer_, e);
      if (source != destination) visit(e, source, destination);
    }
  }

  void Pack(TransferReport* report) {
    std::vector<std::vector<int>> leaving(size());
    ForMoves([&](int e, int source, int destination) {
      ++report->experts;
      if (source == me()) leaving[destination].push_back(e);
    });
    for (int rank = 0; rank < size(); ++rank) {
      offsets_[rank] = static_cast<int64_t>(send_.size());
      for (const int e : leaving[rank]) PackExpert(e, report);
      counts_[rank] = static_cast<int64_t>(send_.size()) - offsets_[rank];
    }
  }

  void PackExpert(int expert, TransferReport* report) {
    const EntryRefs& entries = current_.of_expert[{layer_, expert}];
    ParcelHeader header{.layer = layer_, .expert = expert, .bytes = BytesOf(entries), .names_crc = NamesCrc(entries)};
    const size_t at = send_.size();
    send_.resize(at + sizeof(header) + static_cast<size_t>(header.bytes));
    std::byte* out = send_.data() + at + sizeof(header);
    for (const StateEntry* entry : entries) {
      std::memcpy(out, entry->data.raw(), static_cast<size_t>(entry->data.bytes()));
      out += entry->data.bytes();
    }
    header.crc = Crc32c(std::span<const std::byte>(send_).subspan(at + sizeof(header)));
    std::memcpy(send_.data() + at, &header, sizeof(header));
    report->bytes += header.bytes;
  }

  absl::Status Exchange() {
    std::vector<int64_t> eights(size(), sizeof(int64_t)), steps(size());
    for (int rank = 0; rank < size(); ++rank) steps[rank] = rank * static_cast<int64_t>(sizeof(int64_t));
    RETURN_IF_ERROR(options_.group->AllToAllV({.kind = CollectiveKind::kAllToAllV,
                                               .label = "migration sizes",
                                               .send = Tensor(counts_.data(), {size()}, DType::kI64),
                                               .recv = Tensor(counts_.data() + size(), {size()}, DType::kI64),
                                               .send_bytes = eights,
                                               .send_offsets = steps,
                                               .recv_bytes = eights,
                                               .recv_offsets = steps}));
    int64_t bytes = 0;
    for (int rank = 0; rank < size(); ++rank) {
      offsets_[size() + rank] = bytes;
      bytes += counts_[size() + rank];
    }
    receive_.resize(static_cast<size_t>(bytes));
    const std::span<const int64_t> counts = counts_, offsets = offsets_;
    return options_.group->AllToAllV({.kind = CollectiveKind::kAllToAllV,
                                      .label = "migration",
                                      .send = Tensor(send_.data(), {static_cast<int64_t>(send_.size())}, DType::kU8),
                                      .recv = Tensor(receive_.data(), {bytes}, DType::kU8),
                                      .send_bytes = counts.first(size()),
                                      .send_offsets = offsets.first(size()),
                                      .recv_bytes = counts.last(size()),
                                      .recv_offsets = offsets.last(size())});
  }

  absl::Status Unpack() {
    std::vector<int64_t> at(offsets_.begin() + size(), offsets_.end());
    absl::Status status;
    ForMoves([&](int e, int source, int destination) {
      if (destination == me() && status.ok()) status = UnpackExpert(e, source, &at[source]);
    });
    return status;
  }

  absl::Status UnpackExpert(int expert, int source, int64_t* at) {
    const EntryRefs& entries = next_.of_expert[{layer_, expert}];
    const std::string what = absl::StrFormat("migration: MoE layer %d expert %d from expert rank %d", layer_, expert, source);
    ParcelHeader header;
    const int64_t size_of_header = sizeof(header), end = offsets_[size() + source] + counts_[size() + source];
    if (*at + size_of_header > end) return DataLoss("%s: nothing came", what);
    std::memcpy(&header, receive_.data() + *at, sizeof(header));
    *at += size_of_header;
    if (header.layer != layer_ || header.expert != expert || header.names_crc != NamesCrc(entries) || header.bytes != BytesOf(entries) ||
        *at + header.bytes > end) {
      return DataLoss("%s: got %d bytes of layer %d expert %d, expected %d bytes of other tensors", what, header.bytes, header.layer,
                      header.expert, BytesOf(entries));
    }
    const auto payload = std::span<const std::byte>(receive_).subspan(static_cast<size_t>(*at), static_cast<size_t>(header.bytes));
    const uint32_t crc = Crc32c(payload);
    if (crc != header.crc) return DataLoss("%s: CRC32C of %d bytes is %08x, expected %08x", what, header.bytes, crc, header.crc);
    for (const StateEntry* entry : entries) {
      std::memcpy(entry->data.raw(), receive_.data() + *at, static_cast<size_t>(entry->data.bytes()));
      *at += entry->data.bytes();
    }
    return absl::OkStatus();
  }

  const TransferOptions& options_;
  int layer_;
  SortedEntries &current_, &next_;
  std::vector<int64_t> counts_, offsets_;  // [2 * size]: to send, then to receive; bytes
  std::vector<std::byte> send_, receive_;
};

}  // namespace

int64_t ExpertBytes(const ParameterSet& parameters, const StateDict& state) {
  int64_t bytes = 0;
  for (const auto& [expert, entries] : SortEntries(parameters, state).of_expert) bytes += BytesOf(entries);
  return bytes;
}

absl::StatusOr<TransferReport> TransferState(const TransferOptions& options, const StateDict& current, const StateDict& next) {
  const TraceSpan span("migration");
  SortedEntries before = SortEntries(*options.parameters, current), after = SortEntries(*options.parameters, next);
  std::map<std::string_view, const StateEntry*> by_name;
  for (const StateEntry& entry : current.entries()) by_name[entry.name] = &entry;
  absl::Status status = CopyHere(after.others, by_name);
  status.Update(CopyScalars(current, next));
  for (const auto& [key, entries] : after.of_expert) {
    const auto [layer, expert] = key;
    if (options.from->coordinate(layer, expert) == options.to->coordinate(layer, expert)) status.Update(CopyHere(entries, by_name));
  }
  TransferReport report;
  for (int layer = 0; layer < options.from->layers(); ++layer) {
    const absl::Status moved = LayerTransfer(options, layer, before, after).Run(&report);
    if (absl::IsUnavailable(moved)) return moved;  // the transport is gone
    status.Update(moved);
  }
  RETURN_IF_ERROR(status);
  return report;
}

}  // namespace conclave
