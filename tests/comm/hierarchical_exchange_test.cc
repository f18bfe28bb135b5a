// Bytes of the hierarchical exchange, on the links they cross.
#include <gtest/gtest.h>

#include "comm/wire_frame.h"
#include "tests/comm/memory_laws.h"

namespace conclave {
namespace {

// 4 workers on 4 ranks of two nodes, groups as the nodes: between nodes only what the leaders send, inside only whole vectors.
TEST(Hierarchical, LedgerEqualsTheFormulaOnEachKindOfLink) {
  constexpr int64_t kElements = 20000, kPayload = kElements + 2 * ((kElements + 63) / 64);
  std::vector<WireReport> reports(4);
  const absl::Status status = RunRanks(
      4,
      [&](Communicator& world) -> absl::Status {
        ParameterSet set;
        set.Add({.name = "x", .shape = {kElements}});
        const Layout layout = ReplicatedLayout(&set, world.rank(), 4);
        ASSIGN_OR_RETURN(
            const auto exchange,
            MakeExchange(
                ParseExchange("hierarchical { workers_per_group: 2 exchange { quantized { codec { block_int { bits: 8 block: 64 } } } } }"),
                {.layout = &layout, .workers = {.workers = 4, .ranks = 4}, .world = &world}));
        world.ledger()->Take();
        std::vector<float> v = TestVector<float>(world.rank(), kElements);
        exchange->Begin(0, 0);
        RETURN_IF_ERROR(exchange->Put({world.rank()}, {0}, TensorOf(v)));
        RETURN_IF_ERROR(exchange->Finish().status());
        reports[static_cast<size_t>(world.rank())] = world.ledger()->Take();
        return absl::OkStatus();
      },
      {.nodes = {0, 0, 1, 1}});
  ASSERT_EQ(status, absl::OkStatus());
  for (int rank = 0; rank < 4; ++rank) {
    const WireReport& report = reports[static_cast<size_t>(rank)];
    const bool leads = rank % 2 == 0;
    const int64_t coded = leads ? kFrameBytes + kPayload : 0;
    EXPECT_EQ(report.Total(LinkClass::kInterNode).sent_bytes, coded) << rank;
    EXPECT_EQ(report.Total(LinkClass::kIntraNode).sent_bytes, 4 * kElements) << rank;
    EXPECT_EQ(report.logical.uplink_bytes, leads ? coded : 4 * kElements) << rank;
    EXPECT_EQ(report.logical.downlink_bytes, leads ? 4 * kElements : 0) << rank;
    EXPECT_EQ(report.logical.messages, leads ? 2 : 1) << rank;
    EXPECT_EQ(report.logical.encoded_bytes, leads ? kPayload : 4 * kElements) << rank;
    EXPECT_EQ(report.logical.dense_bytes, 4 * kElements) << rank;
  }
}

// One group of all workers is the exact exchange, groups of one worker are the inner one.
TEST(Hierarchical, LosesOnlyBetweenGroups) {
  MemoryRun run{.config = ParseExchange("hierarchical { workers_per_group: 4 exchange { exact {} } }"), .ranks = 2, .steps = 2};
  MemoryRun exact = run;
  exact.config = ParseExchange("exact {}");
  const MemoryResult whole = RunMemory(run), mean = RunMemory(exact);
  for (int step = 0; step < run.steps; ++step) EXPECT_TRUE(SameBlocks(whole.aggregates[step], mean.aggregates[step])) << step;
  // With one worker a group it is the inner exchange.
  run.config = ParseExchange("hierarchical { workers_per_group: 1 exchange { quantized { codec { natural {} } } } }");
  MemoryRun inner = run;
  inner.config = ParseExchange("quantized { codec { natural {} } }");
  const MemoryResult single = RunMemory(run), plain = RunMemory(inner);
  for (int step = 0; step < run.steps; ++step) EXPECT_TRUE(SameBlocks(single.aggregates[step], plain.aggregates[step])) << step;
}

}  // namespace
}  // namespace conclave
