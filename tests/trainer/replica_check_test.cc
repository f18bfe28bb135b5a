// Replicas that are no longer equal: found, named, by all ranks together.
#include "trainer/replica_check.h"

#include <gtest/gtest.h>

#include "base/fault_file_system.h"
#include "comm/loopback.h"
#include "tests/trainer/config_fixture.h"
#include "trainer/trainer.h"

namespace conclave {
namespace {

// Ranks with `values` of a tensor that all have; beside it one that ranks 0 and 1 share, and one of each rank's own.
std::vector<absl::Status> CheckOf(const std::vector<double>& values, double of_pair = 0) {
  std::vector<absl::Status> found(values.size());
  EXPECT_TRUE(RunRanks(static_cast<int>(values.size()), [&](Communicator& world) -> absl::Status {
                OwnedTensor all({3}, DType::kF64), pair({2}, DType::kF32), own({1}, DType::kF64);
                all->Fill(1), pair->Fill(world.rank() == 1 ? of_pair : 0), own->Fill(world.rank());
                all->data<double>()[2] = values[world.rank()];
                StateDict state;
                state.Add(StateEntry{.name = "worker." + std::to_string(world.rank()), .data = *own});
                state.Add(StateEntry{.name = "model/all", .data = *all, .canonical = world.rank() == 0});
                if (world.rank() < 2) state.Add(StateEntry{.name = "model/pair", .data = *pair});
                found[world.rank()] = CheckReplicas(state, world);
                return absl::OkStatus();
              }).ok());
  return found;
}

void ExpectFound(const std::vector<absl::Status>& found, const std::string& expected) {
  for (const absl::Status& status : found) {
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_NE(std::string(status.message()).find(expected), std::string::npos) << status;
  }
}

TEST(ReplicaCheck, NamesTheMinority) {
  for (const int ranks : {1, 2, 4}) {
    for (const absl::Status& status : CheckOf(std::vector<double>(ranks, 5))) EXPECT_TRUE(status.ok()) << status;
  }
  ExpectFound(CheckOf({5, 5, 6, 5}), "replicas of 'model/all' are not the same bytes any more: rank 2 differ from the others");
  ExpectFound(CheckOf({7, 5, 5, 6, 5}), "'model/all' are not the same bytes any more: rank 0 from rank 3 differ from the others");
  ExpectFound(CheckOf({5, 6}), "'model/all' are not the same bytes any more: rank 0 from rank 1 differ");
  ExpectFound(CheckOf({0.0, -0.0, 0.0}), "rank 1 differ from the others");  // bytes count
  ExpectFound(CheckOf({5, 5, 5}, 1), "replicas of 'model/pair' are not the same bytes any more: rank 0 from rank 1 differ");
}

// A run looks every so many steps, and at its end.
TEST(ReplicaCheck, ARunEndsWhereItsReplicasDriftedApart) {
  const FaultFileSystem files;
  const absl::StatusOr<LoadedConfig> loaded = LoadText(R"(name: "game"
trainer { steps: 12 workers: 4 }
optim { masha1 { gamma: 0.1 p: 0.5 exchange { quantized { codec { natural {} } } } } }
model { bilinear_game { dim: 5 lambda: 0.1 } }
observe { replicas_every: 4 }
)");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const RunFolder folder(&files, "runs/game");
  ASSERT_TRUE(folder.Prepare(*loaded, {}, {}, false).ok());
  const StopRequests stop(&files, "", 0);
  int64_t steps[3] = {};
  absl::Status ended[3];
  ASSERT_TRUE(RunRanks(3, [&](Communicator& world) -> absl::Status {
                Assembly assembly;
                RETURN_IF_ERROR(Assemble(loaded->config, world, files, &assembly));
                ASSIGN_OR_RETURN(const std::unique_ptr<Trainer> trainer,
                                 Trainer::Create(&assembly, &world, {.files = &files, .folder = &folder, .stop = &stop}));
                absl::Status& status = ended[world.rank()];
                while (status.ok() && trainer->step() < 12) {
                  status = trainer->Step().status();
                  if (trainer->step() == 5 && world.rank() == 1) assembly.scheme->point().block({0}).data<float>()[0] += 1;
                }
                steps[world.rank()] = trainer->step();
                return absl::OkStatus();
              }).ok());
  for (int r = 0; r < 3; ++r) {
    EXPECT_EQ(steps[r], 8) << r;
    EXPECT_EQ(ended[r].code(), absl::StatusCode::kDataLoss) << ended[r];
    EXPECT_NE(std::string(ended[r].message()).find("after step 8: replicas of '"), std::string::npos) << ended[r];
    EXPECT_NE(std::string(ended[r].message()).find("rank 1 differ from the others"), std::string::npos) << ended[r];
  }
}

}  // namespace
}  // namespace conclave
