#include "parallel/expert_placement.h"

#include <numeric>

namespace conclave {

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

absl::StatusOr<ExpertPlacement> ExpertPlacement::FromTable(std::vector<std::vector<int>> coordinate, int axis) {
  ExpertPlacement p;
  p.axis_ = axis;
  p.coordinate_ = std::move(coordinate);
  for (size_t layer = 0; layer < p.coordinate_.size(); ++layer) {
    const std::vector<int>& row = p.coordinate_[layer];
    const int slots = static_cast<int>(row.size()) / axis;
    std::vector<int> used(axis, 0);
    std::vector<int>& slot = p.slot_.emplace_back(row.size());
    std::vector<int>& at = p.expert_at_.emplace_back(row.size(), -1);
    for (size_t e = 0; e < row.size(); ++e) {
      if (row[e] < 0 || row[e] >= axis || used[row[e]] == slots) {
        return InvalidArgument("placement: layer %d expert %d on coordinate %d: expected %d experts on each of 0..%d", layer, e, row[e],
                               slots, axis - 1);
      }
      slot[e] = used[row[e]]++;
      at[row[e] * slots + slot[e]] = static_cast<int>(e);
    }
  }
  return p;
}

Layout PlanLayout(const ParameterSet* parameters, const MeshShape& shape, int rank, const ExpertPlacement& placement) {
  const int ranks = shape.data * shape.expert;
  BlockHome everywhere;
  everywhere.owners.resize(ranks);
  std::iota(everywhere.owners.begin(), everywhere.owners.end(), 0);
  std::vector<BlockHome> homes;
  homes.reserve(parameters->size());
  for (const BlockSpec& spec : parameters->blocks()) {
    if (spec.kind != BlockKind::kExpert) {
      homes.push_back(everywhere);
      continue;
    }
    const int coordinate = placement.coordinate(spec.moe_layer, spec.expert);
    BlockHome& home = homes.emplace_back();
    for (int d = 0; d < shape.data; ++d) home.owners.push_back(d * shape.expert + coordinate);
    home.canonical = coordinate;
  }
  return Layout(parameters, rank, std::move(homes));
}

}  // namespace conclave
