#include "parallel/dispatch_grid.h"

#include <algorithm>

namespace conclave {

std::vector<std::vector<int>> MembersByNode(const Communicator& group, int64_t ranks_per_node) {
  std::vector<int64_t> names;  // of nodes, in order
  std::vector<std::vector<int>> at;
  for (int c = 0; c < group.size(); ++c) {
    const int64_t name = ranks_per_node > 0 ? c / ranks_per_node : group.Node(c);
    const size_t node = static_cast<size_t>(std::ranges::find(names, name) - names.begin());
    if (node == names.size()) {
      names.push_back(name);
      at.emplace_back();
    }
    at[node].push_back(c);
  }
  return at;
}

std::vector<std::vector<int>> CoordinatesByNode(const Mesh& mesh, int64_t ranks_per_node) {
  return MembersByNode(mesh.dispatch(), ranks_per_node);
}

std::vector<int> NodeOfCoordinates(const Mesh& mesh, int64_t ranks_per_node) {
  const std::vector<std::vector<int>> at = CoordinatesByNode(mesh, ranks_per_node);
  std::vector<int> node_of(mesh.dispatch().size());
  for (size_t n = 0; n < at.size(); ++n) {
    for (const int c : at[n]) node_of[c] = static_cast<int>(n);
  }
  return node_of;
}

absl::StatusOr<std::unique_ptr<DispatchGrid>> DispatchGrid::Create(const Mesh& mesh, int64_t ranks_per_node) {
  Communicator& axis = mesh.dispatch();
  std::unique_ptr<DispatchGrid> grid(new DispatchGrid());
  grid->at_ = CoordinatesByNode(mesh, ranks_per_node);
  grid->node_.resize(axis.size());
  grid->local_.resize(axis.size());
  for (int n = 0; n < grid->nodes(); ++n) {
    for (size_t l = 0; l < grid->at_[n].size(); ++l) {
      grid->node_[grid->at_[n][l]] = n;
      grid->local_[grid->at_[n][l]] = static_cast<int>(l);
    }
  }
  for (int n = 1; n < grid->nodes(); ++n) {
    if (grid->at_[n].size() == grid->at_[0].size()) continue;
    return InvalidArgument(
        "parallel.dispatch.route: an exchange in two levels needs as many ranks of the expert axis on every node, but node 0 has %d of its "
        "%d "
        "ranks and node %d has %d; use DEDUPLICATED or FLAT, or place ranks evenly",
        grid->at_[0].size(), axis.size(), n, grid->at_[n].size());
  }
  const int mine = axis.rank();
  ASSIGN_OR_RETURN(grid->inside_, axis.Split(grid->node_[mine], grid->local_[mine], "dispatch.inside"));
  ASSIGN_OR_RETURN(grid->between_, axis.Split(grid->local_[mine], grid->node_[mine], "dispatch.between"));
  return grid;
}

}  // namespace conclave
