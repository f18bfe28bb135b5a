// The update rules by config.
#ifndef CONCLAVE_OPTIM_RULES_H_
#define CONCLAVE_OPTIM_RULES_H_

#include <memory>

#include "base/status.h"
#include "optim/update_rule.h"
#include "proto/optim.pb.h"
#include "tensor/layout.h"

namespace conclave {

// A rule for the local blocks of `layout`, which must outlive it; slots are allocated and zeroed here. dtype: of the parameters, f32 or
// f64. Errors: InvalidArgument when no rule is chosen, or one that cannot move a block of the layout.
absl::StatusOr<std::unique_ptr<UpdateRule>> MakeUpdateRule(const RuleConfig& config, const Layout* layout, DType dtype);

// The decay that the rule's config asks for; 0 when no rule is chosen.
double WeightDecayOf(const RuleConfig& config);

}  // namespace conclave

#endif  // CONCLAVE_OPTIM_RULES_H_
