// Parity, WORLD_SIZE_INVARIANT, and what else must not depend on how a run is cut.
#include "tests/trainer/laws.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace conclave {
namespace {

constexpr char kInvariant[] = "parallel { numerics: WORLD_SIZE_INVARIANT }";

void ExpectSameOnEverySplit(ModelRun run, const std::vector<int>& ranks, int experts) {
  const auto alone = RunModel(run);
  ASSERT_TRUE(alone.ok()) << alone.status();
  ASSERT_TRUE(std::isfinite(alone->loss()));
  for (const int count : ranks) {
    for (const auto& split : Splits(count, experts)) {
      std::tie(run.data, run.expert) = split;
      const auto together = RunModel(run);
      ASSERT_TRUE(together.ok()) << NameOfSplit(split) << ": " << together.status();
      EXPECT_EQ(FirstDifference(*together, *alone), "") << NameOfSplit(split);
    }
  }
}

TEST(WorldSizeInvariant, EverySplitGivesTheSameBits) { ExpectSameOnEverySplit(SmallMixture(kInvariant), {2, 3, 4, 8}, 8); }

TEST(WorldSizeInvariant, AlsoForTheOtherKindsOfLayers) {
  ExpectSameOnEverySplit(SmallMixture(kInvariant,
                                      "position: ROTARY norm: RMS_NORM activation: SWIGLU tied_head: false bias: true"
                                      " moe { router: SOFTMAX_POST top_k: 3 balance_scope: SEQUENCE balance_loss: 0.1 every: 2 }"),
                         {2, 3, 4}, 8);
}

// What a router drops or what experts choose is a matter of one leaf, and loads are counted over all: neither depends on the mesh.
TEST(WorldSizeInvariant, AlsoForTheOtherRouters) {
  for (const char* moe :
       {"router: SIGMOID bias_rate: 0.05 groups: 4 group_top_k: 2 group_score_top: 2 top_k: 3 shared_hidden: 8 shared_gate: true",
        "capacity { factor: 0.75 }", "router: EXPERT_CHOICE capacity { factor: 1.5 }"}) {
    SCOPED_TRACE(moe);
    ModelRun run = SmallMixture(kInvariant, absl::StrFormat("kv_heads: 1 qk_norm: QK_NORM_PER_HEAD moe { %s }", moe));
    run.steps = 3;
    ExpectSameOnEverySplit(run, {2, 4}, 8);
  }
}

TEST(WorldSizeInvariant, AlsoWithBf16Products) {
  const std::string bf16 = std::string(kInvariant) + " model { precision { compute: BF16 } }";
  ModelRun run = SmallMixture(bf16);
  run.steps = 3;
  ExpectSameOnEverySplit(run, {2, 4}, 8);
  const auto rounded = RunModel(run);
  ModelRun full = SmallMixture(kInvariant), router = SmallMixture(bf16 + " model { precision { router: BF16 } }");
  full.steps = router.steps = run.steps;
  const auto exact = RunModel(full), all = RunModel(router);
  ASSERT_TRUE(rounded.ok() && exact.ok() && all.ok());
  EXPECT_NEAR(rounded->loss(), exact->loss(), 0.02 * exact->loss());
  EXPECT_NE(rounded->loss(), exact->loss());
  EXPECT_NE(rounded->loss(), all->loss());
}

// The way of rows, and what is rounded on it, are no matter of the mesh.
TEST(WorldSizeInvariant, AlsoForEveryRoute) {
  for (const char* dispatch : {"route: DEDUPLICATED_HIERARCHICAL ranks_per_node: 1",
                               "route: DEDUPLICATED dispatch_forward: INT8 combine_forward: BF16"
                               " combine_backward: FP8 dispatch_backward: BF16"}) {
    SCOPED_TRACE(dispatch);
    ModelRun run = SmallMixture(absl::StrFormat("parallel { numerics: WORLD_SIZE_INVARIANT dispatch { %s } }", dispatch),
                                "moe { combine_order: EXACT top_k: 3 }");
    run.steps = 2;
    ExpectSameOnEverySplit(run, {2, 4}, 8);
  }
}

// A run does not depend on the route, nor, with two experts a token, on where their outputs are added up.
TEST(Dispatch, RoutesAndSumsChangeNoBitOfARun) {
  ModelRun run = SmallMixture("");
  run.data = 1, run.expert = 4, run.steps = 3;
  const auto flat = RunModel(run);
  ASSERT_TRUE(flat.ok()) << flat.status();
  for (const char* route : {"DEDUPLICATED", "HIERARCHICAL", "DEDUPLICATED_HIERARCHICAL", "AUTO"}) {
    for (const char* order : {"EXACT", "PRE_REDUCE"}) {
      ModelRun other = SmallMixture(absl::StrFormat("parallel { dispatch { route: %s ranks_per_node: 2 } }", route),
                                    absl::StrFormat("moe { combine_order: %s }", order));
      other.data = 1, other.expert = 4, other.steps = 3;
      const auto got = RunModel(other);
      ASSERT_TRUE(got.ok()) << got.status();
      EXPECT_EQ(FirstDifference(*got, *flat), "") << route << ' ' << order;
    }
  }
}

// Nor, with any number of experts a token, on whether first slots come home as their sum.
TEST(Dispatch, FoldingChangesNoBitOfARun) {
  ModelRun run = SmallMixture("", "moe { top_k: 5 }");
  run.data = 1, run.expert = 4, run.steps = 3;
  const auto flat = RunModel(run);
  ASSERT_TRUE(flat.ok()) << flat.status();
  for (const char* route : {"DEDUPLICATED", "DEDUPLICATED_HIERARCHICAL"}) {
    ModelRun folding =
        SmallMixture(absl::StrFormat("parallel { dispatch { route: %s ranks_per_node: 2 fold: true } }", route), "moe { top_k: 5 }");
    folding.data = 1, folding.expert = 4, folding.steps = 3;
    const auto got = RunModel(folding);
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(FirstDifference(*got, *flat), "") << route;
  }
}

// Nor on the pieces in which rows travel, beside the shared expert, with blocks recorded a second time or not.
TEST(Dispatch, PiecesChangeNoBitOfARun) {
  const char* const moe = "moe { top_k: 3 shared_hidden: 8 }";
  for (const std::string& more : {std::string(), std::string(kInvariant), std::string(" model { recompute: BLOCKS }")}) {
    ModelRun whole = SmallMixture(more, moe);
    whole.data = 1, whole.expert = 4, whole.steps = 3;
    const auto want = RunModel(whole);
    ASSERT_TRUE(want.ok()) << want.status();
    for (const char* route : {"FLAT", "DEDUPLICATED_HIERARCHICAL fold: true"}) {
      ModelRun cut = SmallMixture(absl::StrFormat("parallel { dispatch { route: %s ranks_per_node: 2 pieces: 3 } } %s", route, more), moe);
      cut.data = 1, cut.expert = 4, cut.steps = 3;
      const auto got = RunModel(cut);
      ASSERT_TRUE(got.ok()) << got.status();
      EXPECT_EQ(FirstDifference(*got, *want), "") << route << more;
    }
  }
}

TEST(WorldSizeInvariant, AlsoWithUnevenWorkers) {
  ModelRun run = SmallMixture(std::string(kInvariant) + " trainer { workers: 7 global_batch: 14 }");
  run.steps = 2;
  ExpectSameOnEverySplit(run, {2, 4, 5}, 8);
}

TEST(WorldSizeInvariant, GamesUnderEveryScheme) {
  for (const char* scheme : {"extragradient { gamma: 0.3 }", "gda { gamma: 0.1 }",
                             "masha1 { gamma: 0.1 p: 0.5 exchange { quantized { codec { rand_k { fraction: 0.5 } } } } }"}) {
    const ModelRun run{.config = absl::StrFormat("name: 'game' trainer { workers: 4 global_batch: 0 } optim { %s } %s"
                                                 " model { bilinear_game { dim: 6 heterogeneity: 0.5 lambda: 0.1 } }",
                                                 scheme, kInvariant),
                       .steps = 8};
    SCOPED_TRACE(scheme);
    ExpectSameOnEverySplit(run, {2, 3, 4}, 1);
  }
}

TEST(WorldSizeInvariant, SampledModels) {
  ModelRun run{.config =
                   "name: 'vae' trainer { workers: 4 global_batch: 8 } optim { first_order { lr: 0.01 rule { sgd {} } } }"
                   " parallel { numerics: WORLD_SIZE_INVARIANT } model { linear_vae { data_dim: 5 latent_dim: 2 samples: 2 } }"};
  class Features : public Source {
   public:
    SampleShape shape() const override { return {SampleShape::Kind::kFeatures, 5}; }
    int64_t size() const override { return 64; }
    absl::Status Fetch(int64_t sample, int64_t, int64_t row, Batch* batch) const override {
      for (int64_t i = 0; i < 5; ++i)
        batch->features.data<float>()[row * 5 + i] = static_cast<float>(RngKey{.seed = 1}.Normal(sample * 5 + i));
      ++batch->count;
      return absl::OkStatus();
    }
  };
  run.source = [] { return std::make_unique<Features>(); };
  ExpectSameOnEverySplit(run, {2, 3, 4}, 1);
}

// Cutting workers into leaves changes no bit: the tree and the balance scope count leaves.
TEST(MicroBatches, AreWorkersThatShareAnExchange) {
  const auto eight = RunModel(SmallMixture(kInvariant));
  ASSERT_TRUE(eight.ok()) << eight.status();
  for (const auto& [workers, leaves] : {std::pair{4, 2}, {2, 4}, {1, 8}}) {
    ModelRun run = SmallMixture(kInvariant + absl::StrFormat(" trainer { workers: %d micro_batches: %d }", workers, leaves));
    for (const auto& split : {std::pair{1, 1}, {1, 2}, {2, 1}, {2, 2}}) {
      if (split.first * split.second > workers) continue;
      std::tie(run.data, run.expert) = split;
      const auto cut = RunModel(run);
      ASSERT_TRUE(cut.ok()) << cut.status();
      EXPECT_EQ(FirstDifference(*cut, *eight), "") << workers << " workers, " << NameOfSplit(split);
    }
  }
}

// Per tensor max |diff| <= 1e-12 max(1, max |p|).
void ExpectClose(const ModelOutcome& got, const ModelOutcome& want, const std::string& what) {
  ASSERT_EQ(got.parameters.size(), want.parameters.size()) << what;
  for (const auto& [name, bytes] : want.parameters) {
    const std::vector<double> a = got.Doubles(name), b = want.Doubles(name);
    ASSERT_EQ(a.size(), b.size());
    double largest = 1, worst = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      largest = std::max(largest, std::abs(b[i]));
      worst = std::max(worst, std::abs(a[i] - b[i]));
    }
    EXPECT_LE(worst, 1e-12 * largest) << what << ": " << name;
  }
  for (size_t i = 0; i < want.reports.size(); ++i) {
    EXPECT_NEAR(got.reports[i].evaluation.objective, want.reports[i].evaluation.objective,
                1e-12 * std::abs(want.reports[i].evaluation.objective))
        << what;
    EXPECT_NEAR(got.reports[i].gradient_norm, want.reports[i].gradient_norm, 1e-11 * want.reports[i].gradient_norm) << what;
    EXPECT_NEAR(got.reports[i].clip_factor, want.reports[i].clip_factor, 1e-11) << what;
    EXPECT_EQ(got.reports[i].evaluation.counters, want.reports[i].evaluation.counters) << what;
  }
}

