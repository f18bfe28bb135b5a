// Muon trains the matrices of a mixture, and another rule what is none.
#include <gtest/gtest.h>

#include "tests/trainer/laws.h"

namespace conclave {
namespace {

// Sixteen windows, over and over.
class FewTokens : public RandomTokens {
 public:
  FewTokens() : RandomTokens({}) {}
  int64_t size() const override { return 16; }
};

double LossAfter(const std::string& hidden, int64_t steps) {
  ModelRun run = SmallMixture(
      "optim { groups { pattern: '*norm*' } groups { pattern: 'embedding.*' } groups { pattern: 'positions.*' }"
      " groups { pattern: '*' " +
      hidden + " } }");
  run.source = [] { return std::make_unique<FewTokens>(); };
  run.steps = steps;
  const auto outcome = RunModel(run);
  EXPECT_TRUE(outcome.ok()) << outcome.status();
  return outcome.ok() ? outcome->reports.back().evaluation.terms[0].value : 0;
}

// The rest of the model has AdamW at 0.01 in all three; what is compared is the rule of the hidden matrices.
TEST(MuonTraining, LearnsByHeartFasterThanWithFrozenMatrices) {
  const double start = LossAfter("frozen: true", 1), frozen = LossAfter("frozen: true", 60);
  const double muon = LossAfter("lr_multiplier: 2 rule { muon {} }", 60);
  EXPECT_LT(muon, 0.6 * start);
  EXPECT_LT(muon, 0.9 * frozen);
}

}  // namespace
}  // namespace conclave
