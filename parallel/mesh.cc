#include "parallel/mesh.h"

namespace conclave {

absl::StatusOr<std::unique_ptr<Mesh>> Mesh::Create(Communicator* world, const MeshShape& shape) {
  if (shape.data < 1 || shape.expert < 1 || int64_t{shape.data} * shape.expert != world->size()) {
    return InvalidArgument(
        "mesh: data %d x expert %d = %d ranks, but the job has %d; start %d ranks or change parallel.data / parallel.expert", shape.data,
        shape.expert, int64_t{shape.data} * shape.expert, world->size(), int64_t{shape.data} * shape.expert);
  }
  std::unique_ptr<Mesh> mesh(new Mesh(world, shape));
  const int rank = world->rank();
  ASSIGN_OR_RETURN(mesh->gradient_world_, world->Split(0, rank, "gradient.world"));
  ASSIGN_OR_RETURN(mesh->gradient_data_, world->Split(mesh->expert_coordinate(), rank, "gradient.data"));
  ASSIGN_OR_RETURN(mesh->dispatch_, world->Split(mesh->data_coordinate(), rank, "dispatch"));
  return mesh;
}

}  // namespace conclave
