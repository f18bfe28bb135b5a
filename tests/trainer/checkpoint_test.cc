// The checkpoint store: what is saved is what is loaded, on any number of ranks; damage is found and named; what does not fit is refused.
#include "trainer/checkpoint_store.h"

#include <unistd.h>

#include <array>
#include <set>

#include "base/fault_file_system.h"
#include "base/strings.h"
#include "gtest/gtest.h"
#include "tests/trainer/checkpoint_fixture.h"
#include "trainer/checkpoint_manifest.h"

namespace conclave {
namespace {

constexpr const char* kFolder = "run/checkpoints";

std::string PathOf(int64_t step, const std::string& name) { return JoinPath(kFolder, "step-" + std::to_string(step) + "/" + name); }

// All shards of a step, by name.
std::map<std::string, std::string> Shards(const FileSystem& files, int64_t step) {
  std::map<std::string, std::string> out;
  const std::string folder = PathOf(step, "");
  const auto names = files.ListDir(folder);
  EXPECT_TRUE(names.ok()) << names.status();
  for (const std::string& name : names.value_or(std::vector<std::string>{})) {
    if (name.ends_with(".safetensors")) out[name] = *files.ReadAll(JoinPath(folder, name));
  }
  return out;
}

void Overwrite(const FileSystem& files, const std::string& path, const std::string& content) {
  const auto file = files.OpenForWrite(path, WriteMode::kTruncate);
  ASSERT_TRUE(file.ok() && (*file)->Write(content).ok() && (*file)->Close().ok());
}

void ExpectLoads(const FileSystem& files, int ranks, int64_t step, int shift = 0) {
  const Loaded loaded = LoadNewestOn(files, ranks, shift);
  ExpectAllOk(loaded.statuses);
  EXPECT_EQ(loaded.step, step);
  EXPECT_EQ(loaded.gathered, StateAt(step));
}

// Loads `step` and saves it as `to_step` from `ranks` ranks with experts placed by `shift`.
void Reshard(const FileSystem& files, int64_t step, int64_t to_step, int ranks, int shift) {
  ExpectAllOk(OnRanks(ranks, [&](Communicator& world) -> absl::Status {
    ASSIGN_OR_RETURN(const auto store, CheckpointStore::Open(files, world, kFolder, KeepAll()));
    FakeState state(world.rank(), ranks, shift);
    RETURN_IF_ERROR(store->LoadStep(step, state.dict()).status());
    return store->Save(RequestOf(state.dict(), to_step));
  }));
}

TEST(CheckpointTest, NewestIsLoadedNumerically) {
  FaultFileSystem fs;
  ExpectAllOk(SaveSteps(fs, 2, {9, 100, 20}));
  ExpectLoads(fs, 2, 100);
  EXPECT_EQ(*fs.ReadAll(JoinPath(kFolder, kLatestName)), "step-20\n");
  ExpectAllOk(OnRanks(2, [&](Communicator& world) -> absl::Status {
    ASSIGN_OR_RETURN(const auto store, CheckpointStore::Open(fs, world, kFolder, KeepAll()));
    ASSIGN_OR_RETURN(const auto steps, store->Steps());
    EXPECT_EQ(steps, (std::vector<int64_t>{9, 20, 100}));
    FakeState state(world.rank(), 2);
    ASSIGN_OR_RETURN(const auto loaded, store->LoadStep(20, state.dict()));
    EXPECT_EQ(loaded.manifest.state().cursor().samples(), 160u);
    EXPECT_EQ(loaded.manifest.identity().resolved_config(), "name: \"fake\"");
    EXPECT_EQ(state.updates, 120);
    EXPECT_EQ(store->LoadStep(21, state.dict()).status().code(), absl::StatusCode::kNotFound);
    return absl::OkStatus();
  }));
}

TEST(CheckpointTest, EmptyFolderIsNothingAndChangesNothing) {
  FaultFileSystem fs;
  const Loaded loaded = LoadNewestOn(fs, 3);
  ExpectAllOk(loaded.statuses);
  EXPECT_EQ(loaded.step, -1);
}

TEST(CheckpointTest, AnyRankCountAndPlacementReadsAnyOther) {
  FaultFileSystem fs;
  ExpectAllOk(SaveSteps(fs, 1, {7}));
  Reshard(fs, 7, 8, 3, 1);
  Reshard(fs, 8, 9, 2, 1);
  Reshard(fs, 9, 10, 1, 0);
  EXPECT_EQ(Shards(fs, 10), Shards(fs, 7));
  EXPECT_EQ(Shards(fs, 8).size(), 3u);
  for (const int64_t step : {8, 9, 10}) {
    FakeState whole(0, 1);
    ExpectAllOk(OnRanks(1, [&](Communicator& world) { return LoadCheckpoint(fs, world, PathOf(step, ""), whole.dict()).status(); }));
    EXPECT_EQ(whole.Bytes(), StateAt(7)) << "step " << step;
  }
  ExpectAllOk(SaveSteps(fs, 5, {11}, 3));
  for (int ranks = 1; ranks <= 7; ++ranks) ExpectLoads(fs, ranks, 11, ranks / 2);
}

TEST(CheckpointTest, ThereAndBackGivesEqualBytes) {
  for (const auto& [n, m] : std::vector<std::pair<int, int>>{{3, 2}, {2, 2}, {1, 4}, {4, 3}}) {
    FaultFileSystem fs;
    ExpectAllOk(SaveSteps(fs, n, {5}));
    Reshard(fs, 5, 6, m, 2);
    Reshard(fs, 6, 7, n, 0);
    EXPECT_EQ(Shards(fs, 7), Shards(fs, 5)) << n << " to " << m;
  }
}

// Loads step 1, saved by two ranks, into what `change` makes of the state.
absl::Status LoadInto(const std::function<void(FakeState&, int rank)>& change, const LoadOptions& options = {},
                      LoadReport* report = nullptr, int experts = 6) {
  FaultFileSystem fs;
  ExpectAllOk(SaveSteps(fs, 2, {1}));
  const auto statuses = OnRanks(2, [&](Communicator& world) -> absl::Status {
    ASSIGN_OR_RETURN(const auto store, CheckpointStore::Open(fs, world, kFolder, KeepAll()));
    FakeState state(world.rank(), 2, 0, experts);
    change(state, world.rank());
    ASSIGN_OR_RETURN(const auto loaded, store->LoadNewest(state.dict(), options));
    if (!loaded.has_value()) return NotFound("nothing");
    if (report != nullptr && world.rank() == 1) *report = loaded->report;
    return absl::OkStatus();
  });
  EXPECT_EQ(statuses[0], statuses[1]);
  return statuses[1];
}

TEST(CheckpointTest, WhatDoesNotFitIsNamedOnEveryRank) {
  const absl::Status missing = LoadInto([](FakeState& state, int rank) {
    if (rank == 1) state.Add("model/new", {2}, DType::kF32, true);
  });
  EXPECT_EQ(missing.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(missing.message().find("1 missing in it: model/new"), absl::string_view::npos) << missing;

  const absl::Status unused = LoadInto([](FakeState&, int) {}, {}, nullptr, /*experts=*/2);
  EXPECT_EQ(unused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(unused.message().find(
                "8 unknown to this run: model/expert.2, model/expert.3, model/expert.4, model/expert.5, optim/m/expert.2 and 3 more"),
            absl::string_view::npos)
      << unused;

  const absl::Status more = LoadInto([](FakeState&, int) {}, {}, nullptr, /*experts=*/7);
  EXPECT_NE(more.message().find("2 missing in it: model/expert.6, optim/m/expert.6"), absl::string_view::npos) << more;
}

TEST(CheckpointTest, OtherShapesTypesAndScalarsAreRefused) {
  FaultFileSystem fs;
  ExpectAllOk(SaveSteps(fs, 1, {1}));
  ExpectAllOk(OnRanks(1, [&](Communicator& world) -> absl::Status {
    OwnedTensor shape({5, 4}, DType::kF32), type({3}, DType::kI32);
    StateDict dict;
    dict.Add(StateEntry{.name = "model/embedding", .data = *shape});
    dict.Add(StateEntry{.name = "model/scale", .data = *type});
    double value = 0;
    dict.AddScalar("rule/other", &value);
    const absl::Status status = LoadCheckpoint(fs, world, "run", dict).status();
    const std::string text(status.message());
    EXPECT_NE(text.find("model/embedding: F32 [5, 3] in the checkpoint, F32 [5, 4] here"), std::string::npos) << text;
    EXPECT_NE(text.find("model/scale: BF16 [3] in the checkpoint, I32 [3] here"), std::string::npos) << text;
    EXPECT_NE(text.find("1 missing in it: rule/other"), std::string::npos) << text;
    return absl::OkStatus();
  }));
}

// Not every rank has every scalar: the checkpoint has all, and each rank takes its own, also where other ranks have them after a resume.
TEST(CheckpointTest, ScalarsOfSomeRanksAreSavedAndMissedByNobody) {
  FaultFileSystem fs;
  const auto state_of = [](int owner, Communicator& world, double* value) {
    auto state = std::make_unique<FakeState>(world.rank(), world.size());
    state->Fill(5);
    if (world.rank() == owner) state->AddScalar("groups.started", value);
    return state;
  };
  ExpectAllOk(OnRanks(3, [&](Communicator& world) -> absl::Status {
    ASSIGN_OR_RETURN(const auto store, CheckpointStore::Open(fs, world, kFolder, KeepAll()));
    double value = 7;
    return store->Save(RequestOf(state_of(1, world, &value)->dict(), 5));
  }));
  for (const int owner : {2, 0}) {
    ExpectAllOk(OnRanks(3, [&](Communicator& world) -> absl::Status {
      ASSIGN_OR_RETURN(const auto store, CheckpointStore::Open(fs, world, kFolder, KeepAll()));
      double value = 0;
      RETURN_IF_ERROR(store->LoadNewest(state_of(owner, world, &value)->dict()).status());
      EXPECT_EQ(value, world.rank() == owner ? 7 : 0);
      return absl::OkStatus();
    }));
  }
  const std::vector<absl::Status> statuses = OnRanks(2, [&](Communicator& world) -> absl::Status {
    ASSIGN_OR_RETURN(const auto store, CheckpointStore::Open(fs, world, kFolder, KeepAll()));
    return store->LoadNewest(FakeState(world.rank(), 2).dict()).status();
  });
  for (const absl::Status& status : statuses)
    EXPECT_NE(status.message().find("1 unknown to this run: groups.started"), absl::string_view::npos) << status;
}

TEST(CheckpointTest, PrefixAndLenientLoadsReportWhatTheyLeave) {
  LoadReport report;
  EXPECT_EQ(LoadInto([](FakeState&, int) {}, {.prefix = "model/"}, &report), absl::OkStatus());
  EXPECT_TRUE(report.missing.empty() && report.unused.empty());
  EXPECT_EQ(LoadInto([](FakeState& state, int) { state.Add("model/new", {2}, DType::kF32, false); }, {.prefix = "model/", .strict = false},
                     &report, 5),
            absl::OkStatus());
  EXPECT_EQ(report.missing, (std::vector<std::string>{"model/new"}));
  EXPECT_EQ(report.unused, (std::vector<std::string>{"model/expert.5"}));
}

TEST(CheckpointTest, EveryFlippedBitIsFoundAndTheOlderStepTaken) {
  FaultFileSystem fs;
  ExpectAllOk(SaveSteps(fs, 2, {10, 20}));
  int named = 0, total = 0;
  for (const char* name : {"rank-0.safetensors", "rank-1.safetensors", "MANIFEST.pb"}) {
    const std::string path = PathOf(20, name), good = *fs.ReadAll(path);
    for (size_t at = 0; at < good.size(); at += 13) {
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ (1 << (at % 8)));
      Overwrite(fs, path, bad);
      const Loaded loaded = LoadNewestOn(fs, 2);
      ExpectAllOk(loaded.statuses);
      ASSERT_EQ(loaded.step, 10) << name << ", byte " << at;
      ASSERT_EQ(loaded.gathered, StateAt(10));
      FakeState state(0, 1);
      const auto explicitly =
          OnRanks(1, [&](Communicator& world) { return LoadCheckpoint(fs, world, PathOf(20, ""), state.dict()).status(); });
      ASSERT_EQ(explicitly[0].code(), absl::StatusCode::kDataLoss) << explicitly[0];
      ASSERT_NE(explicitly[0].message().find(name), absl::string_view::npos) << explicitly[0];
      named += explicitly[0].message().find("tensor '") != absl::string_view::npos ? 1 : 0;
      ++total;
    }
    Overwrite(fs, path, good);
  }
  EXPECT_GT(total, 100);
  EXPECT_GT(named, 20);  // the rest hit headers and the manifest
  ExpectLoads(fs, 2, 20);
}

TEST(CheckpointTest, DamageNamesExactlyTheTensorThatHasIt) {
  FaultFileSystem fs;
  ExpectAllOk(SaveSteps(fs, 1, {20}));
  const std::string path = PathOf(20, "rank-0.safetensors");
  std::string content = *fs.ReadAll(path);
  const auto manifest = ReadManifest(fs, PathOf(20, ""));
  for (const SavedTensor& tensor : manifest->tensors()) {
    if (tensor.boxes(0).length() == 0) continue;
    std::string bad = content;
    bad[tensor.boxes(0).begin()] ^= 1;
    Overwrite(fs, path, bad);
    FakeState state(0, 1);
    const auto status = OnRanks(1, [&](Communicator& world) { return LoadCheckpoint(fs, world, "run", state.dict()).status(); })[0];
    const std::string expected = absl::StrFormat("tensor '%s' (bytes %d..%d)", tensor.name(), tensor.boxes(0).begin(),
                                                 tensor.boxes(0).begin() + tensor.boxes(0).length() - 1);
    EXPECT_TRUE(std::string(status.message()).ends_with(expected)) << status;
  }
}

TEST(CheckpointTest, DamageInAFileWithoutTensorsIsFoundToo) {
  FaultFileSystem fs;
  ExpectAllOk(SaveSteps(fs, 8, {10, 20}));  // rank 7 has nothing to write
  const std::string path = PathOf(20, "rank-7.safetensors");
  ASSERT_EQ(*fs.FileSize(path), 16);
  for (int ranks = 1; ranks <= 3; ++ranks) {
    ExpectLoads(fs, ranks, 20);
    Overwrite(fs, path, std::string("\x08\0\0\0\0\0\0\0{}      ", 16));
    ExpectLoads(fs, ranks, 20);
    Overwrite(fs, path, std::string("\x08\0\0\0\0\0\0\0{}     \x21", 16));
    ExpectLoads(fs, ranks, 10);
    Overwrite(fs, path, std::string("\x08\0\0\0\0\0\0\0{}      ", 16));
  }
}

TEST(CheckpointTest, TruncatedMissingAndSwappedShardsAreNotLoaded) {
  FaultFileSystem fs;
  ExpectAllOk(SaveSteps(fs, 2, {10, 20}));
  const std::string a = PathOf(20, "rank-0.safetensors"), b = PathOf(20, "rank-1.safetensors");
  const std::string content_a = *fs.ReadAll(a), content_b = *fs.ReadAll(b);
  Overwrite(fs, a, content_a.substr(0, content_a.size() - 1));
  ExpectLoads(fs, 2, 10);
  Overwrite(fs, a, content_b);
  Overwrite(fs, b, content_a);
  ExpectLoads(fs, 2, 10);
  Overwrite(fs, a, content_a);
  ASSERT_TRUE(fs.RemoveFile(b).ok());
  ExpectLoads(fs, 2, 10);
  Overwrite(fs, b, content_b);
  ExpectLoads(fs, 2, 20);
}

TEST(CheckpointTest, WhereAllAreDamagedItIsAnErrorNotAFreshStart) {
  FaultFileSystem fs;
  ExpectAllOk(SaveSteps(fs, 2, {10}));
  std::string content = *fs.ReadAll(PathOf(10, "rank-1.safetensors"));
  content.back() ^= 1;
  Overwrite(fs, PathOf(10, "rank-1.safetensors"), content);
  const Loaded loaded = LoadNewestOn(fs, 2);
  for (const absl::Status& status : loaded.statuses) EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
}

TEST(CheckpointTest, ACopyUnderAnotherNumberIsRefused) {
  FaultFileSystem fs;
  ExpectAllOk(SaveSteps(fs, 1, {10, 20}));
  ASSERT_TRUE(fs.Rename(PathOf(20, ""), PathOf(30, "")).ok());
  ExpectLoads(fs, 1, 10);
}

TEST(CheckpointTest, TwoWritersOfOneTensorAreAnErrorOnEveryRank) {
  FaultFileSystem fs;
  const auto statuses = OnRanks(2, [&](Communicator& world) -> absl::Status {
    ASSIGN_OR_RETURN(const auto store, CheckpointStore::Open(fs, world, kFolder, KeepAll()));
    FakeState state(world.rank(), 2);
    state.Add("model/twice", {2}, DType::kF32, true);
    return store->Save(RequestOf(state.dict(), 1));
  });
  for (const absl::Status& status : statuses) EXPECT_NE(status.message().find("'model/twice'"), absl::string_view::npos) << status;
  EXPECT_TRUE(fs.ListDir(kFolder)->empty());
}

// The steps that are left after twelve saves, the same on either rank.
std::vector<int64_t> KeptOf(const CheckpointConfig& config, int64_t pinned) {
  FaultFileSystem fs;
  std::array<std::vector<int64_t>, 2> kept;  // each rank writes its own
  ExpectAllOk(OnRanks(2, [&](Communicator& world) -> absl::Status {
    ASSIGN_OR_RETURN(const auto store, CheckpointStore::Open(fs, world, kFolder, config));
    FakeState state(world.rank(), 2);
    for (int64_t step = 1; step <= 12; ++step) {
      SaveRequest request = RequestOf(state.dict(), step);
      if (step != 12) request.metric = std::abs(static_cast<double>(step) - 3.2);  // best at 3
      RETURN_IF_ERROR(store->Save(request));
      if (step == pinned && world.rank() == 0) RETURN_IF_ERROR(fs.WriteAtomically(PathOf(step, std::string(kPinName)), ""));
      RETURN_IF_ERROR(world.Barrier("saved"));
    }
    ASSIGN_OR_RETURN(kept[static_cast<size_t>(world.rank())], store->Steps());
    return absl::OkStatus();
  }));
  EXPECT_EQ(kept[0], kept[1]);
  return kept[0];
}

TEST(CheckpointTest, RetentionKeepsTheUnionOfItsRules) {
  CheckpointConfig config;
  config.set_keep_last(2);
  EXPECT_EQ(KeptOf(config, 0), (std::vector<int64_t>{11, 12}));
  config.set_keep_every(5);
  EXPECT_EQ(KeptOf(config, 0), (std::vector<int64_t>{5, 10, 11, 12}));
  config.set_keep_best(true);
  EXPECT_EQ(KeptOf(config, 6), (std::vector<int64_t>{3, 5, 6, 10, 11, 12}));
}

TEST(CheckpointTest, ADamagedStepIsNeitherCountedAsKeptNorRemoved) {
  FaultFileSystem fs;
  ExpectAllOk(SaveSteps(fs, 1, {10, 20}));
  Overwrite(fs, PathOf(20, "MANIFEST.pb"), "torn");
  CheckpointConfig config = KeepAll();
  config.set_keep_last(2);
  ExpectAllOk(SaveSteps(fs, 1, {30}, 0, config));
  EXPECT_EQ(*fs.ListDir(kFolder), (std::vector<std::string>{"latest", "step-10", "step-20", "step-30"}));
}

TEST(CheckpointTest, LeftoversOfDeadRunsGoThoseOfLiveRunsStay) {
  FaultFileSystem fs;
  ExpectAllOk(SaveSteps(fs, 1, {10}));
  const CheckpointOwner self = CheckpointOwner::Self(RealClock().WallNanos() / 1'000'000);
  CheckpointOwner parent = self, reused = self, foreign_young = self, foreign_old = self;
  parent.process = getppid();
  ASSERT_GT(self.started, 0);
  ASSERT_EQ(StartOfProcess(999'999'999), std::nullopt);
  parent.started = StartOfProcess(getppid()).value();
  reused = parent;
  reused.started += 1;
  foreign_young.host = foreign_old.host = "another-host";
  foreign_old.wall_ms -= 2 * 3'600'000;
  using Kind = CheckpointFolderName::Kind;
  const std::string live = CheckpointFolderName::Of(Kind::kTemporary, 20, parent),
                    young = CheckpointFolderName::Of(Kind::kTrash, 3, foreign_young);
  for (const std::string& name :
       {live, young, CheckpointFolderName::Of(Kind::kTemporary, 21, reused), CheckpointFolderName::Of(Kind::kTemporary, 22, foreign_old),
        CheckpointFolderName::Of(Kind::kTrash, 4, self), std::string("step-23.tmp-unknown"), std::string("notes")}) {
    ASSERT_TRUE(fs.CreateDirs(JoinPath(kFolder, name)).ok());
  }
  ExpectLoads(fs, 1, 10);
  const auto names = *fs.ListDir(kFolder);
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()), (std::set<std::string>{live, young, "latest", "notes", "step-10"}));
}

}  // namespace
}  // namespace conclave
