// Checkpoints of every released format version load for ever. After a deliberate change of an unreleased version the second test fails and
// leaves the folder it wrote behind, under the name that its message gives: that folder is the new golden one.
#include <cmath>
#include <limits>

#include "comm/loopback.h"
#include "gtest/gtest.h"
#include "trainer/checkpoint_store.h"

namespace conclave {
namespace {

const char* const kFolder = CONCLAVE_SOURCE_DIR "/tests/golden/checkpoint_v1";
constexpr int64_t kStep = 42;

// Every type, a scalar, an empty tensor; experts on the rank of their number modulo the ranks.
struct GoldenState {
  GoldenState(int rank, int ranks)
      : weight({2, 3}, DType::kF32),
        moment({2, 3}, DType::kF64),
        half({4}, DType::kBF16),
        empty({0, 2}, DType::kF32),
        count(Shape{}, DType::kI64),
        index({3}, DType::kI32),
        mask({5}, DType::kU8) {
    const bool writes = rank == 0;
    for (const auto& [name, tensor] : {std::pair("model/weight", *weight), std::pair("optim/m/weight", *moment),
                                       std::pair("model/half", *half), std::pair("optim/empty", *empty), std::pair("optim/count", *count),
                                       std::pair("data/index", *index), std::pair("data/mask", *mask)}) {
      dict.Add(StateEntry{.name = name, .data = tensor, .canonical = writes});
    }
    for (int e = 0; e < 3; ++e) {
      if (e % ranks != rank) continue;
      experts.emplace_back(e, OwnedTensor({2, 2}, DType::kF32));
      dict.Add(StateEntry{.name = "model/expert." + std::to_string(e), .data = *experts.back().second});
    }
    dict.AddScalar("rule/updates", &updates);
    dict.AddScalar("guard/mean", &mean);
  }

  void Fill() {
    for (int i = 0; i < 6; ++i) {
      weight->data<float>()[i] = static_cast<float>(i) / 8 - 0.25f;
      moment->data<double>()[i] = 1.0 / (i + 1);
    }
    moment->data<double>()[5] = -std::numeric_limits<double>::infinity();
    for (int i = 0; i < 4; ++i) half->data<BFloat16>()[i] = BFloat16(static_cast<float>(1 << i));
    count->data<int64_t>()[0] = int64_t{-1} << 40;
    for (int i = 0; i < 3; ++i) index->data<int32_t>()[i] = 10 - i;
    for (int i = 0; i < 5; ++i) mask->data<uint8_t>()[i] = static_cast<uint8_t>(250 + i);
    for (const auto& [e, tensor] : experts) tensor->Fill(e + 0.5);
    updates = 41;
    mean = 0.1;
  }

  OwnedTensor weight, moment, half, empty, count, index, mask;
  std::vector<std::pair<int, OwnedTensor>> experts;
  int64_t updates = 0;
  double mean = 0;
  StateDict dict;
};

void ExpectEqualBytes(const StateDict& got, const StateDict& expected) {
  ASSERT_EQ(got.entries().size(), expected.entries().size());
  for (size_t i = 0; i < got.entries().size(); ++i) {
    const auto a = got.entries()[i].data.AsBytes(), b = expected.entries()[i].data.AsBytes();
    EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end())) << got.entries()[i].name;
  }
}

TEST(CheckpointGoldenTest, Version1LoadsOnAnyNumberOfRanks) {
  for (const int ranks : {1, 2, 3}) {
    ASSERT_EQ(RunRanks(ranks,
                       [&](Communicator& world) -> absl::Status {
                         GoldenState state(world.rank(), ranks), expected(world.rank(), ranks);
                         expected.Fill();
                         ASSIGN_OR_RETURN(const LoadedCheckpoint loaded, LoadCheckpoint(RealFileSystem(), world, kFolder, state.dict));
                         ExpectEqualBytes(state.dict, expected.dict);
                         EXPECT_EQ(loaded.step, kStep);
                         EXPECT_EQ(state.updates, expected.updates);
                         EXPECT_EQ(state.mean, expected.mean);
                         EXPECT_EQ(loaded.manifest.format_version(), 1u);
                         EXPECT_EQ(loaded.manifest.state().cursor().samples(), 336u);
                         EXPECT_EQ(loaded.manifest.identity().resolved_config(), "name: \"golden\"");
                         EXPECT_EQ(loaded.manifest.metric(), 2.5);
                         return absl::OkStatus();
                       }),
              absl::OkStatus());
  }
}

absl::Status SaveGolden(Communicator& world, const std::string& folder) {
  ASSIGN_OR_RETURN(const auto store, CheckpointStore::Open(RealFileSystem(), world, folder, {}));
  GoldenState state(world.rank(), 2);
  state.Fill();
  SaveRequest request{.dict = &state.dict, .metric = 2.5};
  request.state.mutable_cursor()->set_step(kStep);
  request.state.mutable_cursor()->set_samples(8 * kStep);
  request.identity.set_resolved_config("name: \"golden\"");
  request.identity.set_ranks(2);
  request.identity.set_host("golden");
  request.identity.set_written_unix_ms(1'700'000'000'000);
  return store->Save(request);
}

// Shards are a function of state and layout alone, so what this program writes today is the golden file bit by bit.
TEST(CheckpointGoldenTest, ShardsAreWrittenBitByBitAsInVersion1) {
  const std::string folder = testing::TempDir() + "checkpoint_golden";
  const FileSystem& files = RealFileSystem();
  ASSERT_TRUE(files.RemoveTree(folder).ok());
  ASSERT_EQ(RunRanks(2, [&](Communicator& world) { return SaveGolden(world, folder); }), absl::OkStatus());
  for (const char* name : {"/step-42/rank-0.safetensors", "/step-42/rank-1.safetensors"}) {
    const auto written = files.ReadAll(folder + name), golden = files.ReadAll(std::string(kFolder) + name);
    ASSERT_TRUE(written.ok() && golden.ok()) << written.status() << golden.status();
    EXPECT_TRUE(*written == *golden) << name << " differs from what " << folder << " holds";
  }
  if (!testing::Test::HasFailure()) {
    EXPECT_TRUE(files.RemoveTree(folder).ok());
  }
}

}  // namespace
}  // namespace conclave