TEST(Parity, TwentyStepsInDoubleOnEverySplit) {
  ModelRun run = SmallMixture("", "");
  run.config += " model { precision { compute: F64 } }";
  run.steps = 20;
  const auto alone = RunModel(run);
  ASSERT_TRUE(alone.ok()) << alone.status();
  EXPECT_LT(alone->loss(), alone->reports[0].evaluation.objective);
  for (const int ranks : {2, 4, 8}) {
    for (const auto& split : Splits(ranks, 8)) {
      std::tie(run.data, run.expert) = split;
      const auto together = RunModel(run);
      ASSERT_TRUE(together.ok()) << NameOfSplit(split) << ": " << together.status();
      ExpectClose(*together, *alone, NameOfSplit(split));
    }
  }
  // Leaves of a worker folded from left to right, and all workers kept apart.
  std::tie(run.data, run.expert) = std::pair{1, 2};
  const std::string config = run.config;
  for (const char* more : {" trainer { workers: 2 micro_batches: 4 }", " parallel { numerics: WORLD_SIZE_INVARIANT }"}) {
    run.config = config + more;
    const auto cut = RunModel(run);
    ASSERT_TRUE(cut.ok()) << cut.status();
    ExpectClose(*cut, *alone, more);
  }
}

// Ranks without a leaf in the last micro-step still hand over what their earlier leaves left.
TEST(Parity, WorkersThatDoNotDivide) {
  ModelRun mixture = SmallMixture(" model { precision { compute: F64 } } trainer { workers: 7 global_batch: 14 }");
  const ModelRun game{.config =
                          "name: 'game' trainer { workers: 4 global_batch: 0 } optim { extragradient { gamma: 0.3 } }"
                          " model { precision { compute: F64 } bilinear_game { dim: 6 heterogeneity: 0.5 lambda: 0.1 } }",
                      .steps = 8};
  for (ModelRun run : {mixture, game}) {
    const auto alone = RunModel(run);
    ASSERT_TRUE(alone.ok()) << alone.status();
    for (const auto& split : {std::pair{3, 1}, {2, 1}, {2, 2}}) {
      std::tie(run.data, run.expert) = split;
      const auto together = RunModel(run);
      ASSERT_TRUE(together.ok()) << NameOfSplit(split) << ": " << together.status();
      ExpectClose(*together, *alone, NameOfSplit(split));
    }
  }
}

