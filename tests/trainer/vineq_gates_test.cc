// Compressed methods on games of the zoo, as runs see them: linear convergence at proven steps, negative controls, finite sums,
// constraints.
#include <gtest/gtest.h>

#include "tests/trainer/model_run.h"
#include "trainer/race.h"

namespace conclave {
namespace {

Experiment GateConfig(const std::string& optim, const std::string& model, DType compute = DType::kF64) {
  return ParseExperiment(
      absl::StrFormat("name: 'gate' trainer { workers: 4 global_batch: 0 } parallel { numerics: WORLD_SIZE_INVARIANT } "
                      "optim { %s } model { precision { compute: %s } %s }",
                      optim, compute == DType::kF64 ? "F64" : "F32", model));
}

RaceResult RunGate(const std::string& optim, const std::string& model, const RaceOptions& options, DType compute = DType::kF64) {
  RaceResult result;
  const absl::Status status = RunRanks(1, [&](Communicator& world) -> absl::Status {
    ASSIGN_OR_RETURN(result, RunRace(GateConfig(optim, model, compute), world, RealFileSystem(), options));
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << optim << ": " << status;
  return result;
}

constexpr const char* kSetup = "bilinear_game { dim: 16 sigma_min: 0.1 lambda: 0.4 heterogeneity: 0.5 spectrum: UNIFORM }";
constexpr const char* kUnbiased[] = {"rand_k { fraction: 0.25 }",
                                     "perm_k {}",
                                     "natural {}",
                                     "block_int { bits: 8 block: 8 }",
                                     "block_int { bits: 4 block: 8 }",
                                     "perm_k { values { natural {} } }",
                                     "rand_k { fraction: 0.5 common_mask: true }"};

// To 1e-12 of the starting distance squared, 1e-6 in f32, at steps that the declared constants prove.
TEST(VineqGates, Masha1ConvergesLinearlyAtProvableSteps) {
  for (const char* codec : kUnbiased) {
    SCOPED_TRACE(codec);
    const RaceResult race = RunGate(absl::StrFormat("step: PROVABLE masha1 { p: 0.25 exchange { quantized { codec { %s } } } }", codec),
                                    kSetup, {.target = 1e-12, .max_evaluations = 20000, .measure_every = 10});
    EXPECT_EQ(race.end, RaceEnd::kReached) << race.measure;
    EXPECT_GT(race.steps, 50);
    const RaceResult single = RunGate(absl::StrFormat("step: PROVABLE masha1 { p: 0.25 exchange { quantized { codec { %s } } } }", codec),
                                      kSetup, {.target = 1e-6, .max_evaluations = 20000, .measure_every = 10}, DType::kF32);
    EXPECT_EQ(single.end, RaceEnd::kReached) << single.measure;
    EXPECT_LT(single.steps, race.steps);
  }
}

// Extragradient with the same codec and no reference point stalls where the workers' fields differ at the solution.
TEST(VineqGates, WithoutAReferencePointCompressionStalls) {
  const RaceResult race = RunGate("extragradient { gamma: 0.05 exchange { quantized { codec { rand_k { fraction: 0.25 } } } } }", kSetup,
                                  {.target = 1e-12, .max_evaluations = 8000, .measure_every = 50});
  EXPECT_NE(race.end, RaceEnd::kReached);
  EXPECT_GT(race.measure, 1e-6);
}

// A vote of signs forgets by how much workers disagree: at a step of constant length it does not settle, at a fading one it settles
// elsewhere.
TEST(VineqGates, AMajorityOfSignsDoesNotFindTheSolution) {
  for (const char* schedule : {"", "schedule { cosine { min_ratio: 1e-4 } }"}) {
    const RaceResult vote = RunGate(absl::StrFormat("extragradient { gamma: 0.05 exchange { majority_vote {} } } %s", schedule), kSetup,
                                    {.target = 1e-8, .max_evaluations = 8000, .measure_every = 50});
    EXPECT_NE(vote.end, RaceEnd::kReached) << schedule;
    EXPECT_GT(vote.measure, 1e-4) << schedule;
  }
  const RaceResult mean = RunGate("extragradient { gamma: 0.05 }", kSetup, {.target = 1e-8, .max_evaluations = 8000, .measure_every = 50});
  EXPECT_EQ(mean.end, RaceEnd::kReached) << mean.measure;
}

TEST(VineqGates, DescentAscentLeavesABilinearGame) {
  const RaceResult race = RunGate("gda { gamma: 0.1 }", "bilinear_game { dim: 8 sigma_min: 0.3 }", {.max_evaluations = 20000});
  EXPECT_EQ(race.end, RaceEnd::kDiverged);
}

// Samples of 8 of 40 rows. With a reference point on the full data the noise of the samples vanishes at the solution; without one it stays.
TEST(VineqGates, VarianceReductionSolvesFiniteSums) {
  const std::string model = "auc_saddle { dim: 4 rows: 40 batch: 8 lambda: 0.1 }";
  const RaceOptions options{.target = 1e-10, .max_evaluations = 30000, .measure_every = 20};
  for (const char* exchange : {"exact {}", "quantized { codec { natural {} } }"}) {
    const RaceResult reduced =
        RunGate(absl::StrFormat("masha1 { gamma: 0.1 p: 0.1 variance_reduced: true exchange { %s } }", exchange), model, options);
    EXPECT_EQ(reduced.end, RaceEnd::kReached) << exchange << ' ' << reduced.measure;
  }
  const RaceResult masha2 = RunGate(
      "masha2 { gamma: 0.1 p: 0.1 variance_reduced: true exchange { ef14 { codec { top_k { fraction: 0.6 } } } } }", model, options);
  EXPECT_EQ(masha2.end, RaceEnd::kReached) << masha2.measure;
  RaceOptions less = options;
  less.max_evaluations /= 5;
  const RaceResult plain = RunGate("extragradient { gamma: 0.1 }", model, less);
  EXPECT_NE(plain.end, RaceEnd::kReached);
  EXPECT_GT(plain.measure, 1e-7);
}

// Every game is solved, by an uncompressed and by a compressed method.
TEST(VineqGates, EveryGameIsSolved) {
  constexpr const char* kSimplex = "prox { simplex {} }";
  constexpr const char* kGroups = "prox { product { factors { pattern: 'q' prox { simplex {} } } } }";
  const std::string masha = "masha1 { gamma: 0.1 p: 0.25 exchange { quantized { codec { block_int { bits: 8 block: 8 } } } } } ";
  const std::string fast = "masha1 { gamma: 0.3 p: 0.25 exchange { quantized { codec { block_int { bits: 8 block: 8 } } } } } ";
  const auto solves = [](const std::string& optim, const std::string& model, RaceMeasure measure, double target) {
    SCOPED_TRACE(model);
    const RaceResult race = RunGate(optim, model, {.measure = measure, .target = target, .max_evaluations = 20000, .measure_every = 5});
    EXPECT_EQ(race.end, RaceEnd::kReached) << optim << ": " << race.measure;
  };
  for (const std::string& optim : {std::string("extragradient { gamma: 0.3 }"), fast}) {
    solves(optim, "quadratic_game { dim: 6 heterogeneity: 0.5 curvature_min: 0.3 }", RaceMeasure::kDistance, 1e-8);
    solves(optim + kSimplex, "matrix_game { heterogeneity: 0.5 }", RaceMeasure::kGap, 1e-4);
    solves(optim + kSimplex, "matrix_game { payoffs: POLICEMAN_AND_BURGLAR size: 6 }", RaceMeasure::kGap, 1e-3);
    solves(optim + kGroups, "group_robust { groups: 5 dim: 4 }", RaceMeasure::kGap, 1e-4);
    solves(optim, "dirac_gan { dim: 4 heterogeneity: 0.5 }", RaceMeasure::kDistance, 1e-8);
    solves(optim, "dirac_gan { dim: 4 loss: LOGISTIC heterogeneity: 0.5 }", RaceMeasure::kDistance, 1e-6);
  }
  for (const std::string& optim : {std::string("extragradient { gamma: 0.1 }"), masha}) {
    solves(optim, "auc_saddle { dim: 4 rows: 40 lambda: 0.1 }", RaceMeasure::kDistance, 1e-8);
    solves(optim, "robust_least_squares { dim: 4 rows: 30 lambda: 0.1 }", RaceMeasure::kMapping, 1e-10);
    solves(optim +
               "prox { product { factors { pattern: 'x' prox { l1_ball { radius: 0.5 } } } "
               "factors { pattern: 'y' prox { l2_ball { radius: 0.1 } } } } }",
           "robust_least_squares { dim: 4 rows: 30 }", RaceMeasure::kMapping, 1e-10);
    solves(optim, "gaussian_wgan { dim: 2 penalty: 0.5 }", RaceMeasure::kDistance, 1e-6);
  }
}

TEST(VineqGates, StepsAreFoundAsTold) {
  const RaceOptions options{.target = 1e-8, .max_evaluations = 20000};
  const RaceResult proven = RunGate("step: PROVABLE extragradient {}", kSetup, options);
  const RaceResult given = RunGate(absl::StrFormat("extragradient { gamma: %.17g }", 0.9 / std::hypot(0.4, 1.0)), kSetup, options);
  EXPECT_EQ(proven.steps, given.steps);
  EXPECT_EQ(proven.measure, given.measure);
  // The proven step is one of those that tuning tries, and the one with the smallest gradient mapping after trial_steps wins.
  const std::string masha = " masha1 { p: 0.25 exchange { quantized { codec { rand_k { fraction: 0.25 } } } } }";
  RaceOptions trial{.measure = RaceMeasure::kMapping, .target = 1e-30, .max_evaluations = 200};
  const RaceResult cautious = RunGate("step: PROVABLE" + masha, kSetup, trial), tuned = RunGate("step: AUTO_TUNE" + masha, kSetup, trial);
  ASSERT_GT(cautious.curve.size(), 100u);
  ASSERT_GT(tuned.curve.size(), 100u);
  EXPECT_LE(tuned.curve[100].measure, cautious.curve[100].measure);
  EXPECT_NEAR(tuned.costs.evaluations, tuned.steps * 1.25, 0.2 * static_cast<double>(tuned.steps));  // trials are not booked
}

TEST(VineqGates, AStepThatNobodyCanProveIsRefused) {
  for (const auto& [optim, what] : std::vector<std::pair<std::string, std::string>>{
           {"step: PROVABLE optimistic_masha { p: 0.25 }", "no step of this scheme is proven"},
           {"step: PROVABLE masha1 { p: 0.25 variance_reduced: true }", "which no model declares"}}) {
    const absl::Status status =
        RunRanks(1, [&](Communicator& world) { return RunRace(GateConfig(optim, kSetup), world, RealFileSystem(), {}).status(); });
    EXPECT_NE(std::string(status.message()).find(what), std::string::npos) << status;
  }
}

}  // namespace
}  // namespace conclave
