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
                // of rank 0, and of ranks 1 and 3 every second one.
                int64_t served = me == 1 || me == 3 ? leaves : me == 0 ? leaves : 0;
                for (int rank = 0; rank < 4; ++rank) {
                  for (int leaf = a.workers.First(rank); leaf < a.workers.First(rank + 1); ++leaf) {
                    const std::vector<int> three = {0, 1, 3}, two = {0, 2};
                    if (rank == 2 && me != 0) served += three[leaf % 3] == me;
                    if ((rank == 1 || rank == 3) && me == 0) served += two[leaf % 2] == 0;
                  }
                }
                EXPECT_EQ(gradients, served * expert) << me;
                return absl::OkStatus();
              }).ok());
}

}  // namespace
}  // namespace conclave
