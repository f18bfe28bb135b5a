#include "parallel/mesh.h"

#include <vector>

#include <gtest/gtest.h>

#include "comm/loopback.h"

namespace conclave {
namespace {

// Which ranks take part in a collective: rank r contributes 2^r.
absl::StatusOr<int64_t> Members(Communicator& group, int rank) {
  int64_t mask = int64_t{1} << rank;
  RETURN_IF_ERROR(group.AllReduce("members", Tensor(&mask, {1}, DType::kI64), ReduceOp::kSum));
  return mask;
}

struct MeshCase {
  int data, expert;
};

class MeshAxes : public ::testing::TestWithParam<MeshCase> {};

TEST_P(MeshAxes, GroupsAreTheRanksThatDifferInOneCoordinate) {
  const auto [data, expert] = GetParam();
  const int ranks = data * expert;
  struct Seen {
    int data, expert;
    int64_t world, replicas, column;
    std::vector<int> replica_order;
  };
  std::vector<Seen> seen(ranks);
  ASSERT_TRUE(RunRanks(ranks, [&](Communicator& world) -> absl::Status {
                ASSIGN_OR_RETURN(const std::unique_ptr<Mesh> mesh, Mesh::Create(&world, {.data = data, .expert = expert}));
                Seen& mine = seen[world.rank()];
                mine.data = mesh->data_coordinate();
                mine.expert = mesh->expert_coordinate();
                ASSIGN_OR_RETURN(mine.world, Members(mesh->gradient_world(), world.rank()));
                ASSIGN_OR_RETURN(mine.replicas, Members(mesh->gradient_data(), world.rank()));
                ASSIGN_OR_RETURN(mine.column, Members(mesh->dispatch(), world.rank()));
                for (int i = 0; i < mesh->gradient_data().size(); ++i) mine.replica_order.push_back(mesh->gradient_data().GlobalRank(i));
                return absl::OkStatus();
              }).ok());
  for (int r = 0; r < ranks; ++r) {
    EXPECT_EQ(seen[r].data * expert + seen[r].expert, r);  // the expert axis varies fastest
    EXPECT_LT(seen[r].expert, expert);
    int64_t replicas = 0, column = 0;
    std::vector<int> order;
    for (int q = 0; q < ranks; ++q) {
      if (q % expert == r % expert) replicas |= int64_t{1} << q, order.push_back(q);
      if (q / expert == r / expert) column |= int64_t{1} << q;
    }
    EXPECT_EQ(seen[r].world, (int64_t{1} << ranks) - 1) << "rank " << r;
    EXPECT_EQ(seen[r].replicas, replicas) << "rank " << r;
    EXPECT_EQ(seen[r].column, column) << "rank " << r;
    EXPECT_EQ(seen[r].replica_order, order) << "rank " << r;
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, MeshAxes,
                         ::testing::Values(MeshCase{1, 1}, MeshCase{2, 1}, MeshCase{1, 2}, MeshCase{2, 2}, MeshCase{3, 2}, MeshCase{2, 3}),
                         [](const auto& info) { return std::to_string(info.param.data) + "x" + std::to_string(info.param.expert); });

TEST(Mesh, RefusesAProductThatIsNotTheNumberOfRanks) {
  std::vector<absl::Status> statuses(3);
  ASSERT_TRUE(RunRanks(3, [&](Communicator& world) {
                statuses[world.rank()] = Mesh::Create(&world, {.data = 2, .expert = 2}).status();
                return absl::OkStatus();
              }).ok());
  for (const absl::Status& status : statuses) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(std::string(status.message()).find("data 2 x expert 2 = 4 ranks, but the job has 3"), std::string::npos) << status;
  }
}

}  // namespace
}  // namespace conclave
