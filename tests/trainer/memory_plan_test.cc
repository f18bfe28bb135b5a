#include "trainer/memory_plan.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/trainer/labelled_points.h"
#include "tests/trainer/laws.h"

namespace conclave {
namespace {

struct Told {
  MemoryPlan plan;
  int64_t measured = 0, rows = 0, parameter_elements = 0;
  double objective = 0;  // of the last step
};

// Plans (or does not) and trains on every rank.
std::vector<Told> PlanAndTrain(const ModelRun& run, bool plan = true) {
  std::vector<Told> told(run.ranks());
  const absl::Status status = RunRanks(run.ranks(), [&](Communicator& world) -> absl::Status {
    Told& mine = told[world.rank()];
    Assembly a;
    RETURN_IF_ERROR(BuildRun(run, world, &a));
    if (plan) {
      ASSIGN_OR_RETURN(mine.plan, PlanMemory(a));
    }
    RETURN_IF_ERROR(a.scheme->Start(*a.field));
    for (Cursor cursor; cursor.step < run.steps; ++cursor.step) {
      ASSIGN_OR_RETURN(const StepReport report, a.scheme->Step(*a.field, cursor, *a.guard));
      mine.objective = report.evaluation.objective;
    }
    mine.measured = MeasuredMemory(a), mine.rows = a.field->expert_rows();
    for (const BlockId id : a.layout->local_blocks()) mine.parameter_elements += a.model->parameters()[id].shape.elements();
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
  return told;
}

// tolerance: of what is measured.
void ExpectForetold(const ModelRun& run, double tolerance = 0.1) {
  for (const Told& told : PlanAndTrain(run)) {
    EXPECT_NEAR(static_cast<double>(told.plan.TotalFor(told.rows)), static_cast<double>(told.measured),
                tolerance * static_cast<double>(told.measured));
    EXPECT_GE(told.plan.parameters, told.parameter_elements * 4);
    EXPECT_LE(told.measured, told.plan.total() - told.plan.activations + told.plan.activation_bound * 17 / 16 + (64 << 10));
  }
}

ModelRun MediumMixture(const std::string& more) {
  ModelRun run = SmallMixture(
      "trainer { workers: 4 global_batch: 32 } model { moe_lm { vocab_size: 64 layers: 2 width: 32 context: 32 moe { hidden: 48 } } }" +
      more);
  run.source = [] { return std::make_unique<RandomTokens>(RandomTokens::Options{.vocabulary = 64, .context = 32}); };
  run.steps = 3;
  return run;
}

TEST(MemoryPlan, ForetellsMixturesOnEveryMesh) {
  for (const char* numerics : {"", " parallel { numerics: WORLD_SIZE_INVARIANT }"}) {
    for (const auto& split : {std::pair{1, 1}, {2, 1}, {1, 2}, {2, 2}}) {
      SCOPED_TRACE(numerics + NameOfSplit(split));
      ModelRun run = MediumMixture(numerics);
      std::tie(run.data, run.expert) = split;
      ExpectForetold(run);
    }
  }
}

// Twelve workers on five ranks: some do two leaves and some three, and ranks are sent very different numbers of rows.
TEST(MemoryPlan, ForetellsUnevenRanksFromTheRowsThatCame) {
  for (const char* more : {"", " parallel { numerics: WORLD_SIZE_INVARIANT }", " parallel { dispatch { route: DEDUPLICATED } }",
                           " model { recompute: BLOCKS }"}) {
    SCOPED_TRACE(more);
    ModelRun run =
        MediumMixture(std::string(" trainer { workers: 12 global_batch: 48 } model { moe_lm { moe { experts: 10 hidden: 200 } } }") + more);
    run.expert = 5;
    ExpectForetold(run);
    std::set<int64_t> rows;
    for (const Told& told : PlanAndTrain(run)) rows.insert(told.rows);
    EXPECT_GT(*rows.rbegin(), *rows.begin() * 5 / 4) << "nothing to tell apart";
  }
}

// What a step took before experts moved counts after it.
TEST(MemoryPlan, KeepsThePeakWhereExpertsMove) {
  ModelRun run = MediumMixture("");
  run.expert = 2;
  const absl::Status status = RunRanks(run.ranks(), [&](Communicator& world) -> absl::Status {
    Assembly a;
    RETURN_IF_ERROR(BuildRun(run, world, &a));
    ASSIGN_OR_RETURN(const MemoryPlan plan, PlanMemory(a));
    RETURN_IF_ERROR(a.scheme->Start(*a.field));
    RETURN_IF_ERROR(a.scheme->Step(*a.field, Cursor{}, *a.guard).status());
    const int64_t measured = MeasuredMemory(a), rows = a.field->expert_rows();
    EXPECT_GT(rows, 0);
    std::vector<std::vector<int>> table = a.placement->tables().owners;
    for (std::vector<int>& layer : table) std::ranges::reverse(layer);
    ASSIGN_OR_RETURN(ExpertPlacement moved, ExpertPlacement::FromTable(table, 2));
    {
      ExpertHomes old;
      RETURN_IF_ERROR(Rehome(std::move(moved), &a, &old));
    }
    EXPECT_EQ(a.field->expert_rows(), rows);
    EXPECT_NEAR(static_cast<double>(MeasuredMemory(a)), static_cast<double>(measured), 0.02 * static_cast<double>(measured));
    EXPECT_NEAR(static_cast<double>(measured), static_cast<double>(plan.TotalFor(rows)), 0.1 * static_cast<double>(measured));
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
}

TEST(MemoryPlan, ForetellsVaesGamesAndPerturbedSamples) {
  class Normals : public Source {
   public:
    SampleShape shape() const override { return {SampleShape::Kind::kFeatures, 20}; }
    int64_t size() const override { return 4096; }
    absl::Status Fetch(int64_t sample, int64_t, int64_t row, Batch* batch) const override {
      for (int64_t i = 0; i < 20; ++i)
        batch->features.data<float>()[row * 20 + i] = static_cast<float>(RngKey{.seed = 1}.Normal(sample * 20 + i));
      ++batch->count;
      return absl::OkStatus();
    }
  };
  ModelRun vae{.config =
                   "name: 'vae' trainer { workers: 2 global_batch: 1024 } optim { first_order { lr: 0.01 rule { adamw {} } } }"
                   " model { linear_vae { data_dim: 20 latent_dim: 3 samples: 2 } }"};
  vae.source = [] { return std::make_unique<Normals>(); };
  ModelRun game{.config =
                    "name: 'game' trainer { workers: 2 global_batch: 0 } optim { extragradient { gamma: 0.3 } }"
                    " model { bilinear_game { dim: 300 lambda: 0.1 } }"};
  ModelRun robust{.config =
                      "name: 'robust' trainer { workers: 2 global_batch: 1024 } optim { first_order { lr: 0.01 rule { adamw {} } } }"
                      " model { robust_mlp { inputs: 30 classes: 2 hidden: 40 perturbation { moves: 2 } } }"};
  robust.source = [] { return std::make_unique<LabelledPoints>(30); };
  for (ModelRun run : {vae, game, robust}) {
    for (const int ranks : {1, 2}) {
      run.data = ranks;
      ExpectForetold(run);
    }
  }
}

// AdamW keeps two numbers a parameter; an exchange over one rank one vector, of means, in which a leaf's gradient is
// formed; where workers are kept apart a leaf has its own.
TEST(MemoryPlan, TellsTheParts) {
  const Told told = PlanAndTrain(MediumMixture("")).front();
  EXPECT_EQ(told.plan.scheme_state, 2 * 4 * told.parameter_elements);
  EXPECT_GE(told.plan.exchange, 4 * told.parameter_elements);
  EXPECT_EQ(told.plan.gradients, 0);
  const Told apart = PlanAndTrain(MediumMixture(" parallel { numerics: WORLD_SIZE_INVARIANT }")).front();
  EXPECT_GE(apart.plan.gradients, 4 * told.parameter_elements);
  EXPECT_EQ(told.plan.samples, 4 * 2 * 8 * 32 * 4);  // leaves x (tokens, targets) x rows x context x 4 bytes
}

// Where no more rows are allowed than an even share, nothing is kept ready for more; the loss does not know of it.
TEST(MemoryPlan, RowsThatAreNotAllowedTakeNoMemory) {
  ModelRun run = MediumMixture("");
  run.expert = 2;
  ModelRun bounded = MediumMixture(" parallel { dispatch { most_rows: 768 } }");  // of 2 x 8 x 32 tokens with 2 experts each: 512 a share
  bounded.expert = 2;
  const std::vector<Told> free = PlanAndTrain(run), held = PlanAndTrain(bounded);
  for (int r = 0; r < 2; ++r) {
    EXPECT_EQ(free[r].plan.activation_bound, held[r].plan.activation_bound / 3 * 4);
    EXPECT_EQ(free[r].objective, held[r].objective);
  }
}

TEST(MemoryPlan, ChangesNoBitOfTheRun) {
  ModelRun run = MediumMixture("");
  std::tie(run.data, run.expert) = std::pair{1, 2};
  const std::vector<Told> planned = PlanAndTrain(run), plain = PlanAndTrain(run, false);
  for (int r = 0; r < 2; ++r) EXPECT_EQ(planned[r].objective, plain[r].objective);
}

}  // namespace
}  // namespace conclave
