// ParameterGroups: what a config says about blocks by name pattern: decay, learning-rate multiplier, frozen, rule.
#ifndef CONCLAVE_OPTIM_PARAMETER_GROUPS_H_
#define CONCLAVE_OPTIM_PARAMETER_GROUPS_H_

#include <string_view>
#include <vector>

#include "base/glob.h"
#include "base/status.h"
#include "proto/optim.pb.h"
#include "tensor/parameter_set.h"

namespace conclave {

struct BlockSettings {
  double weight_decay = 0;
  double lr_multiplier = 1;
  bool frozen = false;
  int rule = 0;  // index into rules()
};

// Settings of every block. Of several patterns that match a name the first wins. Decay of a block: the group's weight_decay where it is
// set; else 0 for blocks of fewer than 2 dims (gains, biases); else the weight_decay of its rule.
class ParameterGroups {
 public:
  using Configs = google::protobuf::RepeatedPtrField<GroupConfig>;

  // rule: the scheme's. Errors: InvalidArgument for a pattern that matches no block, or none that an earlier pattern has left, with the
  // closest names.
  static absl::StatusOr<ParameterGroups> Make(const ParameterSet& parameters, const RuleConfig& rule, const Configs& groups);

  const BlockSettings& operator[](BlockId id) const { return blocks_[id.value]; }
  const std::vector<RuleConfig>& rules() const { return rules_; }  // [0]: the scheme's; then those of groups that have their own

 private:
  std::vector<BlockSettings> blocks_;
  std::vector<RuleConfig> rules_;
};

}  // namespace conclave

#endif  // CONCLAVE_OPTIM_PARAMETER_GROUPS_H_
