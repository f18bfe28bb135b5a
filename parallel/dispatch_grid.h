// DispatchGrid: the ranks of the expert axis as nodes of equally many ranks.
#ifndef CONCLAVE_PARALLEL_DISPATCH_GRID_H_
#define CONCLAVE_PARALLEL_DISPATCH_GRID_H_

#include <memory>
#include <vector>

#include "base/status.h"
#include "parallel/mesh.h"
#include "proto/parallel.pb.h"

namespace conclave {

// Members of a group by the node they stand on, nodes in the order of their first member. ranks_per_node 0: as the transport sees them;
// else nodes are so many consecutive members. Not collective.
std::vector<std::vector<int>> MembersByNode(const Communicator& group, int64_t ranks_per_node);

// The same of the coordinates of the expert axis.
std::vector<std::vector<int>> CoordinatesByNode(const Mesh& mesh, int64_t ranks_per_node);

// The node of every coordinate, as a place in that list.
std::vector<int> NodeOfCoordinates(const Mesh& mesh, int64_t ranks_per_node);

// Owns the communicators of the two levels. A coordinate c of the expert axis is rank local(c) of node node(c).
class DispatchGrid {
 public:
  // Nodes as CoordinatesByNode gives them. Collective on mesh.dispatch(). Errors: InvalidArgument where nodes have unequal numbers of ranks
  // of the axis.
  static absl::StatusOr<std::unique_ptr<DispatchGrid>> Create(const Mesh& mesh, int64_t ranks_per_node);

  int nodes() const { return static_cast<int>(at_.size()); }
  int ranks_per_node() const { return static_cast<int>(at_[0].size()); }
  int node(int coordinate) const { return node_[coordinate]; }
  int local(int coordinate) const { return local_[coordinate]; }
  int at(int node, int local) const { return at_[node][local]; }

  Communicator& inside() const { return *inside_; }    // ranks of one node, by local number
  Communicator& between() const { return *between_; }  // ranks of equal local number, by node

 private:
  DispatchGrid() = default;
  std::vector<int> node_, local_;
  std::vector<std::vector<int>> at_;
  std::unique_ptr<Communicator> inside_, between_;
};

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_DISPATCH_GRID_H_
