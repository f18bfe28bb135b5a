// Migration: experts that move between steps change no bit of anything, and a move that fails did not happen.
#include "tests/trainer/migration_run.h"

namespace conclave {
namespace {

constexpr char kMigrationInvariant[] = "parallel { numerics: WORLD_SIZE_INVARIANT }";

TEST(Migration, ChangesNoBitOfAdamW) {
  ModelRun run = SmallMixture(kMigrationInvariant, "moe { top_k: 3 }");
  run.steps = 6;
  ExpectMovesChangeNothing(run, 2, {{1, 4}, {2, 2}});
}

TEST(Migration, ChangesNoBitOnAFixedMeshEither) {
  ModelRun run = SmallMixture("parallel { numerics: FIXED_MESH }");
  run.steps = 5;
  ExpectMovesChangeNothing(run, 2, {{1, 2}, {2, 2}});
}

// Compression state is keyed by worker and block: shifts of DIANA, errors of EF14, the momenta and shifts of EF21-SGDM.
TEST(Migration, TakesCompressionStateAlong) {
  for (const char* exchange : {"diana { codec { rand_k { fraction: 0.5 } } }", "ef14 { codec { top_k { fraction: 0.25 } } }",
                               "ef21_sgdm { codec { top_k { fraction: 0.25 } } }"}) {
    SCOPED_TRACE(exchange);
    ModelRun run = SmallMixture(absl::StrFormat("%s optim { first_order { exchange { %s } } }", kMigrationInvariant, exchange));
    run.steps = 4;
    ExpectMovesChangeNothing(run, 2, {{1, 2}, {2, 2}});
  }
}

// MASHA1 keeps a reference point, its operator value and every worker's part of it.
TEST(Migration, TakesReferencePointsAlong) {
  ModelRun run =
      SmallMixture(std::string(kMigrationInvariant) +
                   " optim { clip_norm: 0 masha1 { gamma: 0.01 p: 0.5 exchange { quantized { codec { rand_k { fraction: 0.5 } } } } } }");
  run.steps = 4;
  ExpectMovesChangeNothing(run, 2, {{1, 2}, {2, 2}});
}

TEST(Migration, ToTheSamePlacementMovesNothing) {
  ModelRun run = SmallMixture(kMigrationInvariant);
  run.expert = 2;
  ASSERT_TRUE(RunRanks(2, [&](Communicator& world) -> absl::Status {
                Assembly a;
                RETURN_IF_ERROR(BuildRun(run, world, &a));
                const Scheme* const before = a.scheme.get();
                const auto state = [&] {
                  StateDict dict;
                  a.scheme->Register(dict);
                  return dict;
                };
                ASSIGN_OR_RETURN(const TransferReport moved, MigrateExperts({.assembly = &a, .state = state}, {TableOf(*a.placement)}));
                EXPECT_EQ(moved.experts, 0);
                EXPECT_EQ(moved.bytes, 0);
                EXPECT_EQ(a.scheme.get(), before);
                EXPECT_EQ(MigrateExperts({.assembly = &a, .state = state}, {PlacementTable(2, std::vector<int>(8, 0))}).status().code(),
                          absl::StatusCode::kInvalidArgument);
                return absl::OkStatus();
              }).ok());
}

// Exactly the parameters, both moments and the averaged weights of the experts that leave.
TEST(Migration, SendsTheStateOfTheMovedExpertsAndNoMore) {
  ModelRun run = SmallMixture(kMigrationInvariant);
  run.expert = 2;
  run.steps = 1;
  const auto ranks = RunMigrations({.run = run, .every = 1});
  ASSERT_TRUE(ranks.ok()) << ranks.status();
  int64_t per_expert = 0, sent = 0;
  for (const auto& [name, bytes] : TogetherOf(*ranks)) {
    if (name.find("blocks.0.") != std::string::npos && name.find(".experts.5.") != std::string::npos) per_expert += bytes.size();
  }
  for (const RankState& rank : *ranks) sent += rank.transfers[0].bytes;
  EXPECT_GT(per_expert, 4 * 4 * 16 * 12);
  EXPECT_EQ(sent, (*ranks)[0].transfers[0].experts * per_expert);
}

TEST(Migration, ADamagedParcelIsRefusedByAllAndNothingMoves) {
  ModelRun run = SmallMixture(kMigrationInvariant);
  run.expert = 2;
  run.steps = 4;
  const auto stayed = RunMigrations({.run = run});
  const auto damaged = RunMigrations({.run = run, .every = 2, .damaged_rank = 1});
  ASSERT_TRUE(stayed.ok()) << stayed.status();
  ASSERT_TRUE(damaged.ok()) << damaged.status();
  for (const RankState& rank : *damaged) {
    EXPECT_TRUE(rank.transfers.empty());
    ASSERT_EQ(rank.failures.size(), 2u);
  }
  EXPECT_NE(std::string((*damaged)[0].failures[0].message()).find("moving experts failed on rank 1"), std::string::npos);
  EXPECT_EQ((*damaged)[1].failures[0].code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(std::string((*damaged)[1].failures[0].message()).find("CRC32C"), std::string::npos);
  for (size_t rank = 0; rank < 2; ++rank) EXPECT_EQ((*stayed)[rank].tensors, (*damaged)[rank].tensors);
  ExpectSameJob(*stayed, *damaged);
}

}  // namespace
}  // namespace conclave
