// The laws of communicators and of the exact exchange under a real mpirun.
#include "comm/mpi_communicator.h"

#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "base/clock.h"
#include "base/strings.h"
#include "comm/ledger.h"
#include "tests/comm/communicator_laws.h"
#include "tests/comm/exchange_laws.h"

namespace conclave {
namespace {

std::unique_ptr<MpiSession> StartSession() {
  absl::StatusOr<std::unique_ptr<MpiSession>> session = MpiSession::Start(nullptr, nullptr);
  EXPECT_EQ(session.status(), absl::OkStatus());
  return session.ok() ? *std::move(session) : nullptr;
}

TEST(Mpi, CommunicatorLaws) {
  const auto session = StartSession();
  ASSERT_NE(session, nullptr);
  EXPECT_EQ(AllCommunicatorLaws(session->world()), absl::OkStatus());
}

TEST(Mpi, LawsHoldWithAProgressThread) {
  const auto session = StartSession();
  ASSERT_NE(session, nullptr);
  session->world().StartProgressThread();
  EXPECT_EQ(AllCommunicatorLaws(session->world()), absl::OkStatus());
}

// A stream counts from its first message on or from when it is reserved, and as long as its group lives.
TEST(Mpi, MemoryOfTheNodeIsThatOfStreamsInUse) {
  const auto session = StartSession();
  ASSERT_NE(session, nullptr);
  Communicator& world = session->world();
  constexpr int64_t kRings = int64_t{1} << 20, kLongestRing = int64_t{256} << 10, kLine = 64;
  const int64_t others = world.size() - 1, stream = others == 0 ? 0 : others * (std::min(kRings / others, kLongestRing) / kLine * kLine);
  EXPECT_EQ(world.NodeMemory(), 0);
  {
    const auto reserved = world.Split(0, world.rank(), "reserved"),
               used = world.Split(0, world.rank(), "used");  // by messages of the world
    ASSERT_TRUE(reserved.ok() && used.ok());
    EXPECT_EQ(world.NodeMemory(), stream);
    (*reserved)->Reserve(3, 2);
    EXPECT_EQ(world.NodeMemory(), 3 * stream);
    EXPECT_EQ((*used)->Barrier("first"), absl::OkStatus());
    EXPECT_EQ((*reserved)->Barrier("expected"), absl::OkStatus());
    EXPECT_EQ((*used)->NodeMemory(), 4 * stream);
  }
  EXPECT_EQ(world.NodeMemory(), stream);
}

// A barrier of three ranks and more has two phases: rank 2 leaves it only after rank 0 has sent in the second, which it starts when the
// first is over. Until rank 2 has left, rank 0 makes no call.
TEST(Mpi, TheProgressThreadGoesOnWhileARankComputes) {
  const auto session = StartSession();
  ASSERT_NE(session, nullptr);
  Communicator& world = session->world();
  if (world.size() < 3) GTEST_SKIP() << "needs 3 ranks";
  world.StartProgressThread();
  const std::filesystem::path left = testing::TempDir() + absl::StrFormat("/left-%d", getppid());  // the launcher's number
  Collective barrier{.kind = CollectiveKind::kBarrier, .label = "two phases"};
  absl::StatusOr<Request> request = world.Start(barrier);
  ASSERT_EQ(request.status(), absl::OkStatus());
  if (world.rank() == 0) {
    const double deadline = RealClock().Seconds() + 20;
    while (!std::filesystem::exists(left) && RealClock().Seconds() < deadline) usleep(1000);
    EXPECT_TRUE(std::filesystem::exists(left)) << "nothing went on while rank 0 made no call";
  }
  EXPECT_EQ(world.Wait(*request), absl::OkStatus());
  if (world.rank() == 2) std::ofstream(left) << "left";
  EXPECT_EQ(world.Barrier("end"), absl::OkStatus());
  if (world.rank() == 0) std::filesystem::remove(left);
}

TEST(Mpi, RanksOfOneMachineShareANode) {
  const auto session = StartSession();
  ASSERT_NE(session, nullptr);
  Communicator& world = session->world();
  int rank = 0, size = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  EXPECT_EQ(world.rank(), rank);
  EXPECT_EQ(world.size(), size);
  for (int r = 0; r < size; ++r) EXPECT_EQ(world.Node(r), 0);
}

TEST(Mpi, ExactExchangeHasTheBitsOfTheTree) {
  const auto session = StartSession();
  ASSERT_NE(session, nullptr);
  Ledger ledger;
  session->Attach(&ledger, nullptr);
  const int ranks = session->world().size();
  const ParameterSet set = TestParameters();
  for (int axis = 1; axis <= ranks; axis *= 2) {
    if (ranks % axis != 0) continue;
    const ExchangeCase c = {.workers = 8, .ranks = ranks, .expert_axis = axis, .bucket_bytes = 500};
    Blocks<float> result;
    ASSERT_EQ(RunExchangeOn<float>(session->world(), c, result), absl::OkStatus());
    for (const auto& [id, v] : result) EXPECT_TRUE(SameBits(v, TreeMean<float>(c, {id}, set[{id}].shape.elements()))) << "block " << id;
  }
  session->Attach(nullptr, nullptr);
}

TEST(Mpi, LedgerEqualsLoopback) {
  const auto session = StartSession();
  ASSERT_NE(session, nullptr);
  Ledger ledger;
  session->Attach(&ledger, nullptr);
  ASSERT_EQ(AllCommunicatorLaws(session->world()), absl::OkStatus());
  const WireReport mpi = ledger.Take();
  std::vector<WireReport> loopback(session->world().size());
  ASSERT_EQ(RunRanks(session->world().size(),
                     [&](Communicator& world) -> absl::Status {
                       RETURN_IF_ERROR(AllCommunicatorLaws(world));
                       loopback[world.rank()] = world.ledger()->Take();
                       return absl::OkStatus();
                     }),
            absl::OkStatus());
  const WireReport& expected = loopback[session->world().rank()];
  ASSERT_EQ(mpi.lines.size(), expected.lines.size());
  for (size_t i = 0; i < mpi.lines.size(); ++i) {
    EXPECT_EQ(mpi.lines[i].label, expected.lines[i].label);
    EXPECT_EQ(mpi.lines[i].links, expected.lines[i].links) << mpi.lines[i].label;
  }
  EXPECT_TRUE(session->world().size() == 1 || mpi.BetweenRanks().sent_bytes > 0);
}

}  // namespace
}  // namespace conclave
