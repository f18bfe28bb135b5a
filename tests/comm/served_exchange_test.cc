// Exchanges whose means have servers and a way back of their own: how blocks are cut, and what the ways promise beside the laws of all
// exchanges (tests/comm/exchange_conformance_test.cc).
#include <cmath>

#include <gtest/gtest.h>

#include "comm/block_parts.h"
#include "tests/comm/memory_laws.h"

namespace conclave {
namespace {

MemoryRun ServedRun(const char* text, int ranks = 1) {
  return {.config = ParseExchange(text), .ranks = ranks, .steps = 2, .parameters = LargeParameters};
}

TEST(BlockParts, CoverEachBlockAndSpreadOverWorkers) {
  for (const int workers : {1, 3, 4, 8}) {
    const ParameterSet set = LargeParameters();
    const auto parts = PlanParts(set, workers, true);
    std::vector<int64_t> load(workers);
    for (int i = 0; i < set.size(); ++i) {
      const int64_t n = set[{i}].shape.elements();
      EXPECT_EQ(static_cast<int64_t>(parts[i].size()), std::max<int64_t>(1, std::min<int64_t>(workers, n / 4096)));
      int64_t next = 0;
      std::vector<bool> taken(workers);
      for (const BlockPart& part : parts[i]) {
        EXPECT_EQ(part.first, next);
        EXPECT_EQ(part.first % 1024, 0);
        EXPECT_FALSE(taken[part.server]) << "a worker serves one part of a block";
        taken[part.server] = true;
        load[part.server] += part.elements;
        next += part.elements;
      }
      EXPECT_EQ(next, n);
    }
    const auto [least, most] = std::minmax_element(load.begin(), load.end());
    EXPECT_LE(*most - *least, 9000) << "no more apart than the largest part";
  }
  for (const auto& block : PlanParts(LargeParameters(), 4, false)) {
    ASSERT_EQ(block.size(), 1u);
    EXPECT_EQ(block[0].server, 0);
  }
}

// One block of 4 parts, int8 in blocks of 64 both ways: every rank sends 3/4 of its codes up and its own part's mean to the 3 others.
TEST(ServedExchange, LedgerEqualsTheFormula) {
  constexpr int kRanks = 4;
  constexpr int64_t kPart = 8192, kPayload = kPart + 2 * kPart / 64, kFrame = 32;
  const ExchangeConfig served = ParseExchange(
      "ef21 { codec { block_int { bits: 8 block: 64 rounding: NEAREST } } } downlink { codec { block_int { bits: 8 block: 64 rounding: "
      "NEAREST } } }");
  for (const WireReport& report : ReportsOfOneBlock(served, kRanks, kRanks * kPart)) {
    EXPECT_EQ(report.logical, (LogicalWire{.uplink_bytes = 3 * (kFrame + kPayload),
                                           .downlink_bytes = 3 * (kFrame + kPayload),
                                           .header_bytes = 6 * kFrame,
                                           .messages = 6,
                                           .encoded_bytes = kRanks * kPayload,
                                           .dense_bytes = kRanks * kPart * 4}));
    EXPECT_EQ(report.BetweenRanks().sent_bytes, 6 * (kFrame + kPayload));
  }
  // The exact exchange sends 8 d (P - 1) / P bytes a rank.
  const int64_t exact = ReportsOfOneBlock(ParseExchange("exact {}"), kRanks, kRanks * kPart)[0].BetweenRanks().sent_bytes;
  EXPECT_EQ(exact, 6 * kPart * 4);
  EXPECT_GT(exact, 3.8 * 6 * (kFrame + kPayload));
}

// With vectors that stay, both memories learn them: no error is left, though both ways lose something at first.
TEST(ServedExchange, MemoriesOnBothWaysLearnAVectorThatStays) {
  const std::pair<const char*, int> cases[] = {{"ef21 { codec { block_int { bits: 4 block: 64 rounding: NEAREST } } } downlink { codec { "
                                                "block_int { bits: 4 block: 64 rounding: NEAREST } } }",
                                                12},
                                               {"diana { codec { natural {} } } downlink { codec { natural {} } }", 60}};
  for (const auto& [text, steps] : cases) {
    SCOPED_TRACE(text);
    MemoryRun run = ServedRun(text, 2);
    run.moving = false;
    run.steps = steps;
    MemoryRun exact = run;
    exact.config = ParseExchange("exact {}");
    exact.steps = 1;
    const Blocks<float> goal = RunMemory(exact).aggregates[0];
    const MemoryResult got = RunMemory(run);
    EXPECT_GT(Distance(got.aggregates.front(), goal), 1e-3 * Norm(goal));
    EXPECT_LT(Distance(got.aggregates.back(), goal), 1e-5 * Norm(goal));
  }
}

// Without memories an unbiased way back is unbiased: over many draws the mean of what is heard tends to the mean that went up.
TEST(ServedExchange, AnUnbiasedWayBackIsUnbiased) {
  MemoryRun run = ServedRun("quantized { codec { identity {} } } downlink { codec { natural {} } }");
  run.moving = false;
  run.steps = 200;
  run.parameters = [] {
    ParameterSet set;
    set.Add({.name = "x", .shape = {500}});
    return set;
  };
  MemoryRun exact = run;
  exact.config = ParseExchange("exact {}");
  exact.steps = 1;
  const Blocks<float> goal = RunMemory(exact).aggregates[0];
  const MemoryResult got = RunMemory(run);
  Blocks<float> mean = got.aggregates[0];
  for (size_t i = 0; i < mean[0].size(); ++i) {
    double sum = 0;
    for (const auto& step : got.aggregates) sum += step.at(0)[i];
    mean[0][i] = static_cast<float>(sum / run.steps);
  }
  // Of 500 coordinates with a relative variance of at most 1/8 each.
  EXPECT_LT(Distance(mean, goal), 1.2 * std::sqrt(1.0 / 8 / run.steps) * Norm(goal));
  EXPECT_GT(Distance(got.aggregates[0], goal), 0.1 * Norm(goal));
}

}  // namespace
}  // namespace conclave
