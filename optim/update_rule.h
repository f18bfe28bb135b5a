// UpdateRule: moves owned parameters with an aggregate. No communication.
#ifndef CONCLAVE_OPTIM_UPDATE_RULE_H_
#define CONCLAVE_OPTIM_UPDATE_RULE_H_

#include <memory>

#include "tensor/layout.h"
#include "tensor/state_dict.h"

namespace conclave {

// What one block is told at one step.
struct RuleArgs {
  double learning_rate = 0;   // schedule and the group's multiplier applied
  double weight_decay = 0;    // the group's
  double gradient_scale = 1;  // clip factor; enters as gradient * scale
  int64_t t = 1;              // accepted updates so far, this one included
};

class UpdateRule {
 public:
  virtual ~UpdateRule() = default;
  // value, gradient: the whole block (same shape, same dtype). In place; slots of the block are updated too. No allocation.
  virtual void Apply(BlockId block, const Tensor& value, const Tensor& gradient, const RuleArgs& args) = 0;
  virtual void Register(StateDict& state) = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_OPTIM_UPDATE_RULE_H_
