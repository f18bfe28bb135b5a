// ExpertPlacement: the logical -> physical table of the experts, and the layout that follows from it.
#ifndef CONCLAVE_PARALLEL_EXPERT_PLACEMENT_H_
#define CONCLAVE_PARALLEL_EXPERT_PLACEMENT_H_

#include <span>
#include <vector>

#include "base/status.h"
#include "parallel/mesh.h"
#include "tensor/layout.h"

namespace conclave {

// For every MoE layer: which coordinate of the expert axis holds an expert, and in which local slot. Slots are 0 .. slots(layer) - 1,
// ascending with the logical id. Every coordinate holds equally many experts of a layer.
class ExpertPlacement {
 public:
  // experts[layer] experts each in contiguous runs. Errors: experts not divisible by the axis.
  static absl::StatusOr<ExpertPlacement> Contiguous(std::span<const int> experts, int axis);
  // coordinate[layer][expert]. Errors: an unbalanced layer, a coordinate out of range.
  static absl::StatusOr<ExpertPlacement> FromTable(std::vector<std::vector<int>> coordinate, int axis);

  int axis() const { return axis_; }
  int layers() const { return static_cast<int>(coordinate_.size()); }
  int experts(int layer) const { return static_cast<int>(coordinate_[layer].size()); }
  int slots(int layer) const { return experts(layer) / axis_; }
  int coordinate(int layer, int expert) const { return coordinate_[layer][expert]; }
  int slot(int layer, int expert) const { return slot_[layer][expert]; }
  int expert_at(int layer, int coordinate, int slot) const { return expert_at_[layer][coordinate * slots(layer) + slot]; }

 private:
  int axis_ = 1;
  std::vector<std::vector<int>> coordinate_, slot_, expert_at_;
};

// Homes of all blocks: replicated blocks on every rank (canonical: rank 0), expert blocks on the ranks of their expert's coordinate
// (canonical: data coordinate 0).
Layout PlanLayout(const ParameterSet* parameters, const MeshShape& shape, int rank, const ExpertPlacement& placement);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_EXPERT_PLACEMENT_H_
