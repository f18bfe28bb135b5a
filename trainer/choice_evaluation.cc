#include "trainer/choice_evaluation.h"

#include <algorithm>
#include <cmath>

namespace conclave {
namespace {

// One completion after as much of its context as fits: ids, and how many of the last are the completion's.
struct ChoiceSequence {
  std::vector<int32_t> ids;
  int64_t scored = 0;
};

ChoiceSequence MakeSequence(const ChoiceQuestion& question, size_t completion, int64_t context) {
  ChoiceSequence sequence;
  sequence.ids = question.context;
  const std::vector<int32_t>& tokens = question.completions[completion];
  sequence.ids.insert(sequence.ids.end(), tokens.begin(), tokens.end());
  const int64_t excess = static_cast<int64_t>(sequence.ids.size()) - (context + 1);  // the last token is only a target
  if (excess > 0) sequence.ids.erase(sequence.ids.begin(), sequence.ids.begin() + excess);
  sequence.scored = std::min(static_cast<int64_t>(tokens.size()), static_cast<int64_t>(sequence.ids.size()) - 1);
  return sequence;
}

// -log softmax(row)[target].
template <typename T>
double TokenLoss(const T* row, int64_t vocabulary, int32_t target) {
  const double most = *std::max_element(row, row + vocabulary);
  double sum = 0;
  for (int64_t v = 0; v < vocabulary; ++v) sum += std::exp(static_cast<double>(row[v]) - most);
  return most + std::log(sum) - static_cast<double>(row[target]);
}

class ChoiceEvaluator {
 public:
  explicit ChoiceEvaluator(Assembly& assembly)
      : a_(assembly),
        tape_(&arena_, /*gradients=*/false),
        recorder_({.tape = &tape_,
                   .model = a_.model.get(),
                   .dispatch = &*a_.dispatch,
                   .precision = PrecisionOf(a_.config.model()),
                   .buffers = &a_.field->buffers()}) {}

  // Null: this rank takes part with no rows. Losses by completion.
  absl::Status Run(const ChoiceQuestion* question, std::vector<double>* sums, std::vector<double>* means);

 private:
  Assembly& a_;
  Arena arena_;
  Tape tape_;
  Recorder recorder_;
};

absl::Status ChoiceEvaluator::Run(const ChoiceQuestion* question, std::vector<double>* sums, std::vector<double>* means) {
  std::vector<ChoiceSequence> sequences;
  int64_t length = 1;
  for (size_t i = 0; question != nullptr && i < question->completions.size(); ++i) {
    sequences.push_back(MakeSequence(*question, i, a_.model->context()));
    length = std::max(length, static_cast<int64_t>(sequences.back().ids.size()) - 1);
  }
  // Behind the end of the shorter ones stands token 0: what comes later changes nothing before it.
  std::vector<int32_t> ids(sequences.size() * length, 0);
  for (size_t s = 0; s < sequences.size(); ++s) {
    std::copy(sequences[s].ids.begin(), sequences[s].ids.end() - 1, ids.begin() + static_cast<int64_t>(s) * length);
  }
  tape_.Reset();
  arena_.Reset();
  Batch batch;
  batch.sequences = static_cast<int64_t>(sequences.size());
  batch.tokens = Tensor(ids.data(), {batch.sequences, length}, DType::kI32);
  recorder_.BeginEvaluation();
  recorder_.Begin(&a_.scheme->point(), &batch, question != nullptr);
  ASSIGN_OR_RETURN(const Var logits, a_.model->Logits(recorder_));
  RETURN_IF_ERROR(recorder_.poison());
  const Tensor value = tape_.value(logits);
  sums->assign(sequences.size(), 0.0);
  means->assign(sequences.size(), 0.0);
  for (size_t s = 0; s < sequences.size(); ++s) {
    const ChoiceSequence& sequence = sequences[s];
    const int64_t size = static_cast<int64_t>(sequence.ids.size());
    for (int64_t i = size - sequence.scored; i < size; ++i) {
      (*sums)[s] += DispatchFloat(value.dtype(), [&](auto t) {
        const auto* row = value.data<decltype(t)>() + (static_cast<int64_t>(s) * length + i - 1) * value.dim(1);
        return TokenLoss(row, value.dim(1), sequence.ids[i]);
      });
    }
    (*means)[s] = (*sums)[s] / static_cast<double>(std::max<int64_t>(sequence.scored, 1));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ChoiceScore> EvaluateChoices(Assembly& a, std::span<const ChoiceQuestion> questions) {
  const int64_t context = a.model->context(), vocabulary = a.model->vocabulary();
  if (context == 0) return FailedPrecondition("multiple choice: the run's model is no language model");
  if (a.model->cache_shape().layers == 0) {
    return FailedPrecondition(
        "multiple choice: experts with a capacity, or that choose tokens, see those of all completions together, and a score would depend "
        "on "
        "what the others are; evaluate the held-out loss instead");
  }
  ChoiceScore score{.questions = static_cast<int64_t>(questions.size())};
  for (const ChoiceQuestion& question : questions) {
    int64_t longest = 0;
    const auto check = [&](const std::vector<int32_t>& tokens) {
      return std::ranges::all_of(tokens, [&](int32_t t) { return t < vocabulary; });
    };
    bool known = check(question.context);
    for (const auto& completion : question.completions) {
      known = known && check(completion);
      longest = std::max(longest, static_cast<int64_t>(question.context.size() + completion.size()));
    }
    if (!known)
      return InvalidArgument("multiple choice: a question has a token beyond the model's %d; it was made for another tokenizer",
                             vocabulary);
    score.cut += longest > context + 1;
  }
  ChoiceEvaluator evaluator(a);
  const int64_t ranks = a.mesh->ranks(), rank = a.mesh->rank();
  int64_t right[2] = {0, 0};
  for (int64_t turn = 0; turn * ranks < score.questions; ++turn) {
    const int64_t index = turn * ranks + rank;
    const ChoiceQuestion* question = index < score.questions ? &questions[index] : nullptr;
    std::vector<double> sums, means;
    RETURN_IF_ERROR(evaluator.Run(question, &sums, &means));
    if (question == nullptr) continue;
    right[0] += std::ranges::min_element(means) - means.begin() == question->label;
    right[1] += std::ranges::min_element(sums) - sums.begin() == question->label;
  }
  RETURN_IF_ERROR(a.mesh->control().AllReduce("multiple choice", Tensor(right, {2}, DType::kI64), ReduceOp::kSum));
  score.right_by_mean = right[0], score.right_by_sum = right[1];
  return score;
}

}  // namespace conclave