// The same mesh gives the same bits twice, in either numerics.
TEST(FixedMesh, RunsRepeat) {
  ModelRun run = SmallMixture("");
  std::tie(run.data, run.expert) = std::pair{2, 2};
  const auto first = RunModel(run), second = RunModel(run);
  ASSERT_TRUE(first.ok() && second.ok()) << first.status() << second.status();
  EXPECT_EQ(FirstDifference(*first, *second), "");
}

TEST(Groups, FrozenBlocksKeepTheirBits) {
  ModelRun run = SmallMixture(std::string(kInvariant) +
                              " optim { groups { pattern: '*.router.*' frozen: true } groups { pattern: '*.experts.3.*' frozen: true } }");
  std::tie(run.data, run.expert) = std::pair{1, 2};
  const auto trained = RunModel(run);
  run.steps = 0;
  const auto initial = RunModel(run);
  ASSERT_TRUE(trained.ok() && initial.ok()) << trained.status() << initial.status();
  int frozen = 0;
  for (const auto& [name, bytes] : initial->parameters) {
    const bool keeps = name.find(".router.") != std::string::npos || name.find(".experts.3.") != std::string::npos;
    EXPECT_EQ(trained->parameters.at(name) == bytes, keeps) << name;
    frozen += keeps;
  }
  EXPECT_EQ(frozen, 2 * 3);
}

