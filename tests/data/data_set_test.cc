#include "data/data_set.h"

#include <cmath>

#include "base/rng.h"
#include "data/token_shard.h"
#include "tests/data/data_testing.h"

namespace conclave {
namespace {

constexpr LoaderOptions kTwoWorkers = {.seed = 11, .workers = 2, .global_batch = 4};

// Windows of shards that hold the tokens 0, 1, 2, ...: a target always follows its input.
DataSet OpenRamp(const ScratchFolder& scratch, int64_t tokens, int64_t context, const std::string& more,
                 const LoaderOptions& options = kTwoWorkers) {
  std::vector<int32_t> ramp(static_cast<size_t>(tokens));
  for (int64_t i = 0; i < tokens; ++i) ramp[i] = static_cast<int32_t>(i);
  CHECK_OK(WriteTokenShard(scratch / "ramp.bin", ramp, 257, RealFileSystem()));
  auto config = ParseText<DataConfig>("tokenizer { bytes {} } " + more);
  auto* source = config.add_sources();
  source->set_weight(1);
  source->mutable_shards()->set_path(scratch / "*.bin");
  absl::StatusOr<DataSet> data = OpenData(config, options, context, RealFileSystem());
  CHECK_OK(data.status());
  return *std::move(data);
}

TEST(TokenWindows, TargetsFollowInputsAndAnEpochLearnsEachOnce) {
  const ScratchFolder scratch;
  const DataSet data = OpenRamp(scratch, 201, 10, "shuffle: true");
  ASSERT_EQ(data.loader->samples_per_epoch(), 20);
  EXPECT_EQ(data.evaluation.size(), 0);
  BatchBuffer buffer(data.loader->shape(), data.loader->rows(), DType::kF32);
  std::vector<int> learnt(201);
  for (uint32_t step = 0; step < 5; ++step) {
    for (int worker = 0; worker < 2; ++worker) {
      ASSERT_TRUE(data.loader->FillLeaf({.step = step}, {worker}, 0, &buffer).ok());
      EXPECT_EQ(buffer.batch().count, 20);
      const std::vector<int32_t> inputs = Values(buffer.batch().tokens), targets = Values(buffer.batch().targets);
      for (size_t i = 0; i < inputs.size(); ++i) {
        EXPECT_EQ(targets[i], inputs[i] + 1);
        ++learnt[targets[i]];
      }
    }
  }
  for (int token = 1; token <= 200; ++token) EXPECT_EQ(learnt[token], 1) << token;
}

TEST(TokenWindows, LaterEpochsCutElsewhereAndStayInside) {
  const ScratchFolder scratch;
  for (const bool shuffle : {true, false}) {
    const DataSet data = OpenRamp(scratch, 205, 10, shuffle ? "shuffle: true" : "shuffle: false");
    BatchBuffer buffer(data.loader->shape(), data.loader->rows(), DType::kF32);
    bool other_offset = false;
    for (uint32_t step = 5; step < 30; ++step) {  // epochs 1 to 5
      ASSERT_TRUE(data.loader->FillLeaf({.step = step}, {1}, 0, &buffer).ok());
      for (const int32_t row : {0, 1}) other_offset |= buffer.batch().tokens.data<int32_t>()[row * 10] % 10 != 0;
      for (const int32_t target : Values(buffer.batch().targets)) EXPECT_TRUE(target > 0 && target < 205);
    }
    EXPECT_EQ(other_offset, shuffle);
  }
}

TEST(TokenWindows, HeldOutTokensAreTargetsExactlyOnceAndNeverTrained) {
  const ScratchFolder scratch;
  for (const int64_t tokens : {200, 203, 209, 211}) {
    const DataSet data = OpenRamp(scratch, tokens, 10, "validation_fraction: 0.25");
    const int64_t held_out = tokens / 4, cut = tokens - held_out;
    std::vector<int> judged(static_cast<size_t>(tokens));
    BatchBuffer buffer(data.loader->shape(), 3, DType::kF32);
    int64_t count = 0, rows = 0;
    for (int64_t batch = 0; batch < data.evaluation.batches(3); ++batch) {
      ASSERT_TRUE(data.evaluation.Fill(batch, 3, &buffer).ok());
      EXPECT_EQ(buffer.batch().first_row, rows);
      rows += buffer.batch().sequences;
      count += buffer.batch().count;
      const std::vector<int32_t> inputs = Values(buffer.batch().tokens), targets = Values(buffer.batch().targets);
      for (size_t i = 0; i < targets.size(); ++i) {
        EXPECT_GE(inputs[i], cut);
        if (targets[i] == kIgnoredTarget) continue;
        EXPECT_EQ(targets[i], inputs[i] + 1);
        ++judged[targets[i]];
      }
    }
    EXPECT_EQ(rows, data.evaluation.size());
    EXPECT_EQ(count, held_out - 1);
    for (int64_t token = 0; token < tokens; ++token) EXPECT_EQ(judged[token], token > cut ? 1 : 0) << token << " of " << tokens;
    for (uint32_t step = 0; step < 20; ++step) {
      ASSERT_TRUE(data.loader->FillLeaf({.step = step}, {0}, 0, &buffer).ok());
      for (const int32_t target : Values(buffer.batch().targets)) EXPECT_LT(target, cut);
    }
  }
}

TEST(TokenWindows, DocumentBoundaries) {
  const ScratchFolder scratch;
  ASSERT_TRUE(WriteTokenShard(scratch / "a.bin", std::vector<int32_t>{1, 2, 256, 3, 256, 4, 5}, 257, RealFileSystem()).ok());
  const auto targets = [&](const std::string& documents) {
    auto config = ParseText<DataConfig>("tokenizer { bytes {} } sources { weight: 1 shards {} } documents: " + documents);
    config.mutable_sources(0)->mutable_shards()->set_path(scratch / "a.bin");
    const DataSet data = *OpenData(config, {.global_batch = 1}, 6, RealFileSystem());
    BatchBuffer buffer(data.loader->shape(), 1, DType::kF32);
    CHECK_OK(data.loader->FillLeaf({}, {0}, 0, &buffer));
    EXPECT_EQ(Values(buffer.batch().tokens), (std::vector<int32_t>{1, 2, 256, 3, 256, 4}));
    EXPECT_EQ(buffer.batch().count, documents == "RESET" ? 4 : 6);
    return Values(buffer.batch().targets);
  };
  EXPECT_EQ(targets("CONTINUE"), (std::vector<int32_t>{2, 256, 3, 256, 4, 5}));
  EXPECT_EQ(targets("RESET"),
            (std::vector<int32_t>{2, 256, -1, 256, -1, 5}));  // the end of a document is learnt, the start of the next is not
}

TEST(OpenData, TextOfCharactersEndToEnd) {
  const ScratchFolder scratch;
  const std::string text = "to be or not to be, that is the question:\n";
  auto config = ParseText<DataConfig>("tokenizer { characters {} } validation_fraction: 0.25 sources { weight: 1 text {} }");
  config.mutable_sources(0)->mutable_text()->set_path(scratch.Write("t.txt", text));
  config.set_cache_dir(scratch / "cache");
  const auto data = OpenData(config, {.global_batch = 1, .shuffle = false}, 8, RealFileSystem());
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->bytes_per_token, 1.0);
  BatchBuffer buffer(data->loader->shape(), 1, DType::kF32);
  ASSERT_TRUE(data->loader->FillLeaf({.step = 1}, {0}, 0, &buffer).ok());
  EXPECT_EQ(data->tokenizer->Decode(Values(buffer.batch().tokens)), text.substr(8, 8));
  EXPECT_EQ(data->tokenizer->Decode(Values(buffer.batch().targets)), text.substr(9, 8));
  ASSERT_TRUE(data->evaluation.Fill(0, 1, &buffer).ok());
  EXPECT_EQ(data->tokenizer->Decode(Values(buffer.batch().tokens)), text.substr(text.size() - text.size() / 4, 8));
}

TEST(OpenData, ErrorsNameTheNumbers) {
  const ScratchFolder scratch;
  const auto error = [&](const std::string& text_config, const std::vector<int32_t>& tokens) {
    CHECK_OK(WriteTokenShard(scratch / "a.bin", tokens, 100000, RealFileSystem()));
    auto config = ParseText<DataConfig>("tokenizer { bytes {} } sources { weight: 1 shards {} } " + text_config);
    config.mutable_sources(0)->mutable_shards()->set_path(scratch / "a.bin");
    return std::string(OpenData(config, {.global_batch = 1}, 8, RealFileSystem()).status().message());
  };
  EXPECT_EQ(error("", std::vector<int32_t>(9)), "");
  EXPECT_NE(error("", std::vector<int32_t>(8)).find("a context of 8 needs at least 9"), std::string::npos);
  EXPECT_NE(error("validation_fraction: 0.1", std::vector<int32_t>(50)).find("45 to train on and 5 held out"), std::string::npos);
  EXPECT_NE(error("", {1, 2, 300, 4, 5, 6, 7, 8, 9}).find("token 300 at position 2 is outside the vocabulary of 257"), std::string::npos);
  const auto missing = ParseText<DataConfig>("tokenizer { bytes {} } sources { weight: 1 text { path: '/nowhere/t.txt' } }");
  EXPECT_EQ(OpenData(missing, {.global_batch = 1}, 8, RealFileSystem()).status().code(), absl::StatusCode::kNotFound);
}

TEST(OpenData, SourcesOfDifferentShapesDoNotMix) {
  auto config =
      ParseText<DataConfig>("sources { weight: 1 gaussian { dim: 3 samples: 5 } } sources { weight: 1 gaussian { dim: 4 samples: 5 } }");
  EXPECT_EQ(OpenData(config, {.global_batch = 1}, 0, RealFileSystem()).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(OpenData, GamesHaveRowsWithoutContent) {
  const auto config = ParseText<DataConfig>("sources { weight: 1 none {} }");
  const DataSet data = *OpenData(config, {.workers = 2, .global_batch = 4}, 0, RealFileSystem());
  EXPECT_EQ(data.tokenizer, nullptr);
  BatchBuffer buffer(data.loader->shape(), data.loader->rows(), DType::kF64);
  for (const bool full : {false, true}) {
    ASSERT_TRUE(data.loader->FillLeaf({.full = full}, {1}, 0, &buffer).ok());
    EXPECT_EQ(buffer.batch().sequences, 2);
    EXPECT_EQ(buffer.batch().count, 2);
    EXPECT_FALSE(buffer.batch().tokens.defined());
  }
  const DataSet without = *OpenData(config, {.workers = 2, .global_batch = 0}, 0, RealFileSystem());
  EXPECT_TRUE(without.loader->FillLeaf({.step = 9}, {1}, 0, &buffer).ok());
  EXPECT_EQ(buffer.batch().count, 0);
}

class Gaussian : public testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Rotation, Gaussian, testing::Bool());

// Covariance of n samples: entries have standard deviation sqrt((1 + [i == j]) s_i s_j / n); 5 sigma. With a rotation: its eigenvalue sums.
TEST_P(Gaussian, MomentsAreTheConfigs) {
  auto config =
      ParseText<DataConfig>("sources { weight: 1 gaussian { dim: 4 samples: 20000 eigenvalues: [9, 4] tail_eigenvalue: 0.5 mean: 2 } }");
  config.mutable_sources(0)->mutable_gaussian()->set_rotate(GetParam());
  const DataSet data = *OpenData(config, {.seed = 21, .global_batch = 4}, 0, RealFileSystem());
  BatchBuffer buffer(data.loader->shape(), 4, DType::kF64);
  ASSERT_TRUE(data.loader->FillLeaf({.full = true}, {0}, 0, &buffer).ok());
  const int64_t n = buffer.batch().sequences;
  ASSERT_EQ(n, 20000);
  const std::span<const double> x = buffer.batch().features.span<double>();
  double covariance[4][4] = {}, mean[4] = {};
  for (int64_t row = 0; row < n; ++row) {
    for (int i = 0; i < 4; ++i) {
      mean[i] += x[row * 4 + i] / static_cast<double>(n);
      for (int j = 0; j < 4; ++j) covariance[i][j] += (x[row * 4 + i] - 2) * (x[row * 4 + j] - 2) / static_cast<double>(n);
    }
  }
  const double eigenvalues[4] = {9, 4, 0.5, 0.5};
  double trace = 0, frobenius = 0;
  for (int i = 0; i < 4; ++i) {
    EXPECT_NEAR(mean[i], 2, 5 * 3 / std::sqrt(20000.0));
    trace += covariance[i][i];
    for (int j = 0; j < 4; ++j) {
      frobenius += covariance[i][j] * covariance[i][j];
      if (GetParam()) continue;
      const double sigma = std::sqrt((i == j ? 2 : 1) * eigenvalues[i] * eigenvalues[j] / 20000.0);
      EXPECT_NEAR(covariance[i][j], i == j ? eigenvalues[i] : 0, 5 * sigma) << i << ',' << j;
    }
  }
  EXPECT_NEAR(trace, 14, 5 * std::sqrt(2 * 97.5 / 20000.0));
  EXPECT_NEAR(frobenius, 97.5, 5 * std::sqrt(8 * (6561 + 256) / 20000.0) + 0.1);
  if (GetParam()) {
    double off_diagonal = 0;
    for (int i = 0; i < 4; ++i) off_diagonal += std::abs(covariance[i][(i + 1) % 4]);
    EXPECT_GT(off_diagonal, 1) << "a rotation mixes the coordinates";
  }
}

TEST_P(Gaussian, SamplesDependOnTheirIndexAlone) {
  auto config = ParseText<DataConfig>("validation_fraction: 0.1 sources { weight: 1 gaussian { dim: 3 samples: 100 tail_eigenvalue: 1 } }");
  config.mutable_sources(0)->mutable_gaussian()->set_rotate(GetParam());
  const DataSet data = *OpenData(config, {.seed = 21, .global_batch = 10}, 0, RealFileSystem());
  ASSERT_EQ(data.loader->samples_per_epoch(), 90);
  ASSERT_EQ(data.evaluation.size(), 10);
  BatchBuffer full(data.loader->shape(), 90, DType::kF64), batch(data.loader->shape(), 10, DType::kF64),
      single(data.loader->shape(), 10, DType::kF32);
  ASSERT_TRUE(data.loader->FillLeaf({.full = true}, {0}, 0, &full).ok());
  for (const uint32_t step : {0u, 30u}) {
    ASSERT_TRUE(data.loader->FillLeaf({.step = step}, {0}, 0, &batch).ok());
    ASSERT_TRUE(data.loader->FillLeaf({.step = step}, {0}, 0, &single).ok());
    for (int64_t row = 0; row < 10; ++row) {
      const int64_t sample = data.loader->Locate(step * 10 + row, 0).sample;
      for (int64_t j = 0; j < 3; ++j) {
        const double value = batch.batch().features.data<double>()[row * 3 + j];
        EXPECT_EQ(value, full.batch().features.data<double>()[sample * 3 + j]);
        EXPECT_EQ(single.batch().features.data<float>()[row * 3 + j], static_cast<float>(value));
      }
    }
  }
}

}  // namespace
}  // namespace conclave
