// How often a language model finds the likeliest completion where people do.
#ifndef CONCLAVE_TRAINER_CHOICE_EVALUATION_H_
#define CONCLAVE_TRAINER_CHOICE_EVALUATION_H_

#include <span>

#include "data/choice_file.h"
#include "trainer/assembly.h"

namespace conclave {

struct ChoiceScore {
  int64_t questions = 0;
  int64_t right_by_mean = 0;  // the completion of least loss a token (llm.c's measure)
  int64_t right_by_sum = 0;   // of least loss in all
  int64_t cut = 0;            // questions whose beginning did not fit into the context and was left out
};

// Questions are dealt out over the ranks. Equal losses: the earlier completion. Collective; the same on every rank, whatever their number.
// Errors: FailedPrecondition where the model is no language model, or one whose tokens change each other's experts (their score would hang
// on what fills up shorter completions); InvalidArgument for tokens that it does not have.
absl::StatusOr<ChoiceScore> EvaluateChoices(Assembly& assembly, std::span<const ChoiceQuestion> questions);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_CHOICE_EVALUATION_H_
