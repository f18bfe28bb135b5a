#include "parallel/expert_placement.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

#include "base/rng.h"
#include "parallel/partitioned_embedding.h"

namespace conclave {
namespace {

// The copies of one expert go to the slots behind those that are taken.
absl::Status AddCopies(const ExpertTables& tables, size_t layer, size_t expert, std::vector<std::vector<int>>* held) {
  const int axis = static_cast<int>(held->size());
  if (tables.copies.size() != tables.owners.size() || tables.copies[layer].size() != tables.owners[layer].size()) {
    return InvalidArgument("placement: layer %d: copies of other experts than %d", layer, tables.owners[layer].size());
  }
  int last = -1;
  for (const int c : tables.copies[layer][expert]) {
    if (c <= last || c >= axis || c == tables.owners[layer][expert]) {
      return InvalidArgument(
          "placement: layer %d expert %d: a copy on coordinate %d; expected ascending ones of 0..%d without the owner's, %d", layer, expert,
          c, axis - 1, tables.owners[layer][expert]);
    }
    (*held)[last = c].push_back(static_cast<int>(expert));
  }
  return absl::OkStatus();
}

// The coordinates among `hosts` that serve tokens at `source`.
std::vector<int> HostsFor(int source, std::span<const int> hosts, std::span<const int> node_of) {
  if (std::ranges::find(hosts, source) != hosts.end()) return {source};
  std::vector<int> near;
  for (const int host : hosts) {
    if (!node_of.empty() && node_of[host] == node_of[source]) near.push_back(host);
  }
  return near.empty() ? std::vector<int>(hosts.begin(), hosts.end()) : near;
}

// At random: hot experts of one layer should not all begin at their first host.
size_t FirstTurn(int layer, int expert) {
  return RngKey{.site = static_cast<uint32_t>(layer), .kind = RngKind::kPlacement}.Bits(static_cast<uint64_t>(expert));
}

}  // namespace

absl::StatusOr<ExpertPlacement> ExpertPlacement::Contiguous(std::span<const int> experts, int axis) {
  std::vector<std::vector<int>> table;
  for (const int count : experts) {
    if (count % axis != 0) {
      return InvalidArgument(
          "model.moe.experts: %d experts cannot be split evenly over an expert axis of %d; choose parallel.expert among the divisors of %d",
          count, axis, count);
    }
    std::vector<int>& row = table.emplace_back(count);
    for (int e = 0; e < count; ++e) row[e] = e / (count / axis);
  }
  return FromTable(std::move(table), axis);
}

absl::StatusOr<ExpertPlacement> ExpertPlacement::FromTables(ExpertTables tables, int axis, std::span<const int> node_of) {
  ExpertPlacement p;
  p.axis_ = axis;
  const bool copied = std::ranges::any_of(tables.copies, [](const auto& row) {
    return std::ranges::any_of(row, [](const std::vector<int>& hosts) { return !hosts.empty(); });
  });
  if (!copied) tables.copies.clear();
  for (size_t layer = 0; layer < tables.owners.size(); ++layer) {
    const std::vector<int>& row = tables.owners[layer];
    const size_t owned = row.size() / axis;
    std::vector<std::vector<int>>& held = p.held_.emplace_back(axis);
    for (size_t e = 0; e < row.size(); ++e) {
      if (row[e] < 0 || row[e] >= axis || held[row[e]].size() == owned) {
        return InvalidArgument("placement: layer %d expert %d on coordinate %d: expected %d experts on each of 0..%d", layer, e, row[e],
                               owned, axis - 1);
      }
      held[row[e]].push_back(static_cast<int>(e));
    }
    for (size_t e = 0; copied && e < row.size(); ++e) RETURN_IF_ERROR(AddCopies(tables, layer, e, &held));
    p.slots_.push_back(static_cast<int>(std::ranges::max(held, {}, &std::vector<int>::size).size()));
  }
  p.tables_ = std::move(tables);
  p.node_of_.assign(node_of.begin(), node_of.end());
  for (int layer = 0; layer < p.layers(); ++layer) {
    std::vector<Place>& owners = p.owner_.emplace_back();
    auto& choices = p.choices_.emplace_back(p.experts(layer));
    for (int e = 0; e < p.experts(layer); ++e) {
      owners.push_back({p.coordinate(layer, e), p.SlotAt(layer, e, p.coordinate(layer, e))});
      if (p.copies(layer, e).empty()) continue;
      const std::vector<int> hosts = p.Hosts(layer, e);
      std::map<std::vector<int>, size_t> first;  // of the next source that has these to choose from
      for (int source = 0; source < axis; ++source) {
        const std::vector<int> serving = HostsFor(source, hosts, node_of);
        std::vector<Place>& places = choices[e].emplace_back();
        for (const int host : serving) places.push_back({host, p.SlotAt(layer, e, host)});
        const size_t begin = first.try_emplace(serving, FirstTurn(layer, e)).first->second++;
        std::ranges::rotate(places, places.begin() + static_cast<std::ptrdiff_t>(begin % places.size()));
      }
    }
  }
  return p;
}

int ExpertPlacement::SlotAt(int layer, int expert, int coordinate) const {
  const std::vector<int>& held = held_[layer][coordinate];
  return static_cast<int>(std::ranges::find(held, expert) - held.begin());
}

ExpertPlacement::Place ExpertPlacement::PlaceOf(int layer, int expert, int source, int64_t turn) const {
  const auto& choices = choices_[layer][expert];
  if (choices.empty() || turn < 0) return owner_[layer][expert];
  const std::vector<Place>& places = choices[source];
  return places[static_cast<size_t>(turn) % places.size()];
}

std::vector<int> ExpertPlacement::Hosts(int layer, int expert) const {
  std::vector<int> hosts(copies(layer, expert).begin(), copies(layer, expert).end());
  hosts.insert(std::ranges::upper_bound(hosts, coordinate(layer, expert)), coordinate(layer, expert));
  return hosts;
}

std::vector<double> HostShares(std::span<const int> hosts, int axis, std::span<const int> node_of) {
  std::vector<double> shares(axis);
  for (int source = 0; source < axis; ++source) {
    const std::vector<int> serving = HostsFor(source, hosts, node_of);
    for (const int host : serving) shares[host] += 1.0 / static_cast<double>(serving.size()) / axis;
  }
  return shares;
}

Layout PlanLayout(const ParameterSet* parameters, const MeshShape& shape, int rank, const ExpertPlacement& placement) {
  const int ranks = shape.data * shape.expert;
  BlockHome everywhere;
  everywhere.owners.resize(ranks);
  std::iota(everywhere.owners.begin(), everywhere.owners.end(), 0);
  const auto is_part = [](const BlockSpec& spec) { return spec.kind == BlockKind::kExpert && spec.moe_layer < 0; };
  const int parts = static_cast<int>(std::ranges::count_if(parameters->blocks(), is_part));
  std::vector<BlockHome> homes;
  homes.reserve(parameters->size());
  for (const BlockSpec& spec : parameters->blocks()) {
    if (spec.kind != BlockKind::kExpert) {
      homes.push_back(everywhere);
      continue;
    }
    const int coordinate =
        is_part(spec) ? CoordinateOfPart(spec.expert, parts, shape.expert) : placement.coordinate(spec.moe_layer, spec.expert);
    BlockHome& home = homes.emplace_back();
    for (int d = 0; d < shape.data; ++d) home.owners.push_back(d * shape.expert + coordinate);
    home.canonical = coordinate;
  }
  return Layout(parameters, rank, std::move(homes));
}

Layout PlanCopies(const ParameterSet* parameters, const MeshShape& shape, int rank, const ExpertPlacement& placement) {
  const int first = rank - rank % shape.expert;  // of the data column
  std::vector<BlockHome> homes(parameters->size());
  for (int i = 0; i < parameters->size(); ++i) {
    const BlockSpec& spec = (*parameters)[{i}];
    homes[i].canonical = -1;
    if (!spec.of_mixture()) continue;
    for (const int c : placement.copies(spec.moe_layer, spec.expert)) homes[i].owners.push_back(first + c);
  }
  return Layout(parameters, rank, std::move(homes));
}

}  // namespace conclave
