// Races against closed forms: what a worker sends, and the same outcome for every number of ranks.
#include "trainer/race.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/trainer/labelled_points.h"
#include "tests/trainer/model_run.h"

namespace conclave {
namespace {

constexpr int kWorkers = 4, kDim = 64;

Experiment RaceConfig(const std::string& scheme, const std::string& fields = "lambda: 0.1 heterogeneity: 0.5") {
  return ParseExperiment("name: 'race' trainer { workers: 4 global_batch: 0 } parallel { numerics: WORLD_SIZE_INVARIANT } optim { " +
                         scheme + " } model { precision { compute: F32 } bilinear_game { dim: 64 sigma_min: 0.3 " + fields + " } }");
}

absl::StatusOr<RaceResult> RaceOn(const Experiment& config, int ranks, const RaceOptions& options) {
  RaceResult result;
  RETURN_IF_ERROR(RunRanks(ranks, [&](Communicator& world) -> absl::Status {
    ASSIGN_OR_RETURN(RaceResult mine, RunRace(config, world, RealFileSystem(), options));
    if (world.rank() == 0) result = std::move(mine);
    return absl::OkStatus();
  }));
  return result;
}

// An exact exchange of 2 d values of 4 bytes: each worker sends them once towards the sum, and (M - 1) / M of them each way.
TEST(RaceTest, ExtragradientCostsWhatItsFormulaSays) {
  const auto race = RaceOn(RaceConfig("extragradient { gamma: 0.5 }"), 1, {.target = 1e-6});
  ASSERT_TRUE(race.ok()) << race.status();
  EXPECT_EQ(race->end, RaceEnd::kReached);
  EXPECT_LE(race->measure, 1e-6);
  const auto steps = static_cast<double>(race->steps);
  EXPECT_EQ(race->costs.evaluations, 2 * steps);
  EXPECT_EQ(race->costs.rounds, 2 * steps);
  EXPECT_EQ(race->costs.uplink_bytes, 2 * steps * 2 * kDim * 4);
  EXPECT_EQ(race->costs.two_way_bytes, 2 * steps * 2 * kDim * 4 * 2 * (kWorkers - 1) / kWorkers);
  EXPECT_EQ(race->costs.header_bytes, 0);
  EXPECT_EQ(race->physical_bytes, 0);
}

// perm_k sends d / M values of each of two blocks to M - 1 others; a refresh is a full exchange, and the start is one.
TEST(RaceTest, Masha1CostsItsMessagesItsRefreshesAndItsStart) {
  const auto race = RaceOn(RaceConfig("masha1 { gamma: 0.1 p: 0.25 exchange { quantized { codec { perm_k {} } } } }"), 1, {.target = 1e-4});
  ASSERT_TRUE(race.ok()) << race.status();
  EXPECT_EQ(race->end, RaceEnd::kReached);
  const auto steps = static_cast<double>(race->steps);
  const double full = race->costs.evaluations - steps;  // the start and the refreshes
  EXPECT_GT(full, 1);
  EXPECT_EQ(race->costs.rounds, steps + full);
  const double message = 2 * kDim / kWorkers * 4, vector = 2 * kDim * 4;
  EXPECT_EQ(race->costs.uplink_bytes, steps * message + full * vector);
  EXPECT_EQ(race->costs.two_way_bytes, steps * message * (kWorkers - 1) + full * vector * 2 * (kWorkers - 1) / kWorkers);
  EXPECT_EQ(race->costs.header_bytes, steps * 2 * 32 * (kWorkers - 1));
}

Experiment RowsConfig(const std::string& scheme, int batch) {
  return ParseExperiment(
      absl::StrFormat("name: 'rows' trainer { workers: 4 global_batch: 0 } parallel { numerics: WORLD_SIZE_INVARIANT } optim { %s }"
                      " model { precision { compute: F64 } auc_saddle { dim: 4 rows: 40 batch: %d lambda: 0.1 } }",
                      scheme, batch));
}

// Of 40 rows 10: a sample at two points costs half an evaluation of the full data, a refresh a whole one. Every step has one exchange, and
// every refresh; with participants a share of one.
TEST(RaceTest, VarianceReductionIsCountedByRows) {
  const struct {
    const char* scheme;
    double part;  // of the workers
  } cases[] = {{"masha1 { gamma: 0.1 p: 0.1 variance_reduced: true exchange { quantized { codec { natural {} } } } }", 1},
               {"masha1 { gamma: 0.1 p: 0.1 variance_reduced: true }", 1},
               {"masha1 { gamma: 0.1 p: 0.1 participants: 2 variance_reduced: true }", 0.5},
               {"masha2 { gamma: 0.1 p: 0.1 variance_reduced: true exchange { ef14 { codec { top_k { fraction: 0.6 } } } } }", 1}};
  for (const auto& [scheme, part] : cases) {
    const auto race = RaceOn(RowsConfig(scheme, 10), 2, {.target = 0.2});
    ASSERT_TRUE(race.ok()) << race.status();
    EXPECT_EQ(race->end, RaceEnd::kReached) << scheme;
    const double full = race->costs.rounds - part * static_cast<double>(race->steps);
    EXPECT_GT(full, 1) << scheme;
    EXPECT_NEAR(race->costs.evaluations, 2 * part * 10 / 40 * static_cast<double>(race->steps) + full, 1e-9) << scheme;
  }
}

// Eight of a loader's 4096 samples a step, on four workers.
TEST(RaceTest, SamplesOfALoaderAreCountedByTheirShare) {
  const ModelRun run{.config =
                         "name: 'points' trainer { workers: 4 global_batch: 8 } optim { extragradient { gamma: 0.1 } }"
                         " model { robust_mlp { inputs: 2 classes: 2 hidden: 4 } }",
                     .source = [] { return std::make_unique<LabelledPoints>(2); }};
  const absl::Status status = RunRanks(1, [&](Communicator& world) -> absl::Status {
    Assembly a;
    RETURN_IF_ERROR(BuildRun(run, world, &a));
    const auto cost = [&](const SampleKey& key, std::span<const char> workers) -> absl::StatusOr<double> {
      const double before = a.field->evaluations();
      a.field->Select(workers);
      const OnBlock forget = [](WorkerId, BlockId, const Tensor&, bool) { return absl::OkStatus(); };
      RETURN_IF_ERROR(a.field->Evaluate(a.scheme->point(), key, /*each_worker=*/true, forget).status());
      return a.field->evaluations() - before;
    };
    const char two[] = {0, 1, 0, 1};
    ASSIGN_OR_RETURN(const double sample, cost({.step = 1}, {}));
    ASSIGN_OR_RETURN(const double some, cost({.step = 2}, two));
    ASSIGN_OR_RETURN(const double full, cost({.full = true}, {}));
    EXPECT_EQ(sample, 8.0 / 4096);
    EXPECT_EQ(some, 4.0 / 4096);
    EXPECT_EQ(full, 1);
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
}

// The same count for methods that only ever see samples, so that the two compare.
TEST(RaceTest, SamplesOfRowsAreCountedByRowsForEveryMethod) {
  for (const int batch : {0, 5, 10}) {
    const auto race = RaceOn(RowsConfig("extragradient { gamma: 0.1 }", batch), 1, {.target = 0, .max_evaluations = 20});
    ASSERT_TRUE(race.ok()) << race.status();
    EXPECT_EQ(race->end, RaceEnd::kOutOfEvaluations);
    EXPECT_EQ(race->steps, batch == 0 ? 10 : 10 * 40 / batch);
    EXPECT_NEAR(race->costs.evaluations, 20, 1e-9);
  }
}

// Three of four evaluate and send; all do at the start and where the reference point moves. What they send does not depend on ranks.
TEST(RaceTest, PartialParticipationCostsWhatItsFormulaSays) {
  const Experiment config = RaceConfig("masha1 { gamma: 0.1 p: 0.25 participants: 3 exchange { quantized { codec { perm_k {} } } } }");
  for (const int ranks : {1, 2}) {
    const auto race = RaceOn(config, ranks, {.target = 1e-2});
    ASSERT_TRUE(race.ok()) << race.status();
    EXPECT_EQ(race->end, RaceEnd::kReached);
    const double part = 3.0 / kWorkers * static_cast<double>(race->steps), full = race->costs.evaluations - part;
    EXPECT_GT(full, 1);
    EXPECT_EQ(full, std::round(full));
    EXPECT_EQ(race->costs.rounds, part + full);
    const double message = 2 * kDim / kWorkers * 4, vector = 2 * kDim * 4;
    EXPECT_EQ(race->costs.uplink_bytes, part * message + full * vector);
    EXPECT_EQ(race->costs.two_way_bytes, part * message * (kWorkers - 1) + full * vector * 2 * (kWorkers - 1) / kWorkers);
    EXPECT_EQ(race->costs.header_bytes, part * 2 * 32 * (kWorkers - 1));
  }
}

TEST(RaceTest, RanksChangeOnlyWhatCrossesBetweenThem) {
  const Experiment config = RaceConfig("masha1 { gamma: 0.1 p: 0.25 exchange { quantized { codec { perm_k {} } } } }");
  const auto one = RaceOn(config, 1, {.target = 1e-3});
  ASSERT_TRUE(one.ok()) << one.status();
  for (const int ranks : {2, 4}) {
    const auto many = RaceOn(config, ranks, {.target = 1e-3});
    ASSERT_TRUE(many.ok()) << many.status();
    EXPECT_EQ(many->steps, one->steps);
    EXPECT_EQ(many->measure, one->measure);
    EXPECT_EQ(many->costs.two_way_bytes, one->costs.two_way_bytes);
    EXPECT_EQ(many->costs.uplink_bytes, one->costs.uplink_bytes);
    EXPECT_GT(many->physical_bytes, 0);
  }
}

TEST(RaceTest, EndsWhereItMust) {
  const auto spiral = RaceOn(RaceConfig("gda { gamma: 0.5 }", "lambda: 0"), 1, {});
  ASSERT_TRUE(spiral.ok()) << spiral.status();
  EXPECT_EQ(spiral->end, RaceEnd::kDiverged);
  const auto slow = RaceOn(RaceConfig("extragradient { gamma: 0.001 }"), 1, {.max_evaluations = 50});
  ASSERT_TRUE(slow.ok()) << slow.status();
  EXPECT_EQ(slow->end, RaceEnd::kOutOfEvaluations);
  EXPECT_EQ(slow->steps, 25);
  const auto dear = RaceOn(RaceConfig("extragradient { gamma: 0.001 }"), 1, {.budgeted = RaceCost::kUplinkBytes, .budget = 8000});
  ASSERT_TRUE(dear.ok()) << dear.status();
  EXPECT_EQ(dear->end, RaceEnd::kOverBudget);
  EXPECT_EQ(dear->steps, 8);  // 1024 bytes a step
}

// Measuring costs an evaluation and an exchange, and neither is booked.
TEST(RaceTest, MeasuringIsNotBooked) {
  const auto race = RaceOn(RaceConfig("extragradient { gamma: 0.5 }"), 1, {.measure = RaceMeasure::kMapping, .target = 1e-6});
  ASSERT_TRUE(race.ok()) << race.status();
  EXPECT_EQ(race->end, RaceEnd::kReached);
  EXPECT_EQ(race->costs.evaluations, 2 * static_cast<double>(race->steps));
  EXPECT_EQ(race->costs.rounds, 2 * static_cast<double>(race->steps));
}

TEST(RaceTest, AMeasureThatTheModelLacksIsRefused) {
  const absl::Status status = RaceOn(RaceConfig("extragradient { gamma: 0.5 }"), 1, {.measure = RaceMeasure::kGap}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(status.message()).find("cannot compute a duality gap"), std::string::npos) << status;
  const absl::Status singular = RaceOn(RaceConfig("extragradient { gamma: 0.5 }", "lambda: 0 sigma_max: 1 sigma_min: 0"), 1, {}).status();
  EXPECT_NE(std::string(singular.message()).find("no solution in closed form"), std::string::npos) << singular;
}

TEST(RaceTest, ALongCurveIsThinned) {
  const auto race = RaceOn(RaceConfig("extragradient { gamma: 0.001 }"), 1, {.max_evaluations = 4000});
  ASSERT_TRUE(race.ok()) << race.status();
  EXPECT_LE(race->curve.size(), 512u);
  EXPECT_GE(race->curve.size(), 250u);
  EXPECT_EQ(race->curve.front().costs.evaluations, 0);
  EXPECT_EQ(race->curve.front().measure, 1);
  EXPECT_EQ(race->curve.back().costs.evaluations, 4000);
  for (size_t i = 1; i < race->curve.size(); ++i) EXPECT_GT(race->curve[i].costs.rounds, race->curve[i - 1].costs.rounds) << i;
}

}  // namespace
}  // namespace conclave
