#include "comm/loopback.h"

#include <array>
#include <atomic>

#include <gtest/gtest.h>

#include "base/clock.h"
#include "comm/ledger.h"
#include "tests/comm/communicator_laws.h"

namespace conclave {
namespace {

class LoopbackLaws : public testing::TestWithParam<int> {};

TEST_P(LoopbackLaws, Hold) { EXPECT_EQ(RunRanks(GetParam(), AllCommunicatorLaws), absl::OkStatus()); }

TEST(Loopback, LawsHoldBetweenNodes) {
  EXPECT_EQ(RunRanks(4, AllCommunicatorLaws, {.nodes = {0, 0, 1, 2}, .background_bytes = 100'000}), absl::OkStatus());
}

INSTANTIATE_TEST_SUITE_P(Ranks, LoopbackLaws, testing::Values(1, 2, 3, 4, 5));

TEST(Loopback, TheFirstErrorWinsAndWakesTheOthers) {
  std::atomic<int> woken = 0;
  const absl::Status status = RunRanks(4, [&](Communicator& world) -> absl::Status {
    if (world.rank() == 2) return DataLoss("disk %d is gone", 7);
    std::vector<float> v(100000, 1.0f);
    const absl::Status status = world.AllReduce("never", TensorOf(v), ReduceOp::kSum);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    woken += status.ok() ? 0 : 1;
    return status;
  });
  EXPECT_EQ(status, DataLoss("disk %d is gone", 7));
  EXPECT_EQ(woken, 3);
}

TEST(Loopback, AnErrorThatOnlyNamesAnotherRankGivesWayToThatRanks) {
  const absl::Status ended = RunRanks(2, [](Communicator& world) -> absl::Status {
    if (world.rank() == 1) return absl::AbortedError("failed on rank 0");
    EXPECT_EQ(world.Barrier("never").code(), absl::StatusCode::kUnavailable);
    return absl::InvalidArgumentError("the cause");
  });
  EXPECT_EQ(ended, absl::InvalidArgumentError("the cause"));
}

// Ranks that are threads have none to spare; asking for one changes nothing.
TEST(Loopback, HasNoProgressThread) {
  EXPECT_EQ(RunRanks(2,
                     [](Communicator& world) {
                       world.StartProgressThread();
                       return world.Barrier("meet");
                     }),
            absl::OkStatus());
}

TEST(Loopback, ARankThatLeavesEarlyHangsNobody) {
  const absl::Status status = RunRanks(3, [](Communicator& world) -> absl::Status {
    if (world.rank() == 1) return absl::OkStatus();
    return world.Barrier("missing one");
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_NE(status.message().find("rank 1 has returned"), std::string::npos) << status;
}

TEST(Loopback, UnequalSizesAreNamed) {
  const absl::Status status = RunRanks(2, [](Communicator& world) -> absl::Status {
    std::vector<float> v(world.rank() == 0 ? 4 : 5);
    return world.Broadcast("sizes", TensorOf(v), 0);
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_NE(status.message().find("expected 20 bytes, got 16"), std::string::npos) << status;
}

// Two messages of 100 kB out of and into each rank over links of 2 MB/s take 100 ms; between ranks of one node the rate (here 1 kB/s) is
// none of theirs.
TEST(Loopback, LinksHaveARate) {
  for (const bool apart : {true, false}) {
    std::atomic<double> rate = apart ? 2e6 : 1e3;
    std::array<double, 3> seconds{};
    const absl::Status status = RunRanks(3,
                                         [&](Communicator& world) -> absl::Status {
                                           std::vector<float> mine(25'000, 1.0f), all(75'000);
                                           RETURN_IF_ERROR(world.Barrier("start"));
                                           const double began = RealClock().Seconds();
                                           RETURN_IF_ERROR(world.AllGather("g", TensorOf(mine), TensorOf(all)));
                                           seconds[static_cast<size_t>(world.rank())] = RealClock().Seconds() - began;
                                           EXPECT_TRUE(SameBits(all, std::vector<float>(75'000, 1.0f)));
                                           return absl::OkStatus();
                                         },
                                         {.nodes = apart ? std::vector<int>{0, 1, 2} : std::vector<int>{0, 0, 0}, .link_rate = &rate});
    EXPECT_EQ(status, absl::OkStatus());
    for (const double s : seconds) {
      if (apart) {
        EXPECT_GE(s, 0.0999);
      }
      EXPECT_LT(s, 10);
    }
  }
}

TEST(Loopback, NodesAreEmulated) {
  const absl::Status status = RunRanks(4,
                                       [](Communicator& world) -> absl::Status {
                                         for (int r = 0; r < 4; ++r) EXPECT_EQ(world.Node(r), r / 2);
                                         std::vector<float> mine(3), all(12);
                                         RETURN_IF_ERROR(world.AllGather("g", TensorOf(mine), TensorOf(all)));
                                         const WireReport report = world.ledger()->Take();
                                         EXPECT_EQ(report.Total(LinkClass::kSelf).sent_bytes, 12);
                                         EXPECT_EQ(report.Total(LinkClass::kIntraNode).sent_bytes, 12);
                                         EXPECT_EQ(report.Total(LinkClass::kInterNode).sent_bytes, 24);
                                         return absl::OkStatus();
                                       },
                                       {.nodes = {0, 0, 1, 1}});
  EXPECT_EQ(status, absl::OkStatus());
}

}  // namespace
}  // namespace conclave
