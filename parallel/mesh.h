// Mesh: named axes over ranks, ranks = data x expert; the expert axis varies fastest.
#ifndef CONCLAVE_PARALLEL_MESH_H_
#define CONCLAVE_PARALLEL_MESH_H_

#include <memory>

#include "base/status.h"
#include "comm/communicator.h"
#include "comm/exchange.h"

namespace conclave {

struct MeshShape {
  int data = 1;
  int expert = 1;
};

// Owns one communicator a traffic class, so that collectives of one class can never be matched with another's. Each rank uses them in one
// order: control at step boundaries; dispatch inside an evaluation; gradient traffic as buckets fill, in the fixed bucket order.
class Mesh {
 public:
  // Collective on `world`, which must outlive the mesh. Errors: the product of the axes is not the number of ranks.
  static absl::StatusOr<std::unique_ptr<Mesh>> Create(Communicator* world, const MeshShape& shape);

  const MeshShape& shape() const { return shape_; }
  int rank() const { return world_->rank(); }
  int ranks() const { return world_->size(); }
  int data_coordinate() const { return rank() / shape_.expert; }
  int expert_coordinate() const { return rank() % shape_.expert; }

  Communicator& control() const { return *world_; }                  // all ranks: decisions, counts, checkpoints
  Communicator& gradient_world() const { return *gradient_world_; }  // all ranks: replicated blocks
  // The two levels of gradient_world, where nodes have equally many consecutive ranks, more than one, and there are several; else null.
  Communicator* gradient_inside() const { return gradient_inside_.get(); }    // ranks of one node
  Communicator* gradient_between() const { return gradient_between_.get(); }  // ranks of equal place in their nodes, by node
  Communicator& gradient_data() const { return *gradient_data_; }             // ranks of equal expert coordinate: expert blocks
  Communicator& dispatch() const { return *dispatch_; }                       // ranks of equal data coordinate: tokens to experts

 private:
  Mesh(Communicator* world, const MeshShape& shape) : world_(world), shape_(shape) {}
  Communicator* world_;
  MeshShape shape_;
  std::unique_ptr<Communicator> gradient_world_, gradient_inside_, gradient_between_, gradient_data_, dispatch_;
};

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_MESH_H_
