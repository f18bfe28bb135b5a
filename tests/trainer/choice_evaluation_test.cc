#include "trainer/choice_evaluation.h"

#include <unistd.h>

#include <cmath>

#include <gtest/gtest.h>

#include "comm/loopback.h"
#include "tests/trainer/config_fixture.h"

namespace conclave {
namespace {

constexpr char kChoiceRun[] = R"(name: "lm"
trainer { steps: 0 workers: 3 global_batch: 3 }
optim { first_order { lr: 0.01 rule { sgd {} } } }
data { sources { text { path: "text.txt" } } tokenizer { bytes {} } }
model { moe_lm { layers: 1 width: 8 heads: 2 context: 8 init_std: 0.8 moe { experts: 6 } } }
)";

std::vector<ChoiceQuestion> RandomQuestions() {
  const RngKey key{.seed = 3, .kind = RngKind::kTest};
  std::vector<ChoiceQuestion> questions(11);
  uint64_t n = 0;
  for (ChoiceQuestion& q : questions) {
    q.context.resize(key.Below(12, n++));  // some do not fit
    for (int32_t& t : q.context) t = static_cast<int32_t>(key.Below(257, n++));
    q.completions.resize(2 + key.Below(3, n++));
    for (auto& completion : q.completions) {
      completion.resize(1 + key.Below(4, n++));
      for (int32_t& t : completion) t = static_cast<int32_t>(key.Below(257, n++));
    }
    q.label = static_cast<int>(key.Below(q.completions.size(), n++));
  }
  return questions;
}

// Losses of one completion by hand: the whole sequence alone, its last tokens scored.
std::pair<double, double> SumAndMean(Assembly& a, const ChoiceQuestion& q, size_t completion) {
  std::vector<int32_t> ids = q.context;
  ids.insert(ids.end(), q.completions[completion].begin(), q.completions[completion].end());
  if (ids.size() > 9) ids.erase(ids.begin(), ids.end() - 9);
  const int64_t scored = std::min<int64_t>(q.completions[completion].size(), ids.size() - 1);
  if (scored == 0) return {0, 0};
  Arena arena;
  Tape tape(&arena, /*gradients=*/false);
  Recorder recorder({.tape = &tape, .model = a.model.get(), .dispatch = &*a.dispatch});
  Batch batch;
  batch.sequences = 1;
  batch.tokens = Tensor(ids.data(), {1, static_cast<int64_t>(ids.size()) - 1}, DType::kI32);
  recorder.Begin(&a.scheme->point(), &batch, true);
  const Var logits = *a.model->Logits(recorder);
  std::vector<int32_t> targets(ids.begin() + 1, ids.end());
  std::fill(targets.begin(), targets.end() - scored, kIgnoredTarget);
  const double sum =
      *tape.value(CrossEntropy(tape, logits, Tensor(targets.data(), {static_cast<int64_t>(targets.size())}, DType::kI32))).data<double>();
  return {sum, sum / static_cast<double>(scored)};
}

TEST(ChoiceEvaluation, TakesTheLikeliestCompletionOnAnyNumberOfRanks) {
  const FileSystem& files = RealFileSystem();
  const std::string folder = JoinPath(testing::TempDir(), absl::StrFormat("choices-%d", getpid()));
  ASSERT_TRUE(files.CreateDirs(folder).ok());
  std::string text;
  for (int i = 0; i < 60; ++i) text += absl::StrFormat("line %d\n", i);
  ASSERT_TRUE(files.WriteAtomically(JoinPath(folder, "text.txt"), text).ok());
  const std::vector<ChoiceQuestion> questions = RandomQuestions();
  ChoiceScore want{.questions = 11};
  for (const int ranks : {1, 2, 3}) {
    const absl::StatusOr<LoadedConfig> loaded =
        LoadText(kChoiceRun, {absl::StrFormat("parallel.expert=%d", ranks), "data.cache_dir=\"" + folder + "/cache\"",
                              "data.sources[0].text.path=\"" + folder + "/text.txt\""});
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    const absl::Status status = RunRanks(ranks, [&](Communicator& world) -> absl::Status {
      Assembly a;
      RETURN_IF_ERROR(Assemble(loaded->config, world, files, &a));
      for (size_t i = 0; ranks == 1 && i < questions.size(); ++i) {
        const ChoiceQuestion& q = questions[i];
        size_t by_sum = 0, by_mean = 0;
        std::vector<std::pair<double, double>> losses;
        for (size_t c = 0; c < q.completions.size(); ++c) {
          losses.push_back(SumAndMean(a, q, c));
          if (losses[c].first < losses[by_sum].first) by_sum = c;
          if (losses[c].second < losses[by_mean].second) by_mean = c;
        }
        want.right_by_sum += static_cast<int>(by_sum) == q.label;
        want.right_by_mean += static_cast<int>(by_mean) == q.label;
      }
      ASSIGN_OR_RETURN(const ChoiceScore got, EvaluateChoices(a, questions));
      EXPECT_EQ(got.questions, 11);
      EXPECT_EQ(got.right_by_mean, want.right_by_mean) << ranks;
      EXPECT_EQ(got.right_by_sum, want.right_by_sum) << ranks;
      EXPECT_GT(got.cut, 0);
      std::vector<ChoiceQuestion> unknown = questions;
      unknown[4].completions[0][0] = 300;
      EXPECT_EQ(EvaluateChoices(a, unknown).status().code(), absl::StatusCode::kInvalidArgument);
      return absl::OkStatus();
    });
    EXPECT_TRUE(status.ok()) << status;
  }
  // Experts that see all completions together would score one by the others' lengths.
  const absl::StatusOr<LoadedConfig> crowded =
      LoadText(kChoiceRun, {"model.moe_lm.moe.capacity.factor=1", "data.cache_dir=\"" + folder + "/cache\"",
                            "data.sources[0].text.path=\"" + folder + "/text.txt\""});
  ASSERT_TRUE(crowded.ok()) << crowded.status();
  const absl::Status refused = RunRanks(1, [&](Communicator& world) -> absl::Status {
    Assembly a;
    RETURN_IF_ERROR(Assemble(crowded->config, world, files, &a));
    return EvaluateChoices(a, questions).status();
  });
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
  EXPECT_TRUE(files.RemoveTree(folder).ok());
}

}  // namespace
}  // namespace conclave
