// The runs that the laws of training are stated about.
#ifndef CONCLAVE_TESTS_TRAINER_LAWS_H_
#define CONCLAVE_TESTS_TRAINER_LAWS_H_

#include <string>
#include <utility>
#include <vector>

#include "tests/trainer/model_run.h"

namespace conclave {

// A small mixture language model with unequal leaves. More text, such as "parallel { numerics: WORLD_SIZE_INVARIANT }", goes to `more`.
inline ModelRun SmallMixture(const std::string& more, const std::string& model_fields = "") {
  const std::string config = R"(name: "laws"
    seed: 3
    trainer { workers: 8 global_batch: 16 }
    optim { first_order { lr: 0.01 rule { adamw {} } } clip_norm: 0.5 }
    model { moe_lm { vocab_size: 16 layers: 2 width: 16 heads: 2 context: 8 moe { experts: 8 hidden: 12 } )" +
                             model_fields + "} }\n" + more;
  return {.config = config, .source = [] { return std::make_unique<RandomTokens>(RandomTokens::Options{.ragged = true}); }};
}

// Every data x expert split of `ranks` ranks whose expert axis divides `experts`.
inline std::vector<std::pair<int, int>> Splits(int ranks, int experts) {
  std::vector<std::pair<int, int>> splits;
  for (int expert = 1; expert <= ranks; ++expert) {
    if (ranks % expert == 0 && experts % expert == 0) splits.emplace_back(ranks / expert, expert);
  }
  return splits;
}

inline std::string NameOfSplit(std::pair<int, int> split) { return absl::StrFormat("data %d x expert %d", split.first, split.second); }

}  // namespace conclave

#endif  // CONCLAVE_TESTS_TRAINER_LAWS_H_
