// A step takes nothing from the heap once the run has warmed up.
#include <gtest/gtest.h>

#include <numeric>

#include "tests/trainer/counted_heap.h"
#include "tests/trainer/labelled_points.h"
#include "tests/trainer/laws.h"
#include "trainer/memory_plan.h"

namespace conclave {
namespace {

constexpr int64_t kCountedSteps = 5;

TEST(CountedHeap, SeesAnAllocation) {
  const CountedHeap heap;
  EXPECT_EQ(heap.ours(), 0);
  const auto one = std::make_unique<int64_t>(1);
  EXPECT_EQ(heap.ours(), 1);
  EXPECT_NE(heap.first(), nullptr);
}

void ExpectNoAllocation(const ModelRun& run, int64_t warm_up) {
  const absl::Status status = RunRanks(run.ranks(), [&](Communicator& world) -> absl::Status {
    Assembly a;
    RETURN_IF_ERROR(BuildRun(run, world, &a));
    RETURN_IF_ERROR(PlanMemory(a).status());
    RETURN_IF_ERROR(a.scheme->Start(*a.field));
    Cursor cursor;
    for (; cursor.step < warm_up; ++cursor.step) RETURN_IF_ERROR(a.scheme->Step(*a.field, cursor, *a.guard).status());
    const int64_t buffers = Buffer::OfThisThread();
    for (; cursor.step < warm_up + kCountedSteps; ++cursor.step) {
      const CountedHeap heap;
      const absl::StatusOr<StepReport> report = a.scheme->Step(*a.field, cursor, *a.guard);
      const int64_t ours = heap.ours();
      EXPECT_EQ(ours, 0) << "rank " << world.rank() << ", step " << cursor.step << ", first called from " << heap.first();
      RETURN_IF_ERROR(report.status());
    }
    RETURN_IF_ERROR(a.scheme->Settle());
    EXPECT_EQ(Buffer::OfThisThread(), buffers);
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
}

// Row counts of experts change from step to step, and each new one may make a product's kernel: in double, where there are none to be made,
// and in float after enough steps to have met them all.
TEST(SteadyStep, OfMixtures) {
  for (const char* more : {"", " parallel { numerics: WORLD_SIZE_INVARIANT }", " model { recompute: BLOCKS }"}) {
    for (const auto& split : {std::pair{1, 1}, {1, 2}, {2, 1}}) {
      SCOPED_TRACE(more + NameOfSplit(split));
      ModelRun run = SmallMixture(more);
      std::tie(run.data, run.expert) = split;
      ExpectNoAllocation(run, 40);
      run.config += " model { precision { compute: F64 } }";
      ExpectNoAllocation(run, 3);
    }
  }
}

TEST(SteadyStep, OfRowsInPieces) {
  for (const char* route : {"FLAT", "DEDUPLICATED fold: true"}) {
    ModelRun run =
        SmallMixture(absl::StrFormat(" parallel { dispatch { route: %s pieces: 3 } } model { precision { compute: F64 } }", route),
                     "moe { shared_hidden: 8 }");
    run.expert = 2;
    ExpectNoAllocation(run, 3);
  }
}

// Every token of the corpus is another one, and from sample `alike` on they are all the same.
class TokensThatBecomeAlike : public Source {
 public:
  TokensThatBecomeAlike(int64_t context, int64_t alike) : mixed_({.vocabulary = 256, .context = context}), alike_(alike) {}
  SampleShape shape() const override { return mixed_.shape(); }
  int64_t size() const override { return mixed_.size(); }
  absl::Status Fetch(int64_t sample, int64_t draw, int64_t row, Batch* batch) const override {
    RETURN_IF_ERROR(mixed_.Fetch(sample, draw, row, batch));
    const int64_t context = mixed_.shape().width;
    if (sample >= alike_) std::fill_n(batch->tokens.data<int32_t>() + row * context, context, 3);
    return absl::OkStatus();
  }

 private:
  RandomTokens mixed_;
  int64_t alike_;
};

// After the warm-up all tokens go to one expert: twice the rows at one rank, and twice the pieces, or pieces for the first time.
TEST(SteadyStep, OfRowsInMorePiecesThanEverBefore) {
  constexpr int64_t kWarmUp = 2, kBatch = 512, kContext = 8;
  for (const int64_t most_rows : {1280, 4000}) {
    ModelRun run = SmallMixture(absl::StrFormat(" parallel { dispatch { most_rows: %d beyond_most_rows: IN_PIECES } }"
                                                " trainer { workers: 2 global_batch: %d } model { precision { compute: F64 } }",
                                                most_rows, kBatch),
                                absl::StrFormat("vocab_size: 256 layers: 1 position: ROTARY context: %d moe { top_k: 1 }", kContext));
    run.source = [=] { return std::make_unique<TokensThatBecomeAlike>(kContext, kWarmUp * kBatch); };
    run.expert = 2;
    run.steps = kWarmUp + 1;
    const auto outcome = RunModel(run);
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    const auto rows_of_a_rank = [&](int64_t step) {
      const auto& loads = outcome->reports[step].evaluation.counters;
      const int64_t first = std::accumulate(loads.begin(), loads.begin() + 4, int64_t{0});
      return std::max(first, kBatch * kContext - first);
    };
    EXPECT_LT(rows_of_a_rank(kWarmUp - 1), kBatch * kContext * 3 / 4);
    EXPECT_EQ(rows_of_a_rank(kWarmUp), kBatch * kContext);
    ExpectNoAllocation(run, kWarmUp);
  }
}

TEST(SteadyStep, OfAnEmbeddingInParts) {
  ModelRun run = SmallMixture(" model { precision { compute: F64 } }", "tied_head: false embedding_parts: 4");
  run.expert = 2;
  ExpectNoAllocation(run, 3);
}

TEST(SteadyStep, OfMixturesWithShardedUpdates) {
  ModelRun run = SmallMixture(" parallel { updates: SHARDED } model { precision { compute: F64 } }");
  run.data = 2;
  ExpectNoAllocation(run, 3);
}

TEST(SteadyStep, OfVaes) {
  class Normals : public Source {
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
  ModelRun run{.config =
                   "name: 'vae' trainer { workers: 4 global_batch: 8 } optim { first_order { lr: 0.01 rule { adamw {} } } }"
                   " model { linear_vae { data_dim: 5 latent_dim: 2 samples: 2 } }"};
  run.source = [] { return std::make_unique<Normals>(); };
  for (const int ranks : {1, 2}) {
    run.data = ranks;
    ExpectNoAllocation(run, 3);
  }
}

TEST(SteadyStep, OfPerturbedSamples) {
  for (const char* every_point : {"false", "true"}) {
    const ModelRun run{.config = absl::StrFormat("name: 'robust' trainer { workers: 2 global_batch: 8 } optim { first_order { lr: 0.01 rule"
                                                 " { adamw {} } } } model { robust_mlp { inputs: 5 classes: 2 hidden: 4"
                                                 " perturbation { moves: 2 every_point: %s } } }",
                                                 every_point),
                       .source = [] { return std::make_unique<LabelledPoints>(5); }};
    ExpectNoAllocation(run, 8);
  }
}

TEST(SteadyStep, OfGames) {
  for (const char* scheme : {"extragradient { gamma: 0.3 }", "gda { gamma: 0.1 }", "ogda { gamma: 0.1 }",
                             "masha1 { gamma: 0.1 p: 0.4 participants: 3 exchange { quantized { codec { perm_k {} } } } }",
                             "masha1 { gamma: 0.1 p: 0.4 participants: 3 exchange { quantized { codec { qsgd { levels: 4 } } } downlink { "
                             "codec { natural {} } } } }",
                             "masha1 { gamma: 0.1 p: 0.4 participants: 1 }"}) {
    for (const int ranks : {1, 2}) {
      ModelRun run{.config = absl::StrFormat("name: 'game' trainer { workers: 4 global_batch: 0 } optim { %s }"
                                             " model { bilinear_game { dim: 6 lambda: 0.1 } }",
                                             scheme)};
      run.data = ranks;
      SCOPED_TRACE(scheme);
      ExpectNoAllocation(run, 8);  // with a refresh of masha1 among them
    }
  }
}

}  // namespace
}  // namespace conclave
