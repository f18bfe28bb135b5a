// Every exchange of the config's oneof keeps the laws that hold for all, each in several forms: with codecs of every kind, with and without
// servers and codecs on the way back. A new member without a case here fails.
#include <cmath>

#include <gtest/gtest.h>

#include "tests/comm/memory_laws.h"

namespace conclave {
namespace {

using FormsByKind = std::map<std::string, std::vector<std::string>>;

// By member of the oneof, with lossy codecs of the right contract.
FormsByKind LossyForms() {
  return {
      {"exact", {"exact {}"}},
      {"quantized",
       {"quantized { codec { natural {} } }",
        "quantized { codec { blockwise { exact_below: 4 otherwise { perm_k { values { natural {} } } } } } }",
        "quantized { codec { qsgd { levels: 8 } } }", "quantized { codec { rand_k { fraction: 0.05 common_mask: true } } }"}},
      {"ef14", {"ef14 { codec { scaled_sign {} } }", "ef14 { codec { top_k { fraction: 0.1 } } }"}},
      {"ef21",
       {"ef21 { codec { top_k { fraction: 0.05 values { block_int { bits: 8 block: 32 } } } } }",
        "ef21 { codec { blockwise { rules { pattern: 'e*' codec { identity {} } } otherwise { block_int { bits: 4 block: 16 rounding: "
        "NEAREST } } } } }",
        "ef21 { codec { fp8 {} } }",
        "ef21 { codec { blockwise { rules { pattern: 'd' codec { low_rank { width: 2 iterations: 2 } } } rules { pattern: 'e*.w' codec { "
        "low_rank { width: 3 iterations: 1 } } } otherwise { bf16 {} } } } }"}},
      {"ef21_sgdm",
       {"ef21_sgdm { eta: 0.3 codec { top_k { fraction: 0.2 } } }",
        "ef21_sgdm { eta: 0.3 codec { blockwise { exact_below: 6 otherwise { bf16 {} } } } }"}},
      {"diana",
       {"diana { codec { rand_k { fraction: 0.2 } } }",
        "diana { alpha: 0.1 codec { blockwise { exact_below: 4 otherwise { perm_k {} } } } }", "diana { codec { ternary {} } }"}},
      {"power_sgd", {"power_sgd { width: 2 }"}},
      {"majority_vote", {"majority_vote {}", "majority_vote { exact_below: 6 }"}},
      {"hierarchical",
       {"hierarchical { workers_per_group: 2 exchange { ef21 { codec { top_k { fraction: 0.1 } } } } }",
        "hierarchical { workers_per_group: 4 exchange { diana { codec { natural {} } } } }",
        "hierarchical { workers_per_group: 1 exchange { ef14 { codec { scaled_sign {} } } } }",
        "hierarchical { workers_per_group: 2 exchange { marina { p: 0.3 codec { natural {} } } downlink { codec { natural {} } } } }"}},
      {"one_bit",
       {"one_bit { warmup_steps: 2 beta1: 0.9 }",
        "one_bit { warmup_steps: 1 beta1: 0.5 codec { top_k { fraction: 0.1 } } } downlink { codec { bf16 {} } }"}},
      {"ok_topk",
       {"ok_topk { fraction: 0.1 estimate_every: 2 }", "ok_topk { fraction: 0.3 estimate_every: 3 exact_below: 20 }",
        "ok_topk { fraction: 0.02 estimate_every: 1 }"}},
      {"marina", {"marina { p: 0.3 codec { natural {} } }", "marina { p: 0.3 codec { random_block { fraction: 0.1 } } }"}},
  };
}

// With servers; run on blocks of several parts.
const char* const kServedForms[] = {
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
    "ef21 { codec { blockwise { rules { pattern: 'b' codec { low_rank { width: 3 iterations: 1 } } } otherwise { bf16 {} } } } } downlink "
    "{ "
    "codec { blockwise { rules { pattern: 'b' codec { low_rank { width: 2 iterations: 2 } } } otherwise { bf16 {} } } } servers: "
    "FIRST_WORKER }",
    "diana { codec { natural {} } } downlink { codec { rand_k { fraction: 0.5 } } }",
    "marina { p: 0.3 codec { ternary {} } } downlink { codec { natural {} } }",
};

// By member of the oneof, with an identity codec, where the aggregate must be the exact mean.
std::map<std::string, std::string> LosslessForms() {
  return {{"exact", "exact {}"},
          {"quantized", "quantized { codec { identity {} } }"},
          {"ef14", "ef14 { codec { identity {} } }"},
          {"ef21", "ef21 { codec { identity {} } }"},
          {"ef21_sgdm", "ef21_sgdm { eta: 1 codec { identity {} } }"},
          {"diana", "diana { codec { identity {} } }"},
          {"power_sgd", "power_sgd { width: 40 }"},  // too wide to gain anywhere
          {"one_bit", "one_bit { warmup_steps: 3 beta1: 0.9 }"},
          {"majority_vote", "majority_vote { exact_below: 1000000 }"},
          {"hierarchical", "hierarchical { workers_per_group: 2 exchange { ef21 { codec { identity {} } } } }"},
          {"ok_topk", "ok_topk { fraction: 1 estimate_every: 1 }"},
          {"marina", "marina { p: 0.5 codec { identity {} } }"}};
}

// With codecs that are declined where they do not pay: for some sizes of block, and for all.
const char* const kDecidingForms[] = {
    "quantized { codec { natural {} } } when_it_pays { link_rate: 1e9 codec_rate: 1e8 }",
    "ef21 { codec { top_k { fraction: 0.05 } } } when_it_pays { link_rate: 1e6 codec_rate: 1e7 }",
    "diana { codec { natural {} } } downlink { codec { natural {} } } when_it_pays { link_rate: 1e6 codec_rate: 5e6 }",
    "hierarchical { workers_per_group: 2 exchange { ef14 { codec { scaled_sign {} } } } } when_it_pays { link_rate: 1e6 codec_rate: 2.2e6 "
    "}",
};

// Calls f(run) for every form of every member, on one rank.
template <typename F>
void ForEachForm(F&& f) {
  const google::protobuf::OneofDescriptor* kinds = ExchangeConfig::descriptor()->FindOneofByName("kind");
  const FormsByKind forms = LossyForms();
  for (int i = 0; i < kinds->field_count(); ++i) {
    const auto it = forms.find(kinds->field(i)->name());
    ASSERT_NE(it, forms.end()) << "exchange '" << kinds->field(i)->name() << "' has no case";
    for (const std::string& text : it->second) {
      SCOPED_TRACE(text);
      const ExchangeConfig config = ParseExchange(text);
      ASSERT_TRUE(config.GetReflection()->HasField(config, kinds->field(i)));
      f(MemoryRun{.config = config});
    }
  }
  for (const char* text : kDecidingForms) {
    SCOPED_TRACE(text);
    f(MemoryRun{.config = ParseExchange(text)});
  }
  for (const char* text : kServedForms) {
    SCOPED_TRACE(text);
    f(MemoryRun{.config = ParseExchange(text), .steps = 2, .parameters = LargeParameters});
  }
}

bool Large(const MemoryRun& run) { return run.steps == 2; }

TEST(ExchangeConformance, IdentityCodecIsTheExactExchange) {
  const google::protobuf::OneofDescriptor* kinds = ExchangeConfig::descriptor()->FindOneofByName("kind");
  const auto forms = LosslessForms();
  for (int i = 0; i < kinds->field_count(); ++i) {
    ASSERT_TRUE(forms.contains(kinds->field(i)->name())) << kinds->field(i)->name() << " has no case";
    const std::string& text = forms.at(kinds->field(i)->name());
    SCOPED_TRACE(text);
    for (const auto& [ranks, axis] : {std::pair{1, 1}, {3, 1}, {4, 2}}) {
      const MemoryRun run{.config = ParseExchange(text), .ranks = ranks, .expert_axis = axis, .steps = 3};
      MemoryRun exact = run;
      exact.config = ParseExchange("exact {}");
      const MemoryResult got = RunMemory(run), expected = RunMemory(exact);
      for (int step = 0; step < run.steps; ++step) EXPECT_TRUE(SameBlocks(got.aggregates[step], expected.aggregates[step])) << step;
    }
  }
}

// The same with servers, on blocks of several parts.
TEST(ExchangeConformance, IdentityCodecsBothWaysAreTheExactExchange) {
  for (const char* kind : {"quantized", "ef14", "ef21", "diana"}) {
    SCOPED_TRACE(kind);
    const std::string text = absl::StrFormat("%s { codec { identity {} } } downlink { codec { identity {} } }", kind);
    for (const int ranks : {1, 3}) {
      const MemoryRun run{.config = ParseExchange(text), .ranks = ranks, .steps = 2, .parameters = LargeParameters};
      MemoryRun exact = run;
      exact.config = ParseExchange("exact {}");
      const MemoryResult got = RunMemory(run), expected = RunMemory(exact);
      for (int step = 0; step < run.steps; ++step) EXPECT_TRUE(SameBlocks(got.aggregates[step], expected.aggregates[step])) << step;
    }
  }
}

// Ranks need not have equally many workers.
TEST(ExchangeConformance, WorkersMayBeDealtOutUnevenly) {
  ForEachForm([](MemoryRun run) {
    if (Large(run) || run.config.DebugString().find("perm_k") != std::string::npos)
      return;  // some blocks have fewer coordinates than workers
    run.workers = 8;
    const MemoryResult one = RunMemory(run);
    run.ranks = 4;
    for (const std::vector<int>& firsts : {std::vector<int>{0, 3, 6, 7, 8}, {0, 1, 2, 7, 8}}) {
      run.firsts = firsts;
      const MemoryResult other = RunMemory(run);
      for (size_t step = 0; step < one.aggregates.size(); ++step) {
        EXPECT_TRUE(SameBlocks(one.aggregates[step], other.aggregates[step])) << firsts[1] << ", step " << step;
      }
      EXPECT_TRUE(one.state == other.state) << firsts[1];
    }
  });
}

TEST(ExchangeConformance, TheSameBitsAndStateOnAnyMesh) {
  ForEachForm([](MemoryRun run) {
    run.skip = [](int worker, BlockId block) { return worker == 1 && block.value % 2 == 0; };
    const MemoryResult one = RunMemory(run);
    for (const auto& [ranks, axis] : {std::pair{2, 1}, {2, 2}, {3, 1}, {4, 2}, {4, 1}}) {
      if (Large(run) && ((ranks == 2 && axis == 1) || (ranks == 4 && axis == 2))) continue;  // the large ones are slow
      run.ranks = ranks, run.expert_axis = axis;
      const MemoryResult other = RunMemory(run);
      for (size_t step = 0; step < one.aggregates.size(); ++step) {
        EXPECT_TRUE(SameBlocks(one.aggregates[step], other.aggregates[step])) << ranks << " ranks, axis " << axis << ", step " << step;
      }
      EXPECT_TRUE(one.state == other.state) << ranks << " ranks, axis " << axis;
    }
  });
}

TEST(ExchangeConformance, SaveLoadContinueEqualsNotStopping) {
  ForEachForm([](const MemoryRun& run) {
    const int half = Large(run) ? 2 : 3;
    MemoryRun all = run, before = run, after = run;
    all.ranks = 2, all.steps = 2 * half;
    before.ranks = 4, before.expert_axis = 2, before.steps = half;
    after.ranks = 3, after.first = after.steps = half;
    const MemoryResult straight = RunMemory(all), saved = RunMemory(before);
    after.start = &saved.state;
    const MemoryResult resumed = RunMemory(after);
    for (int step = 0; step < half; ++step) {
      EXPECT_TRUE(SameBlocks(straight.aggregates[half + step], resumed.aggregates[step])) << step;
    }
    EXPECT_TRUE(straight.state == resumed.state);
  });
}

TEST(ExchangeConformance, ADiscardedStepLeavesNoTrace) {
  ForEachForm([](MemoryRun run) {
    run.ranks = 2;
    const MemoryResult straight = RunMemory(run);
    run.refused = [](int step) { return step % 2 == 0; };
    const MemoryResult refused = RunMemory(run);
    for (int step = 0; step < run.steps; ++step) EXPECT_TRUE(SameBlocks(straight.aggregates[step], refused.aggregates[step])) << step;
    EXPECT_TRUE(straight.state == refused.state);
  });
}

TEST(ExchangeConformance, BothBooksAgreeWithOneWorkerARank) {
  ForEachForm([](MemoryRun run) {
    run.ranks = 4;
    WireCount all;
    for (const WireReport& report : RunMemory(run).reports) {
      EXPECT_EQ(report.BetweenRanks().sent_bytes, report.logical.uplink_bytes + report.logical.downlink_bytes);
      EXPECT_EQ(report.BetweenRanks().sent_messages, report.logical.messages);
      all += report.BetweenRanks();
    }
    EXPECT_EQ(all.sent_bytes, all.received_bytes);
  });
}

TEST(ExchangeConformance, ANonFiniteVectorIsRefusedTogetherAndForgotten) {
  ForEachForm([](const MemoryRun& run) {
    const absl::Status status = RunRanks(2, [&](Communicator& world) -> absl::Status {
      ParameterSet set;
      set.Add({.name = "x", .shape = {90, 100}});
      const Layout layout = ReplicatedLayout(&set, world.rank(), 2);
      ASSIGN_OR_RETURN(
          const auto exchange,
          MakeExchange(run.config,
                       {.layout = &layout, .workers = {.workers = 4, .ranks = 2}, .world = &world, .world_size_invariant = true}));
      std::vector<float> v(9000, 1.0f), bad = v;
      bad[7] = NAN;
      for (const bool broken : {false, true, false}) {
        exchange->Begin(0, 0);
        for (int m = 2 * world.rank(); m < 2 * world.rank() + 2; ++m) {
          RETURN_IF_ERROR(exchange->Put({m}, {0}, TensorOf(broken && m == 2 ? bad : v)));
        }
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
  });
}

TEST(ExchangeConformance, RefusesWhatMakesNoSense) {
  const ParameterSet set = TestParameters();
  const Layout layout = ReplicatedLayout(&set, 0, 1);
  const std::pair<const char*, const char*> cases[] = {
      {"quantized { codec { top_k { fraction: 0.1 } } }", "is biased"},
      {"quantized { codec { bf16 {} } }", "is biased"},
      {"diana { codec { scaled_sign {} } }", "is biased"},
      {"marina { p: 0.1 codec { block_int { bits: 8 block: 8 rounding: NEAREST } } }", "is biased"},
      {"ef14 { codec { rand_k { fraction: 0.1 } } }", "is not contractive"},
      {"ef21 { codec { ternary {} } }", "is not contractive"},
      {"ef21_sgdm { eta: 0.1 codec { blockwise { exact_below: 4 otherwise { perm_k {} } } } }", "is not contractive"},
      {"quantized { codec { perm_k {} } }", "fewer coordinates than there are workers (4)"},
      {"diana { alpha: 0.9 codec { rand_k { fraction: 0.1 } } }", "alpha must be in [0, 1 / q]"},
      {"power_sgd { width: 0 }", "width must be at least 1"},
      {"power_sgd { width: 1 } downlink { codec { bf16 {} } }", "power_sgd sums factors exactly"},
      {"one_bit { warmup_steps: 0 beta1: 0.9 }", "warmup_steps must be at least 1"},
      {"one_bit { warmup_steps: 5 beta1: 1 }", "beta1 must be in [0, 1)"},
      {"one_bit { warmup_steps: 5 codec { natural {} } } downlink { codec { ternary {} } }", "is not contractive"},
      {"marina { p: 0 codec { natural {} } }", "p must be in (0, 1]"},
      {"ef21_sgdm { eta: 0 codec { bf16 {} } }", "eta must be in (0, 1]"},
      {"quantized { codec { rand_k { fraction: 0.5 values { bf16 {} } } } }", "rand_k.values: needs an unbiased codec"},
      {"quantized { codec { rand_k { fraction: 0.5 values { rand_k { fraction: 0.5 } } } } }", "keeps every coordinate"},
      {"ef21 { codec { top_k { fraction: 0.5 values { ternary {} } } } }", "is not contractive for"},
      {"quantized { codec { blockwise {} } }", "none is chosen"},
      {"quantized { codec { qsgd { levels: 0 } } }", "levels must be in"},
      {"ef21 { codec { low_rank { width: 2 iterations: 1 } } }", "needs a matrix"},
      {"ef21 { codec { low_rank { width: 0 iterations: 1 } } }", "width must be at least 1"},
      {"quantized { codec { block_int { bits: 5 block: 4 } } }", "bits must be 8 or 4"},
      {"hierarchical { workers_per_group: 3 exchange {} }", "must divide the number of workers, 4, got 3"},
      {"hierarchical { workers_per_group: 2 exchange { quantized { codec { bf16 {} } } } }", "is biased"},
      {"hierarchical { workers_per_group: 2 } downlink { codec { natural {} } }", "belongs into hierarchical.exchange"},
      {"ok_topk { fraction: 0 estimate_every: 1 }", "fraction must be in (0, 1]"},
      {"ok_topk { fraction: 0.1 estimate_every: 0 }", "estimate_every must be at least 1"},
      {"ok_topk { fraction: 0.1 estimate_every: 1 } downlink { codec { natural {} } }", "few enough already"},
      {"exact {} when_it_pays { link_rate: 1 codec_rate: 1 }", "have no codec that could be declined"},
      {"hierarchical { workers_per_group: 2 exchange { ef21 { codec { fp8 {} } } when_it_pays {} } } when_it_pays {}",
       "outermost exchange"},
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
