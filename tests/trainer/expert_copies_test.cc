// Copies of experts: several ranks compute what one owns, and nothing of it shows in a result.
#include "trainer/expert_copies.h"

#include <cmath>

#include "comm/ledger.h"
#include "tests/trainer/migration_run.h"

namespace conclave {
namespace {

constexpr char kCopiesInvariant[] = "parallel { numerics: WORLD_SIZE_INVARIANT }";

// New placements and new copies every second step: losses, norms, parameters, moments and averages of the run that has none.
TEST(ExpertCopies, ChangeNoBitOfAdamW) {
  ModelRun run = SmallMixture(kCopiesInvariant, "moe { top_k: 3 }");
  run.steps = 6;
  ExpectMovesChangeNothing(run, 2, {{1, 4}, {2, 2}}, /*copies=*/2);
}

// Parts of an embedding are no experts, though they are at home on the same axis.
TEST(ExpertCopies, ChangeNoBitBesideAnEmbeddingInParts) {
  ModelRun run = SmallMixture(kCopiesInvariant, "tied_head: false embedding_parts: 4");
  run.steps = 4;
  ExpectMovesChangeNothing(run, 2, {{1, 4}, {2, 2}}, /*copies=*/2);
}

TEST(ExpertCopies, ChangeNoBitWithSeveralLeavesARank) {
  ModelRun run = SmallMixture(std::string(kCopiesInvariant) + " trainer { micro_batches: 2 }");
  run.steps = 4;
  ExpectMovesChangeNothing(run, 2, {{1, 2}, {1, 4}}, /*copies=*/4);
}

TEST(ExpertCopies, ChangeNoBitOnAnyRoute) {
  for (const char* route : {"DEDUPLICATED", "HIERARCHICAL", "DEDUPLICATED_HIERARCHICAL"}) {
    SCOPED_TRACE(route);
    ModelRun run =
        SmallMixture(absl::StrFormat("%s parallel { dispatch { route: %s ranks_per_node: 2 } }", kCopiesInvariant, std::string(route)));
    run.steps = 3;
    ExpectMovesChangeNothing(run, 1, {{1, 4}}, /*copies=*/3);
  }
}

// Compression state and reference points belong to owners: their workers' vectors are whole there.
TEST(ExpertCopies, ChangeNoBitOfCompressedTraining) {
  ModelRun diana =
      SmallMixture(std::string(kCopiesInvariant) + " optim { first_order { exchange { diana { codec { rand_k { fraction: 0.5 } } } } } }");
  diana.steps = 4;
  ExpectMovesChangeNothing(diana, 2, {{1, 4}, {2, 2}}, /*copies=*/2);
  ModelRun masha =
      SmallMixture(std::string(kCopiesInvariant) +
                   " optim { clip_norm: 0 masha1 { gamma: 0.01 p: 0.5 exchange { quantized { codec { rand_k { fraction: 0.5 } } } } } }");
  masha.steps = 4;
  ExpectMovesChangeNothing(masha, 2, {{1, 2}}, /*copies=*/3);
}

TEST(ExpertCopies, ChangeNoBitWhereBlocksAreRecordedAgain) {
  ModelRun run = SmallMixture(std::string(kCopiesInvariant) + " model { recompute: BLOCKS }");
  run.steps = 3;
  ExpectMovesChangeNothing(run, 1, {{1, 2}}, /*copies=*/2);
}

// On a fixed mesh a rank's leaves are summed as they come, so copies change the order of a sum and no more: in f64 little but rounding.
TEST(ExpertCopies, OnAFixedMeshDifferByRounding) {
  ModelRun run = SmallMixture("model { precision { compute: F64 } } parallel { numerics: FIXED_MESH }");
  run.steps = 5;
  for (const auto& split : {std::pair{1, 4}, {2, 2}}) {
    SCOPED_TRACE(NameOfSplit(split));
    std::tie(run.data, run.expert) = split;
    const auto alone = RunMigrations({.run = run}), copied = RunMigrations({.run = run, .every = 2, .copies = 2});
    ASSERT_TRUE(alone.ok()) << alone.status();
    ASSERT_TRUE(copied.ok()) << copied.status();
    ExpectReplicasAgree(*copied);
    for (size_t step = 0; step < (*alone)[0].reports.size(); ++step) {
      const StepReport &a = (*alone)[0].reports[step], &b = (*copied)[0].reports[step];
      EXPECT_NEAR(a.evaluation.objective, b.evaluation.objective, 1e-10);
      EXPECT_NEAR(a.gradient_norm, b.gradient_norm, 1e-9 * a.gradient_norm);
      EXPECT_NEAR(a.norms.expert, b.norms.expert, 1e-9 * a.norms.expert);
    }
  }
}

// What travels is known beforehand: the copies' weights before each evaluation, and a gradient for every leaf that a copy served.
TEST(ExpertCopies, TheLedgerBooksTheirWeightsAndGradients) {
  ModelRun run = SmallMixture(kCopiesInvariant);
  run.expert = 4;
  const PlacementTable owners = ContiguousTable(2, 8, 4);
  ExpertCopyTable copies(2, std::vector<std::vector<int>>(8));
  copies[0][0] = {1, 3};
  copies[1][5] = {0};
  ASSERT_TRUE(RunRanks(4, [&](Communicator& world) -> absl::Status {
                Assembly a;
                RETURN_IF_ERROR(BuildRun(run, world, &a));
                const auto state = [&] {
                  StateDict dict;
                  a.scheme->Register(dict);
                  return dict;
                };
                RETURN_IF_ERROR(MigrateExperts({.assembly = &a, .state = state}, {.owners = owners, .copies = copies}).status());
                RETURN_IF_ERROR(a.scheme->Start(*a.field));
                world.ledger()->Take();
                RETURN_IF_ERROR(a.scheme->Step(*a.field, {}, *a.guard).status());
                const WireReport report = world.ledger()->Take();
                int64_t weights = 0, gradients = 0, expert = 0;
                for (const WireLine& line : report.lines) {
                  for (const auto& link : line.links) {
                    if (line.label == "expert copies") weights += link.sent_bytes;
                    if (line.label == "gradients of expert copies") gradients += link.sent_bytes;
                  }
                }
                for (const BlockSpec& spec : a.model->parameters().blocks()) {
                  if (spec.moe_layer == 0 && spec.expert == 0) expert += spec.shape.elements() * 4;
                }
                const int me = world.rank(), leaves = a.workers.Count(me);  // one leaf a worker
                EXPECT_EQ(weights, me == 0 ? 2 * expert : me == 2 ? expert : 0) << me;
                // Of expert 0 the leaves of ranks 1 and 3 are served where they are, those of rank 2 by 0, 1, 3 in turn; of expert 5 those
                // of rank 0, and of ranks 1 and 3, who never choose the same, one of the two leaves that run together.
                int64_t served = me == 2 ? 0 : leaves;
                for (int turn = 0; turn < leaves; ++turn) served += me != 0 && a.placement->PlaceOf(0, 0, 2, turn).coordinate == me;
                EXPECT_EQ(gradients, (served + (me == 0 ? leaves : 0)) * expert) << me;
                return absl::OkStatus();
              }).ok());
}

// Copies level what training sends; held-out samples go to owners, so a bound on a rank's rows that training keeps must not end them.
TEST(ExpertCopies, HeldOutSamplesAreTakenHoweverManyRowsARankGets) {
  ModelRun run = SmallMixture(std::string(kCopiesInvariant) + " parallel { dispatch { most_rows: 1 } }");
  ModelRun free = SmallMixture(kCopiesInvariant);
  run.expert = free.expert = 4;
  std::vector<double> losses;
  for (const ModelRun& each : {free, run}) {
    const bool bounded = losses.size() == 1;
    ASSERT_TRUE(RunRanks(4, [&](Communicator& world) -> absl::Status {
                  Assembly a;
                  RETURN_IF_ERROR(BuildRun(each, world, &a));
                  RETURN_IF_ERROR(a.scheme->Start(*a.field));
                  ASSIGN_OR_RETURN(const Evaluation held_out, a.field->EvaluateHeldOut(a.scheme->point(), 4, 2));
                  if (world.rank() == 0) losses.push_back(held_out.objective);
                  EXPECT_EQ(absl::IsResourceExhausted(a.scheme->Step(*a.field, {}, *a.guard).status()), bounded);
                  return absl::OkStatus();
                }).ok());
  }
  ASSERT_EQ(losses.size(), 2u);
  EXPECT_EQ(losses[1], losses[0]);
}

}  // namespace
}  // namespace conclave
