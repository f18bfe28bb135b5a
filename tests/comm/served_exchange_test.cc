// Exchanges whose means have servers and a way back of their own.
#include <cmath>

#include <gtest/gtest.h>

#include "comm/block_parts.h"
#include "comm/wire_frame.h"
#include "tests/comm/memory_laws.h"

namespace conclave {
namespace {

constexpr int kMeshes[][2] = {{2, 2}, {3, 1}, {4, 1}};  // ranks, expert axis

// Blocks of one part, of some and of one for each of four workers; an expert of two parts, others of one.
ParameterSet LargeParameters() {
  ParameterSet set;
  set.Add({.name = "a", .shape = {5, 1}});
  for (int e = 0; e < kTestExperts; ++e) {
    set.Add(
        {.name = absl::StrFormat("e%d.w", e), .shape = {e == 3 ? 90 : 2, 100}, .kind = BlockKind::kExpert, .expert = e, .moe_layer = 0});
    set.Add({.name = absl::StrFormat("e%d.b", e), .shape = {3}, .kind = BlockKind::kExpert, .expert = e, .moe_layer = 0});
  }
  set.Add({.name = "b", .shape = {130, 100}});
  set.Add({.name = "c", .shape = {16461}});
  return set;
}

const char* const kServed[] = {
    "quantized { codec { natural {} } } downlink { codec { block_int { bits: 8 block: 64 } } }",
    "quantized { codec { blockwise { exact_below: 4 otherwise { perm_k {} } } } } downlink { codec { natural {} } servers: FIRST_WORKER }",
    "quantized { codec { qsgd { levels: 16 } } } downlink { codec { qsgd { levels: 64 } } }",
    "quantized { codec { rand_k { fraction: 0.3 } } } downlink { codec { identity {} } }",
    "ef14 { codec { top_k { fraction: 0.1 } } } downlink { codec { scaled_sign {} } }",
    "ef21 { codec { block_int { bits: 8 block: 64 rounding: NEAREST } } } downlink { codec { block_int { bits: 8 block: 64 rounding: "
    "NEAREST } } }",
    "ef21 { codec { blockwise { rules { pattern: 'e*' codec { identity {} } } otherwise { fp8 {} } } } } downlink { codec { blockwise { "
    "rules { "
    "pattern: 'e*' codec { identity {} } } otherwise { top_k { fraction: 0.2 } } } } }",
    "ef21_sgdm { eta: 0.3 codec { bf16 {} } } downlink { codec { block_int { bits: 4 block: 16 rounding: NEAREST } } }",
    "diana { codec { natural {} } } downlink { codec { rand_k { fraction: 0.5 } } }",
    "marina { p: 0.3 codec { ternary {} } } downlink { codec { natural {} } }",
};

MemoryRun ServedRun(const char* text, int ranks = 1, int expert_axis = 1) {
  return {.config = ParseExchange(text), .ranks = ranks, .expert_axis = expert_axis, .steps = 2, .parameters = LargeParameters};
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

TEST(ServedExchange, TheSameBitsAndStateOnAnyMesh) {
  for (const char* text : kServed) {
    SCOPED_TRACE(text);
    const auto skip = [](int worker, BlockId block) { return worker == 1 && block.value % 2 == 0; };
    MemoryRun run = ServedRun(text);
    run.skip = skip;
    const MemoryResult one = RunMemory(run);
    for (const auto& [ranks, axis] : kMeshes) {
      run.ranks = ranks, run.expert_axis = axis;
      const MemoryResult other = RunMemory(run);
      for (size_t step = 0; step < one.aggregates.size(); ++step) {
        EXPECT_TRUE(SameBlocks(one.aggregates[step], other.aggregates[step])) << ranks << " ranks, axis " << axis << ", step " << step;
      }
      EXPECT_TRUE(one.state == other.state) << ranks << " ranks, axis " << axis;
    }
  }
}

TEST(ServedExchange, SaveLoadContinueEqualsNotStopping) {
  for (const char* text : kServed) {
    SCOPED_TRACE(text);
    MemoryRun run = ServedRun(text, 2);
    run.steps = 4;
    const MemoryResult straight = RunMemory(run);
    run = ServedRun(text, 4, 2);
    run.steps = 2;
    const MemoryResult before = RunMemory(run);
    run = ServedRun(text, 3);
    run.first = run.steps = 2;
    run.start = &before.state;
    const MemoryResult after = RunMemory(run);
    for (int step = 0; step < 2; ++step) EXPECT_TRUE(SameBlocks(straight.aggregates[2 + step], after.aggregates[step])) << step;
    EXPECT_TRUE(straight.state == after.state);
  }
}

TEST(ServedExchange, ADiscardedStepLeavesNoTrace) {
  for (const char* text : kServed) {
    SCOPED_TRACE(text);
    const MemoryRun run = ServedRun(text, 2);
    MemoryRun doubting = run;
    doubting.refused = [](int step) { return step != 1; };
    const MemoryResult straight = RunMemory(run), refused = RunMemory(doubting);
    for (int step = 0; step < run.steps; ++step) EXPECT_TRUE(SameBlocks(straight.aggregates[step], refused.aggregates[step])) << step;
    EXPECT_TRUE(straight.state == refused.state);
  }
}

TEST(ServedExchange, BothBooksAgreeWithOneWorkerARank) {
  for (const char* text : kServed) {
    SCOPED_TRACE(text);
    const MemoryResult run = RunMemory(ServedRun(text, 4));
    WireCount all;
    for (const WireReport& report : run.reports) {
      EXPECT_EQ(report.BetweenRanks().sent_bytes, report.logical.uplink_bytes + report.logical.downlink_bytes);
      EXPECT_EQ(report.BetweenRanks().sent_messages, report.logical.messages);
      all += report.BetweenRanks();
    }
    EXPECT_EQ(all.sent_bytes, all.received_bytes);
  }
}

// One block of 4 parts, int8 in blocks of 64 both ways: every rank sends 3/4 of its codes up and its own part's mean to the 3 others.
TEST(ServedExchange, LedgerEqualsTheFormula) {
  constexpr int kRanks = 4;
  constexpr int64_t kPart = 8192, kPayload = kPart + 2 * kPart / 64, kFrame = 32;
  const auto one_block = [] {
    ParameterSet set;
    set.Add({.name = "x", .shape = {kRanks * kPart}});
    return set;
  };
  MemoryRun run = ServedRun(kServed[5], kRanks);
  run.parameters = one_block;
  for (const WireReport& report : RunMemory(run).reports) {
    EXPECT_EQ(report.logical, (LogicalWire{.uplink_bytes = 3 * (kFrame + kPayload),
                                           .downlink_bytes = 3 * (kFrame + kPayload),
                                           .header_bytes = 6 * kFrame,
                                           .messages = 6,
                                           .encoded_bytes = kRanks * kPayload,
                                           .dense_bytes = kRanks * kPart * 4}));
    EXPECT_EQ(report.BetweenRanks().sent_bytes, 6 * (kFrame + kPayload));
  }
  // The exact exchange sends 8 d (P - 1) / P bytes a rank.
  run.config = ParseExchange("exact {}");
  const int64_t exact = RunMemory(run).reports[0].BetweenRanks().sent_bytes;
  EXPECT_EQ(exact, 6 * kPart * 4);
  EXPECT_GT(exact, 3.8 * 6 * (kFrame + kPayload));
}

double DistanceOf(const Blocks<float>& a, const Blocks<float>& b) {
  double squares = 0;
  for (const auto& [id, v] : a) {
    for (size_t i = 0; i < v.size(); ++i) squares += std::pow(static_cast<double>(v[i]) - b.at(id)[i], 2);
  }
  return std::sqrt(squares);
}

double NormOf(const Blocks<float>& a) {
  Blocks<float> zero = a;
  for (auto& [id, v] : zero) std::fill(v.begin(), v.end(), 0.0f);
  return DistanceOf(a, zero);
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
    EXPECT_GT(DistanceOf(got.aggregates.front(), goal), 1e-3 * NormOf(goal));
    EXPECT_LT(DistanceOf(got.aggregates.back(), goal), 1e-5 * NormOf(goal));
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
  EXPECT_LT(DistanceOf(mean, goal), 1.2 * std::sqrt(1.0 / 8 / run.steps) * NormOf(goal));
  EXPECT_GT(DistanceOf(got.aggregates[0], goal), 0.1 * NormOf(goal));
}

TEST(ServedExchange, ANonFiniteVectorIsRefusedTogetherAndForgotten) {
  for (const char* text : kServed) {
    SCOPED_TRACE(text);
    if (ParseExchange(text).has_marina()) continue;
    const absl::Status status = RunRanks(2, [&](Communicator& world) -> absl::Status {
      ParameterSet set;
      set.Add({.name = "x", .shape = {9000}});
      const Layout layout = ReplicatedLayout(&set, world.rank(), 2);
      ASSIGN_OR_RETURN(const auto exchange,
                       MakeExchange(ParseExchange(text), {.layout = &layout, .workers = {.workers = 2, .ranks = 2}, .world = &world}));
      std::vector<float> v(9000, 1.0f), bad = v;
      if (world.rank() == 1) bad[7] = NAN;
      for (const bool broken : {false, true, false}) {
        exchange->Begin(0, 0);
        RETURN_IF_ERROR(exchange->Put({world.rank()}, {0}, TensorOf(broken ? bad : v)));
        ASSIGN_OR_RETURN(const Aggregate mean, exchange->Finish());
        bool poisoned = false;
        for (const float x : mean->block({0}).span<float>()) poisoned = poisoned || std::isnan(x);
        EXPECT_EQ(poisoned, broken);
        if (broken) {
          exchange->Discard();
        } else {
          exchange->Commit();
        }
      }
      return absl::OkStatus();
    });
    EXPECT_EQ(status, absl::OkStatus());
  }
}

TEST(ServedExchange, RefusesWaysBackThatMakeNoSense) {
  const ParameterSet set = LargeParameters();
  const Layout layout = ReplicatedLayout(&set, 0, 1);
  const std::pair<const char*, const char*> cases[] = {
      {"exact {} downlink { codec { natural {} } }", "exact exchange sends means as they are"},
      {"downlink { codec { natural {} } }", "exact exchange sends means as they are"},
      {"quantized { codec { natural {} } } downlink { codec { bf16 {} } }", "is biased"},
      {"ef21 { codec { bf16 {} } } downlink { codec { ternary {} } }", "is not contractive"},
      {"diana { codec { natural {} } } downlink { codec { top_k { fraction: 0.1 } } }", "is biased"},
      {"quantized { codec { natural {} } } downlink { codec { blockwise { exact_below: 4 otherwise { perm_k {} } } } }",
       "a mean has one sender"},
      {"quantized { codec { natural {} } } downlink { codec { rand_k { fraction: 0.1 common_mask: true } } }", "a mean has one sender"},
      {"quantized { codec { natural {} } } downlink {}", "none is chosen"}};
  for (const auto& [text, reason] : cases) {
    const absl::Status status = RunRanks(1, [&, text = text](Communicator& world) {
      return MakeExchange(ParseExchange(text), {.layout = &layout, .workers = {.workers = 4}, .world = &world, .data = &world}).status();
    });
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_NE(std::string(status.message()).find(reason), std::string::npos) << text << ": " << status.ToString();
  }
}

}  // namespace
}  // namespace conclave