// One sample of one worker makes the router's logits NaN: every rank refuses that step, with the reason, and training goes on.
TEST(Poison, AllRanksRefuseTheStepTogether) {
  for (const std::string numerics : {"", kInvariant}) {
    for (const auto& split : {std::pair{1, 1}, {1, 2}, {2, 2}}) {
      SCOPED_TRACE(numerics + NameOfSplit(split));
      ModelRun run = SmallMixture(numerics, "tied_head: false");
      std::tie(run.data, run.expert) = split;
      run.source = [] { return std::make_unique<RandomTokens>(RandomTokens::Options{.marked = 2 * 16 + 5}); };
      run.prepare = [](const ParameterSet& parameters, FlatVector& point) {
        const Tensor row = point.block(parameters.Find("embedding.weight")).Slice(15, 1);
        row.Fill(std::numeric_limits<double>::quiet_NaN());
      };
      const auto through = RunModel(run);
      ASSERT_TRUE(through.ok()) << through.status();
      for (int step = 0; step < 4; ++step) {
        const StepReport& report = through->reports[step];
        EXPECT_EQ(report.skipped, step == 2) << "step " << step << ": " << report.reason;
        EXPECT_EQ(std::isfinite(report.evaluation.objective), step != 2) << "step " << step;
      }
      EXPECT_NE(through->reports[2].reason, "");
      run.steps = 2;
      const auto before = RunModel(run);
      run.steps = 3;
      const auto after = RunModel(run);
      ASSERT_TRUE(before.ok() && after.ok());
      EXPECT_TRUE(before->parameters == after->parameters);  // the refused step wrote nothing
      EXPECT_FALSE(after->parameters == through->parameters);
    }
  }
}

// Scope GLOBAL over two ranks sees the load of the whole step: the value is that of one leaf holding all its tokens.
TEST(BalanceScope, GlobalIsTheWholeStep) {
  const auto run = [](const std::string& scope, int workers, std::pair<int, int> split) {
    ModelRun r =
        SmallMixture(absl::StrFormat("trainer { workers: %d }", workers), "moe { balance_scope: " + scope + " balance_loss: 0.5 }");
    r.config += " model { precision { compute: F64 } }";
    r.source = [] { return std::make_unique<RandomTokens>(RandomTokens::Options{}); };
    std::tie(r.data, r.expert) = split;
    r.steps = 5;
    return RunModel(r);
  };
  const auto balance = [](const ModelOutcome& outcome, size_t step) {
    for (const Term& term : outcome.reports[step].evaluation.terms) {
      if (term.name == "balance") return term.value;
    }
    return 0.0;
  };
  const auto whole = run("WORKER", 1, {1, 1}), alone = run("GLOBAL", 1, {1, 1});
  ASSERT_TRUE(whole.ok() && alone.ok()) << whole.status() << alone.status();
  EXPECT_EQ(FirstDifference(*alone, *whole), "");
  for (const auto& split : {std::pair{1, 2}, {2, 1}}) {
    const auto together = run("GLOBAL", 2, split);
    ASSERT_TRUE(together.ok()) << together.status();
    for (size_t step = 0; step < 5; ++step) {
      EXPECT_GT(balance(*whole, step), 2.0);  // two layers, each at least 1 near uniform probabilities
      EXPECT_NEAR(balance(*together, step), balance(*whole, step), 1e-12) << NameOfSplit(split) << " step " << step;
    }
    ExpectClose(*together, *whole, NameOfSplit(split));
  }
  const auto local = run("WORKER", 2, {1, 2});
  ASSERT_TRUE(local.ok());
  EXPECT_GT(std::abs(balance(*local, 0) - balance(*whole, 0)), 1e-6);  // the scopes are not the same thing
}

}  // namespace
}  // namespace conclave
