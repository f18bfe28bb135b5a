#include "parallel/mesh.h"

namespace conclave {
namespace {

// Ranks of a node, where all have the same number of consecutive ones and several nodes more than one; else 0. The same on every rank.
int RanksOfEveryNode(const Communicator& world) {
  const int ranks = world.size();
  int each = 1;
  while (each < ranks && world.Node(each) == world.Node(0)) ++each;
  if (each == 1 || each == ranks || ranks % each != 0) return 0;
  for (int r = 1; r < ranks; ++r) {
    if ((world.Node(r) == world.Node(r - 1)) == (r % each == 0)) return 0;
    for (int before = 0; r % each == 0 && before < r; before += each) {
      if (world.Node(before) == world.Node(r)) return 0;
    }
  }
  return each;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Mesh>> Mesh::Create(Communicator* world, const MeshShape& shape) {
  if (shape.data < 1 || shape.expert < 1 || int64_t{shape.data} * shape.expert != world->size()) {
    return InvalidArgument(
        "mesh: data %d x expert %d = %d ranks, but the job has %d; start %d ranks or change parallel.data / parallel.expert", shape.data,
        shape.expert, int64_t{shape.data} * shape.expert, world->size(), int64_t{shape.data} * shape.expert);
  }
  std::unique_ptr<Mesh> mesh(new Mesh(world, shape));
  const int rank = world->rank();
  ASSIGN_OR_RETURN(mesh->gradient_world_, world->Split(0, rank, "gradient.world"));
  if (const int each = RanksOfEveryNode(*world); each > 0) {
    ASSIGN_OR_RETURN(mesh->gradient_inside_, world->Split(rank / each, rank, "gradient.inside"));
    ASSIGN_OR_RETURN(mesh->gradient_between_, world->Split(rank % each, rank, "gradient.between"));
  }
  ASSIGN_OR_RETURN(mesh->gradient_data_, world->Split(mesh->expert_coordinate(), rank, "gradient.data"));
  ASSIGN_OR_RETURN(mesh->dispatch_, world->Split(mesh->data_coordinate(), rank, "dispatch"));
  return mesh;
}

}  // namespace conclave
