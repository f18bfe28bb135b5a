#include "optim/parameter_groups.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/strings.h"
#include "optim/rules.h"

namespace conclave {
namespace {

// Edits that make `text` occur somewhere inside `name`: an edit distance whose ends in `name` are free.
int EditsToOccur(std::string_view text, std::string_view name) {
  std::vector<int> row(name.size() + 1, 0);
  for (size_t i = 1; i <= text.size(); ++i) {
    int diagonal = std::exchange(row[0], static_cast<int>(i));
    for (size_t j = 1; j <= name.size(); ++j) {
      const int replaced = diagonal + (text[i - 1] == name[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return *std::ranges::min_element(row);
}

// The three block names that the pattern comes closest to, as "a, b, c".
std::string ClosestBlocks(std::string_view pattern, const ParameterSet& parameters) {
  std::string literal(pattern);
  std::erase_if(literal, [](char c) { return c == '*' || c == '?'; });
  std::vector<std::pair<int, int>> by_edits;
  for (int i = 0; i < parameters.size(); ++i) by_edits.push_back({EditsToOccur(literal, parameters[{i}].name), i});
  std::ranges::sort(by_edits);
  std::vector<std::string> names;
  for (size_t i = 0; i < std::min<size_t>(3, by_edits.size()); ++i) names.push_back(parameters[{by_edits[i].second}].name);
  return JoinStrings(names, ", ");
}

}  // namespace

absl::StatusOr<ParameterGroups> ParameterGroups::Make(const ParameterSet& parameters, const RuleConfig& rule, const Configs& groups) {
  ParameterGroups result;
  result.rules_.push_back(rule);
  std::vector<int> group_of(parameters.size(), -1);
  for (int g = 0; g < groups.size(); ++g) {
    int matched = 0, taken = 0;
    for (int i = 0; i < parameters.size(); ++i) {
      if (!GlobMatches(groups[g].pattern(), parameters[{i}].name)) continue;
      ++matched;
      if (group_of[i] < 0) {
        group_of[i] = g;
        ++taken;
      }
    }
    if (matched == 0) {
      return InvalidArgument("optim.groups[%d]: pattern \"%s\" matches none of the model's %d blocks; closest: %s", g, groups[g].pattern(),
                             parameters.size(), ClosestBlocks(groups[g].pattern(), parameters));
    }
    if (taken == 0) {
      return InvalidArgument("optim.groups[%d]: earlier patterns take all %d blocks that \"%s\" matches; move it up or leave it out", g,
                             matched, groups[g].pattern());
    }
  }
  std::vector<int> rule_of(groups.size(), 0);
  for (int g = 0; g < groups.size(); ++g) {
    if (!groups[g].has_rule()) continue;
    rule_of[g] = static_cast<int>(result.rules_.size());
    result.rules_.push_back(groups[g].rule());
  }
  for (int i = 0; i < parameters.size(); ++i) {
    const GroupConfig* group = group_of[i] < 0 ? nullptr : &groups[group_of[i]];
    BlockSettings block;
    block.rule = group ? rule_of[group_of[i]] : 0;
    block.frozen = group && group->frozen();
    if (group && group->has_lr_multiplier()) block.lr_multiplier = group->lr_multiplier();
    if (group && group->has_weight_decay()) {
      block.weight_decay = group->weight_decay();
    } else if (parameters[{i}].shape.dims() >= 2) {
      block.weight_decay = WeightDecayOf(result.rules_[block.rule]);
    }
    result.blocks_.push_back(block);
  }
  return result;
}

}  // namespace conclave
