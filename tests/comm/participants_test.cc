// Exchanges to which only some workers put vectors: who takes no part counts as +0, sends nothing and is not booked.
#include <gtest/gtest.h>

#include "comm/wire_frame.h"
#include "tests/comm/memory_laws.h"

namespace conclave {
namespace {

constexpr int kTeam = 4;

// Two of four, others in every step; of two ranks one may have none.
bool InTurn(int step, int worker) { return (worker + step) % kTeam < 2; }
bool Odd(int, int worker) { return worker % 2 == 1; }

std::vector<MemoryRun> PartialRuns() {
  std::vector<MemoryRun> runs;
  for (const char* text : {"exact {}", "quantized { codec { natural {} } }", "quantized { codec { rand_k { fraction: 0.05 } } }",
                           "quantized { codec { qsgd { levels: 8 } } }",
                           "quantized { codec { natural {} } } when_it_pays { link_rate: 1e9 codec_rate: 1e8 }"}) {
    runs.push_back({.config = ParseExchange(text)});
  }
  for (const char* text :
       {"quantized { codec { natural {} } } downlink { codec { block_int { bits: 8 block: 64 } } }",
        "quantized { codec { qsgd { levels: 16 } } } downlink { codec { qsgd { levels: 64 } } }",
        "quantized { codec { blockwise { exact_below: 4 otherwise { perm_k {} } } } } downlink { codec { natural {} } servers: "
        "FIRST_WORKER }"}) {
    runs.push_back({.config = ParseExchange(text), .parameters = LargeParameters});
  }
  for (MemoryRun& run : runs) run.takes_part = InTurn;
  return runs;
}

TEST(Participants, TheOthersCountAsZeroOnAnyMesh) {
  for (MemoryRun run : PartialRuns()) {
    SCOPED_TRACE(run.config.ShortDebugString());
    std::vector<Blocks<float>> expected;  // all may send, and some have nothing to say
    for (int step = 0; step < run.steps; ++step) {
      MemoryRun silent = run;
      silent.first = step, silent.steps = 1;
      silent.takes_part = {};
      silent.skip = [step](int worker, BlockId) { return !InTurn(step, worker); };
      expected.push_back(RunMemory(silent).aggregates[0]);
    }
    for (const auto& [ranks, axis] : {std::pair{1, 1}, {2, 1}, {2, 2}, {3, 1}, {4, 2}, {4, 1}}) {
      run.ranks = ranks, run.expert_axis = axis;
      const MemoryResult got = RunMemory(run);
      for (int step = 0; step < run.steps; ++step) {
        EXPECT_TRUE(SameBlocks(got.aggregates[step], expected[step])) << ranks << " ranks, axis " << axis << ", step " << step;
      }
    }
  }
}

TEST(Participants, BothBooksAgreeWithOneWorkerARank) {
  std::vector<MemoryRun> runs = PartialRuns();
  runs.push_back(runs[0]);
  runs.back().invariant = false;
  for (MemoryRun& run : runs) {
    run.ranks = kTeam;
    for (run.steps = 1; run.steps <= 3; ++run.steps) {  // reports are of the last
      WireCount all;
      for (const WireReport& report : RunMemory(run).reports) {
        EXPECT_EQ(report.BetweenRanks().sent_bytes, report.logical.uplink_bytes + report.logical.downlink_bytes)
            << run.config.ShortDebugString() << ", step " << run.steps - 1;
        EXPECT_EQ(report.BetweenRanks().sent_messages, report.logical.messages);
        all += report.BetweenRanks();
      }
      EXPECT_EQ(all.sent_bytes, all.received_bytes);
    }
  }
}

// Summed over ranks, the logical book does not depend on how many there are.
TEST(Participants, TheLogicalBookIsTheSameOnAnyNumberOfRanks) {
  for (MemoryRun run : PartialRuns()) {
    SCOPED_TRACE(run.config.ShortDebugString());
    run.parameters = [] {
      ParameterSet set;
      set.Add({.name = "x", .shape = {9000}});
      return set;
    };
    LogicalWire one;
    for (const int ranks : {1, 2, 3, 4}) {
      run.ranks = ranks;
      LogicalWire sum;
      for (const WireReport& report : RunMemory(run).reports) sum += report.logical;
      if (ranks == 1) one = sum;
      EXPECT_EQ(sum, one) << ranks << " ranks";
      EXPECT_EQ(sum.dense_bytes, 2 * 9000 * 4) << "two of four";
    }
  }
}

// By rank, with one worker each, in one exchange of one block in which the odd ones take part.
std::vector<WireReport> ReportsOfOdd(const char* exchange, int64_t elements) {
  const auto one_block = [elements] {
    ParameterSet set;
    set.Add({.name = "x", .shape = {elements}});
    return set;
  };
  return RunMemory(
             {.config = ParseExchange(exchange), .workers = kTeam, .ranks = kTeam, .steps = 1, .parameters = one_block, .takes_part = Odd})
      .reports;
}

TEST(Participants, MessagesCostWhatTheirFormulaSays) {
  constexpr int64_t kElements = 5000, kPayload = 500 * 4, kOthers = kTeam - 1;
  const auto reports = ReportsOfOdd("quantized { codec { rand_k { fraction: 0.1 } } }", kElements);
  for (int rank = 0; rank < kTeam; ++rank) {
    const WireCount wire = reports[rank].BetweenRanks();
    EXPECT_EQ(wire.received_bytes, (rank % 2 == 1 ? 1 : 2) * (kFrameBytes + kPayload));
    LogicalWire expected;
    if (rank % 2 == 1) {
      expected = {.uplink_bytes = kOthers * (kFrameBytes + kPayload),
                  .header_bytes = kOthers * kFrameBytes,
                  .messages = kOthers,
                  .encoded_bytes = kPayload,
                  .dense_bytes = kElements * 4};
    }
    EXPECT_EQ(reports[rank].logical, expected) << rank;
    EXPECT_EQ(wire.sent_bytes, expected.uplink_bytes) << rank;
    EXPECT_EQ(wire.sent_messages, expected.messages) << rank;
  }
}

// Every rank serves a part and hands its mean on, whether it takes part or not.
TEST(Participants, ServersCostWhatTheirFormulaSays) {
  constexpr int64_t kPart = 8192, kPayload = kPart + 2 * kPart / 64, kOthers = kTeam - 1;
  const auto reports = ReportsOfOdd(
      "quantized { codec { block_int { bits: 8 block: 64 } } } downlink { codec { block_int { bits: 8 block: 64 } } }", kTeam * kPart);
  for (int rank = 0; rank < kTeam; ++rank) {
    const int64_t up = rank % 2 == 1 ? kOthers : 0;
    EXPECT_EQ(reports[rank].logical, (LogicalWire{.uplink_bytes = up * (kFrameBytes + kPayload),
                                                  .downlink_bytes = kOthers * (kFrameBytes + kPayload),
                                                  .header_bytes = (up + kOthers) * kFrameBytes,
                                                  .messages = up + kOthers,
                                                  .encoded_bytes = rank % 2 == 1 ? kTeam * kPayload : 0,
                                                  .dense_bytes = rank % 2 == 1 ? kTeam * kPart * 4 : 0}))
        << rank;
    EXPECT_EQ(reports[rank].BetweenRanks().sent_bytes, (up + kOthers) * (kFrameBytes + kPayload)) << rank;
  }
}

TEST(Participants, SumsCostWhatTheirFormulaSays) {
  constexpr int64_t kChunk = 1000 * 4, kOthers = kTeam - 1;
  const auto reports = ReportsOfOdd("exact {}", kTeam * 1000);
  for (int rank = 0; rank < kTeam; ++rank) {
    const int64_t up = rank % 2 == 1 ? kOthers : 0;
    EXPECT_EQ(reports[rank].logical.uplink_bytes, up * kChunk) << rank;
    EXPECT_EQ(reports[rank].logical.downlink_bytes, kOthers * kChunk) << rank;
    EXPECT_EQ(reports[rank].BetweenRanks().sent_bytes, (up + kOthers) * kChunk) << rank;
  }
}

TEST(Participants, WhereAllTakePartNothingChanges) {
  for (MemoryRun run : PartialRuns()) {
    SCOPED_TRACE(run.config.ShortDebugString());
    run.ranks = 3;
    run.takes_part = [](int, int) { return true; };
    MemoryRun plain = run;
    plain.takes_part = {};
    const MemoryResult all = RunMemory(run), none = RunMemory(plain);
    for (int step = 0; step < run.steps; ++step) EXPECT_TRUE(SameBlocks(all.aggregates[step], none.aggregates[step])) << step;
    for (int rank = 0; rank < run.ranks; ++rank) {
      EXPECT_EQ(all.reports[rank].logical, none.reports[rank].logical);
      EXPECT_EQ(all.reports[rank].BetweenRanks(), none.reports[rank].BetweenRanks());
    }
  }
}

TEST(Participants, AVectorOfAnotherWorkerIsRefused) {
  for (const char* text : {"exact {}", "quantized { codec { rand_k { fraction: 0.05 } } }",
                           "quantized { codec { natural {} } } downlink { codec { natural {} } }"}) {
    const absl::Status status = RunRanks(2, [&](Communicator& world) -> absl::Status {
      ParameterSet set;
      set.Add({.name = "x", .shape = {4000}});
      const Layout layout = ReplicatedLayout(&set, world.rank(), 2);
      const Participants first{.count = 1, .chosen = {1, 0}};
      ASSIGN_OR_RETURN(const auto exchange, MakeExchange(ParseExchange(text), {.layout = &layout,
                                                                               .workers = {.workers = 2, .ranks = 2},
                                                                               .world = &world,
                                                                               .world_size_invariant = true,
                                                                               .participants = &first}));
      exchange->Begin(0, 0);
      std::vector<float> v(4000, 1.0f);
      const absl::Status put = exchange->Put({world.rank()}, {0}, TensorOf(v));
      EXPECT_EQ(put.code(), world.rank() == 0 ? absl::StatusCode::kOk : absl::StatusCode::kInternal) << text << ": " << put;
      return exchange->Finish().status();
    });
    EXPECT_EQ(status, absl::OkStatus()) << text;
  }
}

}  // namespace
}  // namespace conclave
