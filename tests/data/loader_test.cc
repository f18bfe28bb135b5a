#include "data/loader.h"

#include <algorithm>
#include <map>

#include "tests/data/data_testing.h"

namespace conclave {
namespace {

Loader MakeLoader(const LoaderOptions& options, const std::vector<int64_t>& sizes, const std::vector<double>& weights = {}) {
  std::vector<WeightedSource> sources;
  for (size_t i = 0; i < sizes.size(); ++i)
    sources.push_back({weights.empty() ? 1 : weights[i], std::make_unique<CountingSource>(sizes[i])});
  absl::StatusOr<Loader> loader = Loader::Create(options, std::move(sources));
  CHECK_OK(loader.status());
  return *std::move(loader);
}

// The samples of a step in logical order: workers, leaves, rows.
std::vector<int32_t> StepSamples(const Loader& loader, const LoaderOptions& options, const SampleKey& key) {
  std::vector<int32_t> samples;
  BatchBuffer buffer(loader.shape(), loader.rows(), DType::kF32);
  for (int worker = 0; worker < options.workers; ++worker) {
    for (int64_t leaf = 0; leaf < options.micro_batches; ++leaf) {
      CHECK_OK(loader.FillLeaf(key, {worker}, leaf, &buffer));
      const std::vector<int32_t> rows = Values(buffer.batch().tokens);
      samples.insert(samples.end(), rows.begin(), rows.end());
    }
  }
  return samples;
}

TEST(Loader, AnEpochCoversEverySampleOnceForAnyWorkerCount) {
  constexpr int64_t kSize = 96, kBatch = 24;
  for (const int workers : {1, 2, 3, 4, 8, 24}) {
    const LoaderOptions options = {.seed = 5, .workers = workers, .global_batch = kBatch, .micro_batches = workers <= 4 ? 2 : 1};
    const Loader loader = MakeLoader(options, {kSize});
    for (uint32_t epoch = 0; epoch < 3; ++epoch) {
      std::vector<int> seen(kSize);
      for (uint32_t step = 0; step < kSize / kBatch; ++step) {
        for (const int32_t sample : StepSamples(loader, options, {.step = epoch * 4 + step})) ++seen[sample];
      }
      EXPECT_EQ(seen, std::vector<int>(kSize, 1)) << workers << " workers, epoch " << epoch;
    }
  }
}

TEST(Loader, TheGlobalBatchDependsOnNoWorkerCount) {
  LoaderOptions one = {.seed = 9, .workers = 1, .global_batch = 24};
  const Loader reference = MakeLoader(one, {1000, 77}, {3, 1});
  for (const int workers : {2, 3, 4, 6, 12, 24}) {
    for (const int64_t micro_batches : {1, 2}) {
      if (24 % (workers * micro_batches) != 0) continue;
      const LoaderOptions options = {.seed = 9, .workers = workers, .global_batch = 24, .micro_batches = micro_batches};
      const Loader loader = MakeLoader(options, {1000, 77}, {3, 1});
      for (const uint32_t step : {0u, 1u, 50u, 4000000000u}) {
        const SampleKey key = {.step = step, .draw = step % 3};
        EXPECT_EQ(StepSamples(loader, options, key), StepSamples(reference, one, key))
            << workers << " x " << micro_batches << ", step " << step;
      }
    }
  }
}

TEST(Loader, OrderDiffersByEpochDrawAndSeedButNotByCall) {
  const LoaderOptions options = {.seed = 9, .global_batch = 64}, other_seed = {.seed = 10, .global_batch = 64};
  const Loader loader = MakeLoader(options, {64}), other = MakeLoader(other_seed, {64});
  const std::vector<int32_t> first = StepSamples(loader, options, {.step = 0});
  EXPECT_EQ(StepSamples(loader, options, {.step = 0}), first);
  for (const auto& samples : {StepSamples(loader, options, {.step = 1}), StepSamples(loader, options, {.step = 0, .draw = 1}),
                              StepSamples(other, other_seed, {.step = 0})}) {
    EXPECT_NE(samples, first);
    EXPECT_TRUE(std::ranges::is_permutation(samples, first));
  }
}

TEST(Loader, WithoutShuffleTheOrderIsTheSources) {
  const LoaderOptions options = {.global_batch = 4, .shuffle = false};
  const Loader loader = MakeLoader(options, {6});
  EXPECT_EQ(StepSamples(loader, options, {.step = 0}), (std::vector<int32_t>{0, 1, 2, 3}));
  EXPECT_EQ(StepSamples(loader, options, {.step = 1}), (std::vector<int32_t>{4, 5, 0, 1}));
  EXPECT_EQ(loader.Locate(7, 0).epoch, 1);
}

TEST(Loader, MixedSourcesAreEachRunThroughWithoutRepeats) {
  const LoaderOptions options = {.seed = 3, .global_batch = 8};
  const Loader loader = MakeLoader(options, {3000, 500}, {1, 1});
  std::map<std::pair<int, int64_t>, std::vector<int64_t>> epochs;  // {source, epoch} -> samples
  for (int64_t position = 0; position < 2 * Mixture::kBlock; ++position) {
    const Loader::Address at = loader.Locate(position, 0);
    epochs[{at.source, at.epoch}].push_back(at.sample);
  }
  for (const auto& [key, whole_size] : std::map<std::pair<int, int64_t>, int64_t>{{{0, 0}, 3000}, {{1, 0}, 500}, {{1, 7}, 500}}) {
    std::vector<int64_t> samples = epochs[key];
    std::ranges::sort(samples);
    ASSERT_EQ(static_cast<int64_t>(samples.size()), whole_size);
    for (int64_t i = 0; i < whole_size; ++i) ASSERT_EQ(samples[i], i);
  }
}

TEST(Loader, RowsAreAddressedInsideTheWorker) {
  const LoaderOptions options = {.workers = 3, .global_batch = 12, .micro_batches = 2};
  const Loader loader = MakeLoader(options, {50});
  BatchBuffer buffer(loader.shape(), loader.rows(), DType::kF32);
  ASSERT_TRUE(loader.FillLeaf({.step = 5}, {2}, 1, &buffer).ok());
  EXPECT_EQ(buffer.batch().worker, WorkerId{2});
  EXPECT_EQ(buffer.batch().first_row, 2);
  EXPECT_EQ(buffer.batch().sequences, 2);
  EXPECT_EQ(buffer.batch().count, 2);
  EXPECT_EQ(buffer.batch().key.step, 5u);
}

TEST(Loader, FullPassesSplitTheDataAmongWorkers) {
  for (const int64_t size : {100, 7}) {  // 7: some leaves are empty
    const LoaderOptions options = {.workers = 5, .global_batch = 10, .micro_batches = 2};
    const Loader loader = MakeLoader(options, {size});
    std::vector<int32_t> samples = StepSamples(loader, options, {.full = true});
    ASSERT_EQ(static_cast<int64_t>(samples.size()), size);
    for (int64_t i = 0; i < size; ++i) EXPECT_EQ(samples[i], i);
    BatchBuffer buffer(loader.shape(), loader.rows(), DType::kF32);
    int64_t row = 0;
    for (int64_t leaf = 0; leaf < 2; ++leaf) {
      ASSERT_TRUE(loader.FillLeaf({.full = true}, {3}, leaf, &buffer).ok());
      EXPECT_EQ(buffer.batch().first_row, row);
      row += buffer.batch().sequences;
    }
  }
}

TEST(Loader, FullPassOverAMixtureIsRefused) {
  const LoaderOptions options = {.global_batch = 2};
  const Loader loader = MakeLoader(options, {10, 10});
  BatchBuffer buffer(loader.shape(), 2, DType::kF32);
  EXPECT_EQ(loader.FillLeaf({.full = true}, {0}, 0, &buffer).code(), absl::StatusCode::kFailedPrecondition);
}

TEST(Loader, SkippingMovesTheStreamUp) {
  const LoaderOptions options = {.seed = 4, .global_batch = 10};
  const Loader plain = MakeLoader(options, {1000});
  Loader skipping = MakeLoader(options, {1000});
  std::vector<int64_t> expected;
  for (int64_t position = 0; position < 300; ++position) expected.push_back(plain.Locate(position, 0).sample);
  const auto skip = [&](int64_t position, int64_t count) {
    ASSERT_TRUE(skipping.Skip(position, count).ok());
    expected.erase(expected.begin() + position, expected.begin() + position + count);
    for (size_t i = 0; i < expected.size(); ++i)
      ASSERT_EQ(skipping.Locate(static_cast<int64_t>(i), 0).sample, expected[i]) << "position " << i;
  };
  skip(50, 20);
  skip(100, 10);
  skip(30, 40);  // over the first
  skip(10, 1);
  skip(0, 100);  // over all of them
  EXPECT_EQ(skipping.skipped().size(), 1u);

  // The list is all the state: a loader made with it continues the same stream.
  LoaderOptions resumed_options = options;
  resumed_options.skipped = skipping.skipped();
  const Loader resumed = MakeLoader(resumed_options, {1000});
  for (int64_t i = 0; i < 100; ++i) EXPECT_EQ(resumed.Locate(i, 0).sample, expected[i]);
  EXPECT_FALSE(skipping.Skip(-1, 3).ok());
  EXPECT_FALSE(skipping.Skip(3, 0).ok());
}

TEST(Loader, BadOptionsAreRefused) {
  const auto error = [](const LoaderOptions& options) {
    std::vector<WeightedSource> sources;
    sources.push_back({1, std::make_unique<CountingSource>(10)});
    return Loader::Create(options, std::move(sources)).status();
  };
  EXPECT_TRUE(error({.workers = 2, .global_batch = 4, .micro_batches = 2}).ok());
  EXPECT_FALSE(error({.workers = 2, .global_batch = 6, .micro_batches = 2}).ok());
  EXPECT_FALSE(error({.workers = 0, .global_batch = 6}).ok());
  EXPECT_FALSE(error({.global_batch = 1, .skipped = {{5, 3}, {7, 1}}}).ok());
  EXPECT_FALSE(Loader::Create({.global_batch = 1}, {}).ok());
}

}  // namespace
}  // namespace conclave
