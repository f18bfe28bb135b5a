#include "trainer/assembly.h"

#include <cmath>

#include <gtest/gtest.h>

#include "tests/trainer/model_run.h"
#include "trainer/agreement.h"

namespace conclave {
namespace {

TEST(AgreeOn, TheLowestFailingRankSpeaks) {
  std::vector<absl::Status> fine(3), broken(3);
  ASSERT_TRUE(RunRanks(3, [&](Communicator& world) {
                const int rank = world.rank();
                fine[rank] = AgreeOn(world, absl::OkStatus(), "building");
                broken[rank] = AgreeOn(world, rank == 0 ? absl::OkStatus() : NotFound("no file on rank %d", rank), "opening");
                return absl::OkStatus();
              }).ok());
  for (const absl::Status& status : fine) EXPECT_TRUE(status.ok());
  EXPECT_EQ(broken[0].code(), absl::StatusCode::kAborted);
  EXPECT_NE(std::string(broken[0].message()).find("opening failed on rank 1"), std::string::npos) << broken[0];
  EXPECT_EQ(broken[1], NotFound("no file on rank %d", 1));
  EXPECT_EQ(broken[2].code(), absl::StatusCode::kAborted);
}

constexpr char kVae[] = R"(name: "vae"
  trainer { workers: 4 global_batch: 8 steps: 2 }
  optim { first_order { lr: 0.01 rule { sgd {} } } }
  model { linear_vae { data_dim: 5 latent_dim: 2 } }
  data { sources { gaussian { dim: 5 samples: 100 eigenvalues: 4 } } }
)";

// The outcome of Assemble on every rank; where it is OK, the objective of step 0.
struct Assembled {
  std::vector<absl::Status> statuses;
  std::vector<double> objectives;
};

Assembled AssembleOn(int ranks, const std::string& text) {
  Assembled result{std::vector<absl::Status>(ranks), std::vector<double>(ranks)};
  const absl::Status status = RunRanks(ranks, [&](Communicator& world) -> absl::Status {
    Assembly a;
    absl::Status& mine = result.statuses[world.rank()];
    mine = Assemble(ParseExperiment(text), world, RealFileSystem(), &a);
    if (!mine.ok()) return absl::OkStatus();
    ASSIGN_OR_RETURN(const StepReport report, a.scheme->Step(*a.field, Cursor{}, *a.guard));
    result.objectives[world.rank()] = report.evaluation.objective;
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
  return result;
}

TEST(Assemble, BuildsARunFromAConfigAlone) {
  const std::string game =
      "name: 'game' trainer { workers: 4 global_batch: 0 } optim { extragradient { gamma: 0.1 } } model { bilinear_game { dim: 3 } }";
  for (const std::string& text : {std::string(kVae), game}) {
    const std::string invariant = text + " parallel { numerics: WORLD_SIZE_INVARIANT }";
    const Assembled alone = AssembleOn(1, invariant);
    ASSERT_TRUE(alone.statuses[0].ok()) << alone.statuses[0];
    EXPECT_TRUE(std::isfinite(alone.objectives[0]));
    EXPECT_NE(alone.objectives[0], 0);
    for (const int ranks : {2, 3}) {
      const Assembled together = AssembleOn(ranks, invariant);
      for (int r = 0; r < ranks; ++r) {
        ASSERT_TRUE(together.statuses[r].ok()) << together.statuses[r];
        EXPECT_EQ(together.objectives[r], alone.objectives[0]);
      }
    }
  }
}

// Every rank refuses, and the first one with the reason.
void ExpectRefused(int ranks, const std::string& text, const std::string& reason) {
  const Assembled result = AssembleOn(ranks, text);
  for (const absl::Status& status : result.statuses) EXPECT_FALSE(status.ok()) << reason;
  EXPECT_NE(std::string(result.statuses[0].message()).find(reason), std::string::npos) << result.statuses[0];
}

TEST(Assemble, RefusesOnEveryRank) {
  const std::string vae = kVae;
  ExpectRefused(3, vae + "trainer { workers: 2 }", "2 workers cannot fill 3 ranks");
  ExpectRefused(2, vae + "parallel { data: 2 expert: 2 }", "but the job has 2");
  ExpectRefused(2, vae + "model { linear_vae { data_dim: 6 } }",
                "the model takes feature vectors of width 6, the sources give feature vectors of width 5");
  ExpectRefused(2, vae + "trainer { global_batch: 6 }", "must be a multiple");
  ExpectRefused(2, vae + "optim { clip_norm: 1 extragradient { gamma: 0.1 } }", "clip_norm");
  ExpectRefused(2, vae + "model { moe_lm { vocab_size: 8 width: 8 heads: 2 moe { experts: 3 } } } parallel { expert: 2 }",
                "the model takes token sequences");
  ExpectRefused(2, vae + "parallel { updates: SHARDED rebalance { every: 5 } }", "choose one of the two");
  ExpectRefused(2, vae + "model { recompute: BLOCKS }", "only language models are made of blocks");
  ExpectRefused(1, vae + "data { sources { text { path: \"no/such/file\" } } }", "no/such/file");
}

}  // namespace
}  // namespace conclave
