// What fields of a model's config must be to each other: one list for whoever reads configs and for MakeModel.
#ifndef CONCLAVE_MODELS_MODEL_RULES_H_
#define CONCLAVE_MODELS_MODEL_RULES_H_

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "proto/model.pb.h"

namespace conclave {

struct BrokenRule {
  std::vector<std::string_view> paths;  // the fields it is about, the likeliest to be wrong first: "model.moe_lm.heads"
  std::string message;
};

// Every rule that `config` breaks; its defaults are filled and each field is within its own bounds.
std::vector<BrokenRule> BrokenRules(const ModelConfig& config);

// Token ids of a language model: `wanted`, its field vocab_size, or, where that is 0, the tokenizer's (0: there is none). model: as in
// "model.moe_lm". Errors: InvalidArgument where neither says, or the tokenizer makes more.
absl::StatusOr<int64_t> VocabularyOf(std::string_view model, int64_t wanted, int64_t tokenizer);

}  // namespace conclave

#endif  // CONCLAVE_MODELS_MODEL_RULES_H_
