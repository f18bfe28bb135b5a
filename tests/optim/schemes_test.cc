// Conformance of every scheme: what the proto's `scheme` can name is played here, on a strongly monotone and on a bilinear game.
#include "optim/schemes.h"

#include <cmath>
#include <ostream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/optim/test_operators.h"

namespace conclave {
namespace {

struct SchemeCase {
  std::string name;             // of the test
  std::string config;           // begins with the member's name
  bool solves_bilinear;         // else it must diverge there
  int steps;                    // on the strongly monotone game
  double tolerance;             // of the distance then, relative to the start's
  bool keeps_solutions = true;  // started at z* it stays, up to rounding; else it moves by steps of constant length
  double bilinear_tolerance = 1e-6;
  uint64_t seed = 11;     // where workers are drawn: one for which the poisoned worker takes part
  double coupling = 0.1;  // 0 where workers have points of their own: this game evaluates experts at their owner's

  friend void PrintTo(const SchemeCase& c, std::ostream* out) { *out << c.config; }
};

std::vector<SchemeCase> Cases() {
  return {
      {"Sgd", "first_order { lr: 0.3 rule { sgd {} } }", false, 200, 1e-8},
      {"SgdMomentum", "first_order { lr: 0.1 rule { sgd { momentum: 0.5 } } }", false, 250, 1e-3},
      // Normalised steps of constant length: near the solution, not at it.
      {"AdamW", "first_order { lr: 0.01 rule { adamw { weight_decay: 0 } } }", false, 500, 0.1, false},
      // One local step by SGD is SGD; with more, workers that differ pull apart in between.
      {"DilocoOneLocalStep", "diloco { lr: 0.3 local_steps: 1 outer_lr: 1 outer_momentum: 0 rule { sgd {} } }", false, 200, 1e-8, true,
       1e-6, 11, 0},
      {"DilocoTwoLocalSteps", "diloco { lr: 0.1 local_steps: 2 outer_lr: 0.7 outer_momentum: 0.5 rule { sgd {} } }", false, 500, 0.1, false,
       1e-6, 11, 0},
      {"DilocoAdamW", "diloco { lr: 0.01 local_steps: 2 outer_lr: 1 outer_momentum: 0 rule { adamw { weight_decay: 0 } } }", false, 500,
       0.3, false, 1e-6, 11, 0},
      // Descent steps that meet at random. Away from z* the controls must be learnt again, so a start at z* is left.
      {"ProxSkip", "proxskip { gamma: 0.2 p: 0.4 }", false, 400, 1e-8, false, 1e-6, 11, 0},
      {"ProxSkipPeriodic", "proxskip { gamma: 0.2 p: 0.5 meetings: PERIODIC }", false, 400, 1e-8, false, 1e-6, 11, 0},
      {"ProxSkipWithoutControl", "proxskip { gamma: 0.1 p: 0.5 meetings: PERIODIC control: false }", false, 400, 0.1, false, 1e-6, 11, 0},
      {"ProxSkipEveryStep", "proxskip { gamma: 0.3 p: 1 }", false, 200, 1e-8, true, 1e-6, 11, 0},
      // Even one step alone looks ahead along the worker's own field, and workers differ.
      {"LocalExtragradientOneStep", "local_extragradient { gamma: 0.2 local_steps: 1 }", true, 300, 0.1, false, 0.3, 11, 0},
      {"LocalExtragradientTwoSteps", "local_extragradient { gamma: 0.2 local_steps: 2 }", true, 300, 0.1, false, 0.3, 11, 0},
      {"Extragradient", "extragradient { gamma: 0.5 }", true, 150, 1e-8},
      {"ExtragradientIdentity", "extragradient { gamma: 0.5 exchange { quantized { codec { identity {} } } } }", true, 150, 1e-8},
      {"Gda", "gda { gamma: 0.3 }", false, 200, 1e-8},
      {"Ogda", "ogda { gamma: 0.4 }", true, 150, 1e-8},
      {"OgdaIdentity", "ogda { gamma: 0.4 exchange { quantized { codec { identity {} } } } }", true, 150, 1e-8},
      {"PastExtragradient", "past_extragradient { gamma: 0.4 }", true, 150, 1e-8},
      {"Fbf", "fbf { gamma: 0.5 }", true, 150, 1e-8},
      {"ReflectedGradient", "reflected_gradient { gamma: 0.4 }", true, 150, 1e-8},
      // The distance falls as 1 / k.
      {"Anchored", "anchored { gamma: 0.4 }", true, 300, 0.02, true, 0.01},
      {"Masha1Exact", "masha1 { gamma: 0.4 p: 0.5 exchange { exact {} } }", true, 200, 1e-8},
      {"Masha1RandK", "masha1 { gamma: 0.25 p: 0.5 exchange { quantized { codec { rand_k { fraction: 0.5 } } } } }", true, 350, 1e-8},
      {"Masha1ThreeOfFour", "masha1 { gamma: 0.25 p: 0.5 participants: 3 exchange { quantized { codec { rand_k { fraction: 0.5 } } } } }",
       true, 400, 1e-8, true, 1e-6, 13},
      {"Masha1VarianceReduced",
       "masha1 { gamma: 0.25 p: 0.5 variance_reduced: true exchange { quantized { codec { rand_k { fraction: 0.5 } } } } }", true, 350,
       1e-8},
      {"Masha2VarianceReduced",
       "masha2 { gamma: 0.3 p: 0.5 variance_reduced: true exchange { ef14 { codec { top_k { fraction: 0.5 } } } } }", true, 350, 1e-8},
      {"Masha2Exact", "masha2 { gamma: 0.4 p: 0.5 exchange { exact {} } }", true, 200, 1e-8},
      {"Masha2TopK", "masha2 { gamma: 0.3 p: 0.5 exchange { ef14 { codec { top_k { fraction: 0.5 } } } } }", true, 350, 1e-8},
      {"Masha2PreviousReference",
       "masha2 { gamma: 0.3 p: 0.5 reference: PREVIOUS exchange { ef14 { codec { top_k { fraction: 0.5 } } } } }", true, 350, 1e-8},
      {"OptimisticMashaExact", "optimistic_masha { gamma: 0.3 p: 0.5 exchange { exact {} } }", true, 250, 1e-8},
      {"OptimisticMashaRandK", "optimistic_masha { gamma: 0.25 p: 0.5 exchange { quantized { codec { rand_k { fraction: 0.5 } } } } }",
       true, 400, 1e-8},
  };
}

Play PlayOf(const SchemeCase& c, const std::string& more = "") {
  Play play{.config = ParseConfig<OptimConfig>(c.config + " " + more), .seed = c.seed};
  play.game.coupling = c.coupling;
  return play;
}

class SchemeTest : public testing::TestWithParam<SchemeCase> {};
INSTANTIATE_TEST_SUITE_P(All, SchemeTest, testing::ValuesIn(Cases()), [](const auto& info) { return info.param.name; });

TEST(SchemeFamilyTest, EveryMemberHasACase) {
  const auto* scheme = OptimConfig::descriptor()->FindOneofByName("scheme");
  for (int i = 0; i < scheme->field_count(); ++i) {
    bool found = false;
    for (const SchemeCase& c : Cases()) found |= c.config.starts_with(scheme->field(i)->name() + " ");
    EXPECT_TRUE(found) << "no case for optim." << scheme->field(i)->name();
  }
}

TEST_P(SchemeTest, SolvesAStronglyMonotoneGame) {
  Play play = PlayOf(GetParam());
  play.game.experts = 2;
  play.steps = GetParam().steps;
  const auto outcome = PlayGame(play);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_LT(outcome->distances.back(), GetParam().tolerance * outcome->distances.front());
}

TEST_P(SchemeTest, ConvergesOrDivergesOnABilinearGameAsItShould) {
  Play play = PlayOf(GetParam());
  play.game.lambda = 0;
  play.game.sigma_min = 0.6;
  play.steps = GetParam().solves_bilinear ? 2500 : 400;
  const auto outcome = PlayGame(play);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  if (GetParam().solves_bilinear) {
    EXPECT_LT(outcome->distances.back(), GetParam().bilinear_tolerance * outcome->distances.front());
  } else if (GetParam().keeps_solutions) {
    EXPECT_GT(outcome->distances.back(), 2 * outcome->distances.front());
  } else {
    EXPECT_GT(outcome->distances.back(), 0.5 * outcome->distances.front());
  }
}

// DESIGN's WORLD_SIZE_INVARIANT: trajectories depend on workers, never on ranks or on where experts live.
TEST_P(SchemeTest, GivesEqualBitsOnAnyNumberOfRanks) {
  Play play = PlayOf(GetParam(), "guard { spike_zscore: 50 window: 4 } schedule { warmup_steps: 3 }");
  play.game.experts = 4;
  play.game.noise = 0.1;
  play.game.dtype = DType::kF32;
  play.steps = 12;
  const auto one = PlayGame(play);
  ASSERT_TRUE(one.ok()) << one.status();
  for (const auto& [ranks, axis] : std::vector<std::pair<int, int>>{{2, 1}, {2, 2}, {3, 1}, {4, 1}, {4, 2}, {4, 4}}) {
    play.ranks = ranks;
    play.expert_axis = axis;
    const auto many = PlayGame(play);
    ASSERT_TRUE(many.ok()) << ranks << " ranks: " << many.status();
    EXPECT_EQ(FirstDifference(one->state, many->state), "") << ranks << " ranks, expert axis " << axis;
    EXPECT_EQ(one->distances, many->distances) << ranks << " ranks, expert axis " << axis;
    for (size_t i = 0; i < one->reports.size(); ++i) {
      EXPECT_EQ(one->reports[i].gradient_norm, many->reports[i].gradient_norm) << ranks << " ranks, step " << i;
    }
  }
}

// Without WORLD_SIZE_INVARIANT rank counts may differ by rounding only.
TEST_P(SchemeTest, AgreesToRoundingOnAFixedMesh) {
  Play play = PlayOf(GetParam());
  play.game.experts = 2;
  play.invariant = false;
  play.steps = 12;
  const auto one = PlayGame(play);
  ASSERT_TRUE(one.ok()) << one.status();
  play.ranks = 4;
  play.expert_axis = 2;
  const auto many = PlayGame(play);
  ASSERT_TRUE(many.ok()) << many.status();
  for (size_t i = 0; i < one->distances.size(); ++i) EXPECT_NEAR(one->distances[i], many->distances[i], 1e-12 * one->distances[0]) << i;
}

// Save, load, continue is bit-identical to not stopping; here also on another number of ranks.
TEST_P(SchemeTest, ResumesBitByBit) {
  Play play = PlayOf(GetParam(), "guard { spike_zscore: 50 window: 4 } schedule { cosine {} warmup_steps: 3 }");
  play.game.experts = 4;
  play.game.noise = 0.1;
  play.ranks = 4;
  play.expert_axis = 2;
  play.steps = 14;
  const auto straight = PlayGame(play);
  ASSERT_TRUE(straight.ok()) << straight.status();
  for (const int stop : {1, 6, 9}) {
    Play before = play;
    before.steps = stop;
    before.ranks = 3;
    before.expert_axis = 1;
    const auto saved = PlayGame(before);
    ASSERT_TRUE(saved.ok()) << saved.status();
    Play after = play;
    after.first = stop;
    after.steps = play.steps - stop;
    after.resume = &saved->state;
    const auto resumed = PlayGame(after);
    ASSERT_TRUE(resumed.ok()) << resumed.status();
    EXPECT_EQ(FirstDifference(straight->state, resumed->state), "") << "stopped at " << stop;
  }
}

TEST(SchemeFamilyTest, ASolutionIsKept) {
  for (const SchemeCase& c : Cases()) {
    if (!c.keeps_solutions) continue;
    Play play = PlayOf(c);
    play.game.experts = 2;
    play.from_solution = true;
    play.steps = 50;
    const auto outcome = PlayGame(play);
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    EXPECT_LT(outcome->distances.back(), 1e-13) << c.config;
  }
}

// One worker's bad block on one rank: all ranks refuse the step together, nothing is written, and the run goes on.
TEST_P(SchemeTest, SkipsAPoisonedStepAndNothingElse) {
  Play play = PlayOf(GetParam(), "guard { policy: SKIP }");
  play.game.poison_step = 3;
  play.ranks = 3;
  play.steps = 3;
  const auto before = PlayGame(play);
  ASSERT_TRUE(before.ok()) << before.status();
  play.steps = 4;
  auto poisoned = PlayGame(play);
  ASSERT_TRUE(poisoned.ok()) << poisoned.status();
  EXPECT_TRUE(poisoned->reports[3].skipped);
  EXPECT_NE(poisoned->reports[3].reason.find("nan: worker 1, block 'y.bias': nan at index 0"), std::string::npos)
      << poisoned->reports[3].reason;
  EXPECT_EQ(poisoned->state.scalars["guard.refused_in_a_row"], 1);
  poisoned->state.scalars["guard.refused_in_a_row"] = 0;
  EXPECT_EQ(FirstDifference(before->state, poisoned->state), "");
  play.steps = 8;
  const auto on = PlayGame(play);
  ASSERT_TRUE(on.ok()) << on.status();
  for (size_t i = 0; i < on->reports.size(); ++i) EXPECT_EQ(on->reports[i].skipped, i == 3) << i;
  EXPECT_TRUE(std::isfinite(on->distances.back()));
  EXPECT_EQ(on->distances[4], on->distances[3]);
  EXPECT_NE(on->distances[5], on->distances[4]);
}

// Of finite vectors, the codec whose range they are beyond, whoever its message was to go to; without a codec the sum that overflows.
TEST(SchemeFamilyTest, ARefusalNamesTheCodecThatCannotCarryAVector) {
  const std::string natural = "quantized { codec { natural {} } }";
  const std::string said = "is beyond the range of codec { natural { } }";
  const std::pair<std::string, std::string> cases[] = {
      {"exchange { " + natural + " }", "worker 0, block 'x.weight': "},
      {"exchange { hierarchical { workers_per_group: 2 exchange { " + natural + " } } }", "mean of workers 0 to 1, block "},
      {"exchange { quantized { codec { identity {} } } downlink { codec { natural {} } } }", "mean on its way back, block "},
      {"exchange { ef21 { codec { top_k { fraction: 0.5 values { bf16 {} } } } } }",
       "is beyond the range of codec { top_k { fraction: 0.5 values { bf16 { } } } }"},
  };
  for (const auto& [exchange, expected] : cases) {
    std::string of_one_rank;
    for (const int ranks : {1, 2, 4}) {
      Play play{.config = ParseConfig<OptimConfig>("extragradient { gamma: 0.1 " + exchange + " } guard { policy: SKIP }")};
      play.game.poison_step = 1;
      play.game.spike = 1e100;
      play.ranks = ranks;
      play.steps = 2;
      const auto outcome = PlayGame(play);
      ASSERT_TRUE(outcome.ok()) << exchange << ": " << outcome.status();
      const std::string& reason = outcome->reports[1].reason;
      EXPECT_NE(reason.find(expected), std::string::npos) << exchange << ' ' << ranks << ": " << reason;
      EXPECT_NE(reason.find("is beyond the range of codec"), std::string::npos) << reason;
      if (ranks == 1) of_one_rank = reason;
      EXPECT_EQ(reason, of_one_rank);
      EXPECT_EQ(reason.find("natural") != std::string::npos, reason.find(said) != std::string::npos) << reason;
    }
  }
}

TEST(SchemeFamilyTest, ARefusalNamesTheSumThatOverflows) {
  Play play{.config = ParseConfig<OptimConfig>("gda { gamma: 0.1 } guard { policy: SKIP }")};
  play.game.dtype = DType::kF32;
  play.game.poison_step = 1;
  play.game.spike = 1e38;
  play.game.heterogeneity = 0;
  play.ranks = 2;
  play.steps = 2;
  const auto outcome = PlayGame(play);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  const std::string& reason = outcome->reports[1].reason;
  EXPECT_NE(reason.find("every worker's vector is finite, their mean, block '"), std::string::npos) << reason;
}

TEST_P(SchemeTest, SkipsASpike) {
  Play play = PlayOf(GetParam(), "guard { spike_zscore: 20 window: 3 }");
  play.game.poison_step = 6;
  play.game.spike = 1e6;
  play.ranks = 2;
  play.steps = 9;
  const auto outcome = PlayGame(play);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  for (size_t i = 0; i < outcome->reports.size(); ++i)
    EXPECT_EQ(outcome->reports[i].skipped, i == 6) << i << ' ' << outcome->reports[i].reason;
  EXPECT_EQ(outcome->distances[7], outcome->distances[6]);
}

TEST_P(SchemeTest, HaltNamesTheStep) {
  Play play = PlayOf(GetParam(), "guard { policy: HALT }");
  play.game.poison_step = 2;
  const absl::Status status = PlayGame(play).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(std::string(status.message()).find("step 2: guard (policy HALT)"), std::string::npos) << status;
}

}  // namespace
}  // namespace conclave
