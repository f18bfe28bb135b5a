#include "parallel/dispatch_grid.h"

#include <algorithm>

namespace conclave {

absl::StatusOr<std::unique_ptr<DispatchGrid>> DispatchGrid::Create(const Mesh& mesh, int64_t ranks_per_node) {
  Communicator& axis = mesh.dispatch();
  std::unique_ptr<DispatchGrid> grid(new DispatchGrid());
  std::vector<int64_t> names;  // of nodes, in order
  for (int c = 0; c < axis.size(); ++c) {
    const int64_t name = ranks_per_node > 0 ? c / ranks_per_node : axis.Node(c);
    const int node = static_cast<int>(std::ranges::find(names, name) - names.begin());
    if (node == static_cast<int>(names.size())) {
      names.push_back(name);
      grid->at_.emplace_back();
    }
    grid->node_.push_back(node);
    grid->local_.push_back(static_cast<int>(grid->at_[node].size()));
    grid->at_[node].push_back(c);
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
