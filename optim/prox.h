// Prox: h of a variational inequality, by its proximal map.
#ifndef CONCLAVE_OPTIM_PROX_H_
#define CONCLAVE_OPTIM_PROX_H_

#include <memory>

#include "base/status.h"
#include "proto/optim.pb.h"
#include "tensor/layout.h"

namespace conclave {

// h is a sum over blocks, and a block is never cut: every rank moves the blocks that it holds, and no communication is needed. Replicas
// stay equal bit by bit, for every map adds in the order of the coordinates.
class Prox {
 public:
  virtual ~Prox() = default;
  // v <- argmin_u gamma h(u) + ||u - v||^2 / 2, in place on the local blocks. A point that is not finite gives one that is not.
  void Apply(const FlatVector& v, double gamma) const;
  // The same on one block. Cost: one pass; the l1 ball and the simplex a few.
  virtual void ApplyToBlock(BlockId id, const Tensor& block, double gamma) const = 0;
  virtual bool is_zero() const { return false; }  // h = 0: Apply is the identity, bit by bit
};

// Unset means zero. parameters: what the patterns of a product are matched with; not kept. Errors: InvalidArgument for a negative weight,
// an empty set, a pattern that matches no block, or a product within a product.
absl::StatusOr<std::unique_ptr<Prox>> MakeProx(const ProxConfig& config, const ParameterSet& parameters);

}  // namespace conclave

#endif  // CONCLAVE_OPTIM_PROX_H_
