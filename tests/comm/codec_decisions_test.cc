// Whether codecs are kept where they pay and declined where they do not, and that codecs which do nothing are found out.
#include "comm/codec_decisions.h"

#include <cmath>

#include <gtest/gtest.h>

#include "tests/comm/memory_laws.h"

namespace conclave {
namespace {

TEST(CodingCost, BreakEvenIsBytesSavedASecondLost) {
  // int8: 1.33 times the link's rate of input, where encoding and decoding take as long as the saved bytes.
  const CodingCost cost{
      .exact_bytes = 4000, .coded_bytes = 1000, .encodes = 1, .decodes = 2, .encode_seconds = 1e-6, .decode_seconds = 1e-6};
  EXPECT_DOUBLE_EQ(cost.BreakEven(), 1e9);
  EXPECT_EQ((CodingCost{.exact_bytes = 10, .coded_bytes = 10, .encode_seconds = 1}).BreakEven(), 0);
  EXPECT_EQ((CodingCost{.exact_bytes = 10, .coded_bytes = 5}).BreakEven(), INFINITY);
}

double DeclinedBlocks(const SavedState& state) {
  double declined = 0;
  for (const auto& [name, value] : state.scalars) declined += name.find(".declined/") != std::string::npos ? value : 0;
  return declined;
}

MemoryRun RunWith(const std::string& rates) {
  return {.config = ParseExchange("ef21 { codec { block_int { bits: 8 block: 64 rounding: NEAREST } } } "
                                  "downlink { codec { block_int { bits: 8 block: 64 rounding: NEAREST } } } " +
                                  rates),
          .ranks = 4,
          .steps = 2,
          .parameters = LargeParameters};
}

TEST(CodecDecisions, AFastLinkDeclinesAndASlowOneDoesNot) {
  // 2 codings and a quarter, of 4 bytes a coordinate: the codec's 1e8 bytes/s give way at 8 (3/4) (1 - 1/3.88) / (1.625 * 4) of that.
  const MemoryResult slow = RunMemory(RunWith("when_it_pays { link_rate: 5e7 codec_rate: 1e8 }"));
  const MemoryResult fast = RunMemory(RunWith("when_it_pays { link_rate: 9e7 codec_rate: 1e8 }"));
  const MemoryResult always = RunMemory(RunWith(""));
  MemoryRun exact = RunWith("");
  exact.config = ParseExchange("exact {}");
  const MemoryResult never = RunMemory(exact);
  const ParameterSet set = LargeParameters();
  EXPECT_EQ(DeclinedBlocks(fast.state), set.size());
  for (int step = 0; step < 2; ++step) {
    EXPECT_TRUE(SameBlocks(fast.aggregates[step], never.aggregates[step])) << "declined, a codec leaves no trace";
  }
  // Blocks of few coordinates, whose frames cost more than they save, are declined on the slow link too; the large ones are coded.
  EXPECT_GT(DeclinedBlocks(slow.state), 0);
  EXPECT_LT(DeclinedBlocks(slow.state), set.size());
  for (const char* large : {"b", "c", "e3.w"}) {
    EXPECT_EQ(slow.state.scalars.at(absl::StrFormat("exchange.declined/%s", large)), 0) << large;
    const int id = set.Find(large).value;
    EXPECT_TRUE(SameBits(slow.aggregates[1].at(id), always.aggregates[1].at(id))) << large;
  }
  EXPECT_EQ(slow.state.scalars.at("exchange.declined/e0.b"), 1);
  EXPECT_LT(slow.reports[0].BetweenRanks().sent_bytes, fast.reports[0].BetweenRanks().sent_bytes / 3);
}

// Measured and probed on whatever machine this is, all ranks decide alike, or they would wait for each other in vain; a link far slower
// than any codec is worth it, one far faster is not.
TEST(CodecDecisions, MeasuredRatesDecideTheExtremes) {
  EXPECT_EQ(DeclinedBlocks(RunMemory(RunWith("when_it_pays { link_rate: 1e15 }")).state), LargeParameters().size());
  EXPECT_EQ(RunMemory(RunWith("when_it_pays { link_rate: 1e3 }")).state.scalars.at("exchange.declined/c"), 0);
  const MemoryResult probed = RunMemory(RunWith("when_it_pays {}"));
  EXPECT_EQ(probed.state.scalars.at("exchange.decided"), 1);
}

// Tasks of one and nine workers on four ranks: rank 0 leads no group, makes no codec and knows no cost. It decides all the same.
TEST(CodecDecisions, CostsAreKnownWhereRankZeroLeadsNothing) {
  MemoryRun run{
      .config = ParseExchange("hierarchical { workers_per_group: 2 exchange { ef21 { codec { block_int { bits: 8 block: 64 rounding: "
                              "NEAREST } } } } } when_it_pays { link_rate: 1e15 codec_rate: 1 }"),
      .workers = 10,
      .ranks = 4,
      .steps = 2,
      .parameters = LargeParameters,
      .firsts = {0, 1, 4, 7, 10}};
  const MemoryResult fast = RunMemory(run);
  EXPECT_EQ(DeclinedBlocks(fast.state), LargeParameters().size());
  run.config.mutable_when_it_pays()->set_link_rate(1e-3);
  EXPECT_EQ(RunMemory(run).state.scalars.at("exchange.declined/c"), 0);
}

// Probes and costs that ranks tell each other are no part of the step in which they travel.
TEST(CodecDecisions, DecidingLeavesNoTraceInTheLedger) {
  MemoryRun run = RunWith("when_it_pays { codec_rate: 1 }");  // the link is probed, and faster than that
  run.steps = 1;
  const MemoryResult first = RunMemory(run);
  run.steps = 2;
  const MemoryResult second = RunMemory(run);
  for (int rank = 0; rank < run.ranks; ++rank) {
    EXPECT_EQ(first.reports[rank].BetweenRanks(), second.reports[rank].BetweenRanks()) << rank;
    EXPECT_EQ(first.reports[rank].lines.size(), second.reports[rank].lines.size()) << rank;
  }
}

// Codecs are measured when it comes to deciding, and not where the state has decided.
TEST(CodecDecisions, NothingIsMeasuredThatWasDecided) {
  for (const bool loaded : {false, true}) {
    EXPECT_EQ(
        RunRanks(1,
                 [&](Communicator& world) -> absl::Status {
                   ParameterSet set;
                   set.Add({.name = "x", .shape = {6400}});
                   const Layout layout = ReplicatedLayout(&set, 0, 1);
                   CodecDecisions decisions(WhenItPaysConfig(), set.size());
                   const ExchangeContext context{.layout = &layout, .workers = {.workers = 4}, .world = &world, .decisions = &decisions};
                   const ExchangeConfig config = ParseExchange("quantized { codec { natural {} } }");
                   ASSIGN_OR_RETURN(const BlockCodecs codecs,
                                    BlockCodecs::Make(config, config.quantized().codec(), CodecNeed::kUnbiased, context, "quantized"));
                   EXPECT_EQ(decisions.cost({0}).exact_bytes, 0);
                   StateDict dict;
                   decisions.Register(dict, "exchange", set);
                   for (const StateScalar& scalar : dict.scalars()) {
                     if (loaded && scalar.name == "exchange.decided") scalar.set(1);
                   }
                   RETURN_IF_ERROR(decisions.Decide(context));
                   EXPECT_EQ(decisions.cost({0}).exact_bytes > 0, !loaded);
                   EXPECT_EQ(decisions.cost({0}).encode_seconds > 0, !loaded);
                   return absl::OkStatus();
                 }),
        absl::OkStatus());
  }
}

// The state's decision stays, whatever would be decided now.
TEST(CodecDecisions, ALoadedDecisionStays) {
  const MemoryRun before = RunWith("when_it_pays { link_rate: 1e15 codec_rate: 1e8 }");
  MemoryRun straight = before, after = RunWith("when_it_pays { link_rate: 1 codec_rate: 1e8 }");
  straight.steps = 4;
  const MemoryResult saved = RunMemory(before), all = RunMemory(straight);
  after.first = 2;
  after.start = &saved.state;
  const MemoryResult resumed = RunMemory(after);
  EXPECT_EQ(DeclinedBlocks(resumed.state), LargeParameters().size());
  EXPECT_TRUE(SameBlocks(resumed.aggregates[1], all.aggregates[3]));
}

// What a decided exchange needs it has when it is made: a forecast of memory counts it.
TEST(CodecDecisions, TakesItsMemoryWhenItIsMade) {
  for (const char* rate : {"1", "1e15"}) {
    const absl::Status status = RunRanks(2, [&](Communicator& world) -> absl::Status {
      ParameterSet set;
      set.Add({.name = "x", .shape = {5000}});
      const Layout layout = ReplicatedLayout(&set, world.rank(), 2);
      const int64_t before = Buffer::OfThisThread();
      ASSIGN_OR_RETURN(const auto exchange,
                       MakeExchange(ParseExchange(absl::StrFormat(
                                        "quantized { codec { natural {} } } when_it_pays { link_rate: %s codec_rate: 1e8 }", rate)),
                                    {.layout = &layout, .workers = {.workers = 2, .ranks = 2}, .world = &world}));
      const int64_t made = Buffer::OfThisThread();
      EXPECT_GT(made - before, 2 * 5000 * 4) << "an aggregate and a bucket";
      std::vector<float> v = TestVector<float>(world.rank(), 5000, 1);
      exchange->Begin(0, 0);
      RETURN_IF_ERROR(exchange->Put({world.rank()}, {0}, TensorOf(v)));
      RETURN_IF_ERROR(exchange->Finish().status());
      exchange->Commit();
      EXPECT_EQ(Buffer::OfThisThread(), made) << rate;
      return absl::OkStatus();
    });
    EXPECT_EQ(status, absl::OkStatus());
  }
}

absl::Status TenExchanges(const char* text) {
  return RunRanks(2, [&](Communicator& world) -> absl::Status {
    ParameterSet set;
    set.Add({.name = "x", .shape = {64}});
    const Layout layout = ReplicatedLayout(&set, world.rank(), 2);
    ASSIGN_OR_RETURN(const auto exchange,
                     MakeExchange(ParseExchange(text), {.layout = &layout, .workers = {.workers = 2, .ranks = 2}, .world = &world}));
    for (uint32_t step = 0; step < 12; ++step) {
      std::vector<float> v = TestVector<float>(world.rank(), 64, step);
      exchange->Begin(step, 0);
      RETURN_IF_ERROR(exchange->Put({world.rank()}, {0}, TensorOf(v)));
      const absl::Status status = exchange->Finish().status();
      if (!status.ok()) return step == 9 ? status : Internal("refused in exchange %d", step);
      exchange->Commit();
    }
    return absl::OkStatus();
  });
}

TEST(ConfiguredButDidNothing, IsAnErrorAfterTenExchanges) {
  for (const char* text :
       {"quantized { codec { rand_k { fraction: 1 } } }", "ef21 { codec { top_k { fraction: 1 } } }",
        "quantized { codec { natural {} } } downlink { codec { rand_k { fraction: 1 } } }",
        "quantized { codec { blockwise { rules { pattern: 'y*' codec { natural {} } } otherwise { rand_k { fraction: 1 } } } } }"}) {
    const absl::Status status = TenExchanges(text);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text << ": " << status;
    EXPECT_NE(std::string(status.message()).find("configured but did nothing"), std::string::npos) << text;
  }
  for (const char* text :
       {"exact {}", "quantized { codec { identity {} } }", "quantized { codec { natural {} } } downlink { codec { identity {} } }",
        "quantized { codec { natural {} } } when_it_pays { link_rate: 1e15 codec_rate: 1 }"}) {
    EXPECT_EQ(TenExchanges(text), absl::OkStatus()) << text;
  }
}

// What one rank's experts are is not all that codecs did: it is judged by the bytes of all ranks together.
TEST(ConfiguredButDidNothing, IsJudgedByAllRanksTogether) {
  const std::string useless = "top_k { fraction: 0.97 }";  // 39 of 40 numbers and their places; for the experts of rank 0
  std::string rules;
  for (int e = 0; e < kTestExperts / 2; ++e) rules += absl::StrFormat("rules { pattern: 'e%d.w' codec { %s } } ", e, useless);
  rules += "rules { pattern: 'e*.w' codec { scaled_sign {} } } otherwise { identity {} }";
  const MemoryRun run{
      .config = ParseExchange(absl::StrFormat("ef21 { codec { blockwise { %s } } }", rules)), .ranks = 2, .expert_axis = 2, .steps = 12};
  EXPECT_EQ(RunMemory(run).aggregates.size(), 12u);  // which expects success of both ranks
}

}  // namespace
}  // namespace conclave
