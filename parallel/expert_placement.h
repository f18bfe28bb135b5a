// ExpertPlacement: the logical -> physical table of the experts, and the layout that follows from it.
#ifndef CONCLAVE_PARALLEL_EXPERT_PLACEMENT_H_
#define CONCLAVE_PARALLEL_EXPERT_PLACEMENT_H_

#include <span>
#include <vector>

#include "base/status.h"
#include "parallel/mesh.h"
#include "tensor/layout.h"

namespace conclave {

// Other coordinates that hold a copy of an expert, ascending: of [layer][expert]. Empty: nothing is copied.
using ExpertCopyTable = std::vector<std::vector<std::vector<int>>>;

// Who has what: the coordinate that owns expert [layer][expert], and those with copies of it.
struct ExpertTables {
  std::vector<std::vector<int>> owners;
  ExpertCopyTable copies = {};
  bool operator==(const ExpertTables&) const = default;
};

// The part of an expert's rows that go to every coordinate if all send alike, over many turns: [axis]. hosts: ascending; node_of:
// [axis], empty: one node.
std::vector<double> HostShares(std::span<const int> hosts, int axis, std::span<const int> node_of);

// For every MoE layer: which coordinate of the expert axis owns an expert, which others hold copies of its weights, and in which local slot
// it is. Every coordinate owns equally many experts of a layer. Slots are 0 .. held(layer, coordinate) - 1: the owned ones ascending with
// the logical id, then the copies likewise.
class ExpertPlacement {
 public:
  struct Place {
    int coordinate = 0, slot = 0;
  };
  // experts[layer] experts each in contiguous runs. Errors: experts not divisible by the axis.
  static absl::StatusOr<ExpertPlacement> Contiguous(std::span<const int> experts, int axis);
  // node_of: [axis], any names; empty: all on one. Errors: an unbalanced layer, a coordinate out of range, a copy where the expert is.
  static absl::StatusOr<ExpertPlacement> FromTables(ExpertTables tables, int axis, std::span<const int> node_of = {});
  static absl::StatusOr<ExpertPlacement> FromTable(std::vector<std::vector<int>> owners, int axis) {
    return FromTables({.owners = std::move(owners)}, axis);
  }

  int axis() const { return axis_; }
  int layers() const { return static_cast<int>(tables_.owners.size()); }
  int experts(int layer) const { return static_cast<int>(tables_.owners[layer].size()); }
  const ExpertTables& tables() const { return tables_; }
  bool has_copies() const { return !tables_.copies.empty(); }
  std::span<const int> copies(int layer, int expert) const {
    return has_copies() ? std::span<const int>(tables_.copies[layer][expert]) : std::span<const int>();
  }

  int coordinate(int layer, int expert) const { return tables_.owners[layer][expert]; }
  int slot(int layer, int expert) const { return owner_[layer][expert].slot; }  // at the owner
  int held(int layer, int coordinate) const { return static_cast<int>(held_[layer][coordinate].size()); }
  int slots(int layer) const { return slots_[layer]; }  // the most a coordinate holds
  int expert_at(int layer, int coordinate, int slot) const { return held_[layer][coordinate][slot]; }

  // Where the tokens of a leaf at coordinate `source` find an expert: there, if it is; else on the source's node, else anywhere. Sources
  // that have the same choice share it out evenly in every turn, and go on to the next with every turn; experts begin at different ones. So
  // all rows of one (expert, leaf) go to one rank, and the rows that hosts get are their Shares however few leaves there are. turn: the
  // same for leaves that run together; -1: the owner.
  Place PlaceOf(int layer, int expert, int source, int64_t turn) const;
  std::vector<int> Hosts(int layer, int expert) const;  // the owner and all copies, ascending
  // The part of an expert's rows that each coordinate gets: see HostShares.
  std::vector<double> Shares(int layer, int expert) const { return HostShares(Hosts(layer, expert), axis_, node_of_); }

 private:
  int SlotAt(int layer, int expert, int coordinate) const;

  int axis_ = 1;
  ExpertTables tables_;
  std::vector<int> node_of_, slots_;
  std::vector<std::vector<std::vector<int>>> held_;  // [layer][coordinate]: experts by slot
  std::vector<std::vector<Place>> owner_;            // [layer][expert]
  // [layer][expert][source]: where its tokens may go, in turn; empty where nothing is copied.
  std::vector<std::vector<std::vector<std::vector<Place>>>> choices_;
};

// Homes of all blocks: replicated blocks on every rank (canonical: rank 0), expert blocks on the ranks of their expert's coordinate
// (canonical: data coordinate 0).
Layout PlanLayout(const ParameterSet* parameters, const MeshShape& shape, int rank, const ExpertPlacement& placement);
// Storage for this rank's copies of expert blocks and nothing else.
Layout PlanCopies(const ParameterSet* parameters, const MeshShape& shape, int rank, const ExpertPlacement& placement);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_EXPERT_PLACEMENT_H_
