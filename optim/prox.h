// Prox: h of a variational inequality, by its proximal map.
#ifndef CONCLAVE_OPTIM_PROX_H_
#define CONCLAVE_OPTIM_PROX_H_

#include <memory>

#include "base/status.h"
#include "proto/optim.pb.h"
#include "tensor/layout.h"

namespace conclave {

// Separable over coordinates, so every rank moves what it holds and no communication is needed.
class Prox {
 public:
  virtual ~Prox() = default;
  // v <- argmin_u gamma h(u) + ||u - v||^2 / 2, in place on the local blocks.
  virtual void Apply(const FlatVector& v, double gamma) const = 0;
  virtual bool is_zero() const { return false; }  // h = 0: Apply is the identity, bit by bit
};

// Unset means zero. Errors: InvalidArgument for a negative weight or an empty box.
absl::StatusOr<std::unique_ptr<Prox>> MakeProx(const ProxConfig& config);

}  // namespace conclave

#endif  // CONCLAVE_OPTIM_PROX_H_
