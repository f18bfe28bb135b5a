#include <gtest/gtest.h>

#include "comm/exchange.h"
#include "comm/ledger.h"
#include "tests/comm/exchange_laws.h"

namespace conclave {
namespace {

template <typename T>
void ExpectTreeBits(const ExchangeCase& c) {
  const Results<T> results = RunExchange<T>(c);
  const ParameterSet set = TestParameters();
  int seen = 0;
  for (const Blocks<T>& blocks : results) {
    for (const auto& [id, v] : blocks) {
      ++seen;
      EXPECT_TRUE(SameBits(v, TreeMean<T>(c, {id}, set[{id}].shape.elements())))
          << "block " << id << ", " << c.workers << " workers, " << c.ranks << " ranks, expert axis " << c.expert_axis;
    }
  }
  EXPECT_EQ(seen, c.ranks * (4 + 2 * kTestExperts / c.expert_axis));
}

TEST(ExactExchange, WorldSizeInvariantBits) {
  for (const auto& [ranks, axis] :
       {std::pair{1, 1}, {2, 1}, {2, 2}, {3, 1}, {4, 1}, {4, 2}, {4, 4}, {5, 1}, {6, 2}, {8, 1}, {8, 4}, {8, 8}}) {
    ExpectTreeBits<float>({.workers = 8, .ranks = ranks, .expert_axis = axis});
    ExpectTreeBits<double>({.workers = 11, .ranks = ranks, .expert_axis = axis, .steps = 1});
  }
}

TEST(ExactExchange, BitsDoNotDependOnBuckets) {
  for (const int64_t bytes : {1, 200, 1 << 20}) {
    ExpectTreeBits<float>({.workers = 8, .ranks = 3, .bucket_bytes = bytes});
    ExpectTreeBits<float>({.workers = 6, .ranks = 4, .expert_axis = 2, .bucket_bytes = bytes});
  }
}

TEST(ExactExchange, BitsDoNotDependOnWhenBucketsTravel) {
  for (const auto& [ranks, axis] : {std::pair{3, 1}, {4, 2}}) {
    ExpectTreeBits<float>({.workers = 8, .ranks = ranks, .expert_axis = axis, .bucket_bytes = 200, .overlap = false});
  }
}

// On a fixed mesh a node's vectors are added up before they leave it: the bits of one level, folded or not, whatever the buckets are.
TEST(ExactExchange, TwoLevelsGiveTheBitsOfOne) {
  for (const auto& [ranks, node_ranks] : {std::pair{4, 2}, {6, 2}, {8, 4}, {8, 2}}) {
    for (const int64_t bytes : {1, 300, 1 << 20}) {
      for (const bool folded : {false, true}) {
        ExchangeCase one{.workers = 8, .ranks = ranks, .world_size_invariant = false, .folded = folded, .bucket_bytes = bytes};
        ExchangeCase two = one;
        two.node_ranks = node_ranks;
        const Results<float> a = RunExchange<float>(one), b = RunExchange<float>(two);
        for (int r = 0; r < ranks; ++r) {
          for (const auto& [id, v] : a[r]) {
            EXPECT_TRUE(SameBits(v, b[r].at(id))) << ranks << " ranks, " << node_ranks << " a node, block " << id << ", rank " << r;
          }
        }
      }
    }
  }
}

TEST(ExactExchange, TwoLevelsSendAsManyBytesBetweenNodesAsThereAreNodes) {
  ParameterSet set;
  set.Add({.name = "a", .shape = {1000}});
  set.Add({.name = "b", .shape = {24}});
  for (const int levels : {1, 2}) {
    std::vector<int64_t> between(4);
    ASSERT_EQ(RunRanks(4,
                       [&](Communicator& world) -> absl::Status {
                         const Layout layout = ReplicatedLayout(&set, world.rank(), 4);
                         ASSIGN_OR_RETURN(const auto data, world.Split(world.rank(), 0, "data"));
                         ASSIGN_OR_RETURN(const auto inside, world.Split(world.rank() / 2, world.rank(), "inside"));
                         ASSIGN_OR_RETURN(const auto across, world.Split(world.rank() % 2, world.rank(), "between"));
                         const auto exchange = MakeExactExchange({.layout = &layout,
                                                                  .workers = {.workers = 4, .ranks = 4},
                                                                  .world = &world,
                                                                  .data = data.get(),
                                                                  .inside = levels == 2 ? inside.get() : nullptr,
                                                                  .between = levels == 2 ? across.get() : nullptr});
                         world.ledger()->Take();
                         exchange->Begin(0, 0);
                         for (const BlockId id : {BlockId{1}, BlockId{0}}) {
                           std::vector<float> v(set[id].shape.elements(), 1.0f);
                           RETURN_IF_ERROR(exchange->Put({world.rank()}, id, Tensor(v.data(), set[id].shape, DType::kF32)));
                         }
                         RETURN_IF_ERROR(exchange->Finish().status());
                         for (const WireLine& line : world.ledger()->Take().lines) {
                           between[world.rank()] += line.links[static_cast<int>(LinkClass::kInterNode)].sent_bytes;
                         }
                         return absl::OkStatus();
                       },
                       {.nodes = {0, 0, 1, 1}}),
              absl::OkStatus());
    // A node with one level: to and from each of two ranks elsewhere, half of the bucket each way. With two: once.
    EXPECT_EQ(between[0] + between[1], (levels == 1 ? 2 : 1) * 1024 * 4);
  }
}

// Folded vectors may be formed where their means will be: equal bits, for any number of workers. More ranks have no such places.
TEST(ExactExchange, FormsMeansInPlace) {
  ParameterSet set;
  set.Add({.name = "a", .shape = {100}});
  set.Add({.name = "b", .shape = {33}, .kind = BlockKind::kExpert, .expert = 0, .moe_layer = 0});
  for (const int workers : {1, 3}) {
    EXPECT_EQ(RunRanks(1,
                       [&](Communicator& world) -> absl::Status {
                         const Layout layout = ReplicatedLayout(&set, 0, 1);
                         const std::unique_ptr<Exchange> exchange =
                             MakeExactExchange({.layout = &layout, .workers = {.workers = workers}, .world = &world, .data = &world});
                         for (uint32_t step = 0; step < 2; ++step) {
                           exchange->Begin(step, 0);
                           for (const BlockId id : {BlockId{1}, BlockId{0}}) {
                             const std::vector<float> v = WorkerVector<float>(static_cast<int>(step), id, set[id].shape.elements());
                             const Tensor place = exchange->Place(id);
                             std::ranges::copy(v, place.data<float>());
                             RETURN_IF_ERROR(exchange->Put({0}, id, place, /*folded=*/true));
                             for (size_t i = 0; i < v.size(); ++i) {
                               EXPECT_EQ(place.data<float>()[i], v[i] * static_cast<float>(1.0 / workers));
                             }
                           }
                           ASSIGN_OR_RETURN(const Aggregate mean, exchange->Finish());
                           EXPECT_EQ(mean->block({0}).raw(), exchange->Place({0}).raw());
                         }
                         return absl::OkStatus();
                       }),
              absl::OkStatus());
  }
  EXPECT_EQ(RunRanks(2,
                     [&](Communicator& world) -> absl::Status {
                       const Layout layout = ReplicatedLayout(&set, world.rank(), 2);
                       ASSIGN_OR_RETURN(const std::unique_ptr<Communicator> other, world.Split(0, world.rank(), "gradient"));
                       const std::unique_ptr<Exchange> exchange = MakeExactExchange(
                           {.layout = &layout, .workers = {.workers = 2, .ranks = 2}, .world = other.get(), .data = other.get()});
                       EXPECT_FALSE(exchange->Place({0}).defined());
                       return absl::OkStatus();
                     }),
            absl::OkStatus());
}

// Three barriers between two puts: by then every rank has taken what the others had posted before the first.
absl::Status LetMessagesArrive(Communicator& world) {
  for (int i = 0; i < 3; ++i) RETURN_IF_ERROR(world.Barrier("arrival"));
  return absl::OkStatus();
}

// When all vectors are put, the last bucket's sums at most are left to send: a barrier may take them along.
TEST(ExactExchange, SumsComeBackWhileVectorsArePut) {
  ParameterSet set;
  for (const char* name : {"a", "b", "c", "d"}) set.Add({.name = name, .shape = {100}});
  for (const bool overlap : {true, false}) {
    EXPECT_EQ(RunRanks(2,
                       [&](Communicator& world) -> absl::Status {
                         const Layout layout = ReplicatedLayout(&set, world.rank(), 2);
                         ASSIGN_OR_RETURN(const std::unique_ptr<Communicator> other, world.Split(0, world.rank(), "gradient"));
                         const std::unique_ptr<Exchange> exchange = MakeExactExchange({.layout = &layout,
                                                                                       .workers = {.workers = 2, .ranks = 2},
                                                                                       .world = other.get(),
                                                                                       .data = other.get(),
                                                                                       .bucket_bytes = 400,
                                                                                       .overlap = overlap});
                         exchange->Begin(0, 0);
                         world.ledger()->Take();
                         for (int id = 3; id >= 0; --id) {
                           std::vector<float> v = WorkerVector<float>(world.rank(), {id}, 100);
                           RETURN_IF_ERROR(exchange->Put({world.rank()}, {id}, TensorOf(v)));
                           RETURN_IF_ERROR(LetMessagesArrive(world));
                         }
                         int64_t pieces = 0, sums = 0;
                         for (const WireLine& line : world.ledger()->Take().lines) {
                           const int64_t sent = line.links[static_cast<int>(LinkClass::kIntraNode)].sent_bytes;
                           if (line.label == "exchange.pieces") pieces += sent;
                           if (line.label == "exchange.sums") sums += sent;
                         }
                         EXPECT_EQ(pieces, overlap ? 4 * 200 : 0);
                         EXPECT_GE(sums, overlap ? 3 * 200 : 0);
                         EXPECT_LE(sums, overlap ? 4 * 200 : 0);
                         return exchange->Finish().status();
                       }),
              absl::OkStatus());
  }
}

// One exchange of zeros, last block first.
absl::Status PutZeros(const Layout& layout, Exchange& exchange) {
  std::vector<float> zeros(100);
  exchange.Begin(0, 0);
  for (int id = 3; id >= 0; --id) RETURN_IF_ERROR(exchange.Put({layout.rank()}, {id}, TensorOf(zeros)));
  return exchange.Finish().status();
}

// Rank 0 sets its blocks out before rank 1 does, and each block is there when it was awaited.
TEST(ExactExchange, SharedBlocksTravelUntilTheyAreAwaited) {
  ParameterSet set;
  for (const char* name : {"a", "b", "c", "d"}) set.Add({.name = name, .shape = {100}});
  std::vector<BlockHome> homes;
  for (const int canonical : {0, 1, 1, 0}) homes.push_back({.owners = {0, 1}, .canonical = canonical});
  const auto share = [&](Communicator& world) -> absl::Status {
    const Layout layout(&set, world.rank(), homes);
    ASSIGN_OR_RETURN(const std::unique_ptr<Communicator> other, world.Split(0, world.rank(), "gradient"));
    const std::unique_ptr<Exchange> exchange = MakeExactExchange({.layout = &layout,
                                                                  .workers = {.workers = 2, .ranks = 2},
                                                                  .world = other.get(),
                                                                  .data = other.get(),
                                                                  .bucket_bytes = 400,
                                                                  .to_canonical = true});
    FlatVector point(&layout, DType::kF32);
    for (int round = 0; round < 2; ++round) {
      for (int id = 0; id < 4; ++id) point.block({id}).Fill(layout.is_canonical({id}) ? 10 * round + id : -1);
      if (world.rank() == 1) RETURN_IF_ERROR(world.Barrier("rank 0 set out"));
      RETURN_IF_ERROR(exchange->StartSharing(point));
      if (world.rank() == 0) RETURN_IF_ERROR(world.Barrier("rank 0 set out"));
      for (const int id : {2, 0, 3}) {
        RETURN_IF_ERROR(exchange->AwaitShared({id}));
        EXPECT_EQ(point.block({id}).data<float>()[99], static_cast<float>(10 * round + id));
      }
      RETURN_IF_ERROR(round == 0 ? exchange->FinishSharing() : PutZeros(layout, *exchange));
      EXPECT_EQ(point.block({1}).data<float>()[0], static_cast<float>(10 * round + 1));
    }
    return absl::OkStatus();
  };
  EXPECT_EQ(RunRanks(2, share), absl::OkStatus());
}

TEST(ExactExchange, AbsentBlocksAreZero) {
  const auto skip = [](int worker, BlockId block) { return (worker + block.value) % 3 == 0 || block.value == 2 || worker == 4; };
  for (const auto& [ranks, axis] : {std::pair{1, 1}, {2, 2}, {3, 1}, {4, 2}, {8, 1}}) {
    ExpectTreeBits<float>({.workers = 8, .ranks = ranks, .expert_axis = axis, .skip = skip});
  }
  ExpectTreeBits<double>({.workers = 5, .ranks = 5, .skip = [](int, BlockId) { return true; }});
}

TEST(ExactExchange, FixedMeshIsTheMean) {
  const ParameterSet set = TestParameters();
  for (const bool folded : {false, true}) {
    for (const auto& [ranks, axis] : {std::pair{1, 1}, {2, 2}, {3, 1}, {4, 2}}) {
      const ExchangeCase c = {.workers = 8, .ranks = ranks, .expert_axis = axis, .world_size_invariant = false, .folded = folded};
      const Results<double> results = RunExchange<double>(c), again = RunExchange<double>(c);
      for (int r = 0; r < ranks; ++r) {
        for (const auto& [id, v] : results[r]) {
          const std::vector<double> expected = TreeMean<double>(c, {id}, set[{id}].shape.elements());
          double scale = 1;
          for (int m = 0; m < c.workers; ++m) {
            for (const double x : WorkerVector<double>(m, {id}, set[{id}].shape.elements())) scale = std::max(scale, std::abs(x));
          }
          for (size_t i = 0; i < v.size(); ++i) EXPECT_NEAR(v[i], expected[i], 1e-14 * scale) << id << ' ' << i;
          EXPECT_TRUE(SameBits(v, again[r].at(id))) << "not deterministic";
        }
      }
      // Every owner has the same bits.
      for (int r = 1; r < ranks; ++r) EXPECT_TRUE(SameBits(results[r].at(0), results[0].at(0)));
    }
  }
}

TEST(ExactExchange, RefusesWhatCannotBe) {
  EXPECT_EQ(
      RunRanks(
          1,
          [](Communicator& world) -> absl::Status {
            const ParameterSet set = TestParameters();
            const Layout layout = TestLayout(&set, 0, 1, 1);
            const auto exchange = MakeExactExchange(
                {.layout = &layout, .workers = {.workers = 4, .ranks = 1}, .world = &world, .data = &world, .world_size_invariant = true});
            exchange->Begin(0, 0);
            std::vector<float> v(5, 1.0f);
            RETURN_IF_ERROR(exchange->Put({2}, {0}, TensorOf(v)));
            EXPECT_EQ(exchange->Put({2}, {0}, TensorOf(v)).code(), absl::StatusCode::kInternal) << "twice";
            EXPECT_EQ(exchange->Put({1}, {0}, TensorOf(v)).code(), absl::StatusCode::kInternal) << "out of order";
            EXPECT_EQ(exchange->Put({4}, {0}, TensorOf(v)).code(), absl::StatusCode::kInternal) << "unknown worker";
            EXPECT_TRUE(exchange->wants_each_worker());
            return absl::OkStatus();
          }),
      absl::OkStatus());
}

// With one worker a rank the wire carries what the logical book says, and both equal the formula.
TEST(ExactExchange, LedgerOnOneWorkerARank) {
  const ParameterSet set = TestParameters();
  for (const int ranks : {2, 3, 5}) {
    std::vector<WireReport> reports(ranks);
    ExchangeCase c = {.workers = ranks, .ranks = ranks, .bucket_bytes = 1000, .steps = 1};
    c.after = [&](Communicator& world) { reports[world.rank()] = world.ledger()->Take(); };
    RunExchange<float>(c);
    int64_t sent = 0, received = 0, uplink = 0, downlink = 0;
    for (const WireReport& report : reports) {
      const WireCount physical = report.BetweenRanks();
      EXPECT_EQ(physical.sent_bytes, report.logical.uplink_bytes + report.logical.downlink_bytes);
      EXPECT_EQ(physical.sent_messages, report.logical.messages);
      EXPECT_EQ(report.Total(LinkClass::kSelf).sent_bytes, 0);
      sent += physical.sent_bytes, received += physical.received_bytes;
      uplink += report.logical.uplink_bytes, downlink += report.logical.downlink_bytes;
      EXPECT_EQ(report.logical.dense_bytes, set.elements() * 4);
    }
    EXPECT_EQ(sent, received);
    EXPECT_EQ(uplink, (ranks - 1) * set.elements() * 4);
    EXPECT_EQ(downlink, (ranks - 1) * set.elements() * 4);
  }
}

TEST(ExactExchange, FewerRanksSendLessThanTheirWorkers) {
  std::vector<WireReport> reports(2);
  ExchangeCase c = {.workers = 8, .ranks = 2, .steps = 1};
  c.after = [&](Communicator& world) { reports[world.rank()] = world.ledger()->Take(); };
  RunExchange<float>(c);
  const int64_t bytes = TestParameters().elements() * 4;
  int64_t sent = 0, logical = 0;
  for (const WireReport& report : reports) {
    sent += report.BetweenRanks().sent_bytes;
    logical += report.logical.uplink_bytes;
  }
  EXPECT_EQ(sent, 2 * bytes) << "one piece a rank there, and the sums back";
  int64_t replicated = 0;
  const ParameterSet set = TestParameters();
  for (const BlockSpec& spec : set.blocks()) replicated += spec.kind == BlockKind::kReplicated ? spec.shape.elements() * 4 : 0;
  EXPECT_EQ(logical, 7 * replicated + (bytes - replicated));
}

}  // namespace
}  // namespace conclave
