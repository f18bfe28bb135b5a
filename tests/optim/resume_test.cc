// Every scheme over every exchange that it takes: stopped at any step and continued on another number of ranks, a run ends with the
// bits of one that was never stopped.
#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/optim/test_operators.h"

namespace conclave {
namespace {

constexpr int kResumeSteps = 7;

// By kind of exchange; blocks of 6 coordinates, 4 workers.
struct ExchangeForms {
  std::string kind;
  std::vector<std::string> forms;
};
std::vector<ExchangeForms> ResumeExchanges() {
  return {
      {"exact", {"exact {}"}},
      {"quantized",
       {"quantized { codec { perm_k { values { natural {} } } } }", "quantized { codec { rand_k { fraction: 0.5 } } }",
        "quantized { codec { block_int { bits: 4 block: 4 } } } downlink { codec { natural {} } }"}},
      {"ef14", {"ef14 { codec { top_k { fraction: 0.3 } } }", "ef14 { codec { scaled_sign {} } } downlink { codec { scaled_sign {} } }"}},
      {"ef21",
       {"ef21 { codec { top_k { fraction: 0.3 } } }",
        "ef21 { codec { bf16 {} } } downlink { codec { block_int { bits: 4 block: 4 rounding: NEAREST } } }",
        "ef21 { codec { bf16 {} } } when_it_pays { link_rate: 1e6 codec_rate: 1e6 }"}},
      {"ef21_sgdm",
       {"ef21_sgdm { eta: 0.3 codec { fp8 {} } }",
        "ef21_sgdm { eta: 0.3 codec { bf16 {} } } downlink { codec { top_k { fraction: 0.5 } } }"}},
      {"diana", {"diana { codec { ternary {} } }", "diana { codec { natural {} } } downlink { codec { block_int { bits: 8 block: 4 } } }"}},
      {"marina",
       {"marina { p: 0.3 codec { natural {} } }", "marina { p: 0.3 codec { qsgd { levels: 4 } } } downlink { codec { natural {} } }"}},
      {"power_sgd", {"power_sgd { width: 1 }"}},
      {"one_bit", {"one_bit { warmup_steps: 3 beta1: 0.9 }", "one_bit { warmup_steps: 3 beta1: 0.9 } downlink { codec { bf16 {} } }"}},
      {"majority_vote", {"majority_vote {}"}},
      {"hierarchical", {"hierarchical { workers_per_group: 2 exchange { ef21 { codec { top_k { fraction: 0.3 } } } } }"}},
      {"ok_topk", {"ok_topk { fraction: 0.4 estimate_every: 3 }"}}};
}

// How a scheme is written around an exchange (%s), and which kinds it takes; none: all but one_bit.
struct SchemeForm {
  std::string name, config;
  std::vector<std::string> kinds;
};
std::vector<SchemeForm> SchemeForms() {
  return {{"first_order", "first_order { lr: 0.05 exchange { %s } rule { adamw { weight_decay: 0 } } }", {}},
          {"first_order", "first_order { lr: 0.05 exchange { %s } rule { adamw { weight_decay: 0 freeze_after: 3 } } }", {"one_bit"}},
          {"extragradient", "extragradient { gamma: 0.2 exchange { %s } }", {}},
          {"gda", "gda { gamma: 0.1 exchange { %s } }", {}},
          {"ogda", "ogda { gamma: 0.2 exchange { %s } }", {}},
          {"past_extragradient", "past_extragradient { gamma: 0.2 exchange { %s } }", {}},
          {"fbf", "fbf { gamma: 0.2 exchange { %s } }", {}},
          {"reflected_gradient", "reflected_gradient { gamma: 0.2 exchange { %s } }", {}},
          {"anchored", "anchored { gamma: 0.1 exchange { %s } }", {}},
          {"diloco", "diloco { lr: 0.05 local_steps: 3 rule { adamw {} } exchange { %s } }", {}},
          {"local_extragradient", "local_extragradient { gamma: 0.2 local_steps: 2 exchange { %s } }", {}},
          {"proxskip", "proxskip { gamma: 0.1 p: 0.4 }", {"exact"}},
          {"masha1", "masha1 { gamma: 0.2 p: 0.4 exchange { %s } }", {"exact", "quantized"}},
          {"masha1", "masha1 { gamma: 0.2 p: 0.4 participants: 2 variance_reduced: true exchange { %s } }", {"exact", "quantized"}},
          {"masha2", "masha2 { gamma: 0.2 p: 0.4 exchange { %s } }", {"exact", "ef14"}},
          {"optimistic_masha", "optimistic_masha { gamma: 0.2 p: 0.4 exchange { %s } }", {"exact", "quantized"}}};
}

std::vector<std::string> ResumePairs() {
  std::vector<std::string> pairs;
  for (const SchemeForm& scheme : SchemeForms()) {
    for (const ExchangeForms& exchange : ResumeExchanges()) {
      const bool taken =
          scheme.kinds.empty() ? exchange.kind != "one_bit" : std::ranges::find(scheme.kinds, exchange.kind) != scheme.kinds.end();
      if (!taken) continue;
      for (const std::string& form : exchange.forms) {
        std::string config = scheme.config;
        const size_t at = config.find("%s");
        if (at != std::string::npos) config.replace(at, 2, form);
        pairs.push_back(std::move(config));
      }
    }
  }
  return pairs;
}

Play ResumePlay(const std::string& config) {
  Play play{.config = ParseConfig<OptimConfig>(config + " guard { spike_zscore: 50 window: 3 } schedule { cosine {} warmup_steps: 2 }")};
  play.game.noise = 0.1;
  play.game.coupling = 0;
  play.ranks = 2;
  play.steps = kResumeSteps;
  return play;
}

void ExpectResumes(const Play& play, const Outcome& straight, int stop) {
  SCOPED_TRACE(absl::StrFormat("stopped after step %d", stop));
  Play before = play;
  before.steps = stop;
  before.ranks = 3;
  const auto saved = PlayGame(before);
  ASSERT_TRUE(saved.ok()) << saved.status();
  Play after = play;
  after.first = stop;
  after.steps = kResumeSteps - stop;
  after.ranks = 1;
  after.resume = &saved->state;
  const auto resumed = PlayGame(after);
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  EXPECT_EQ(FirstDifference(straight.state, resumed->state), "");
}

TEST(ResumeTest, EverySchemeAndExchangeIsThere) {
  const auto missing = [](const google::protobuf::OneofDescriptor* oneof, const std::function<bool(const std::string&)>& has) {
    for (int i = 0; i < oneof->field_count(); ++i) EXPECT_TRUE(has(oneof->field(i)->name())) << oneof->field(i)->name() << " has no case";
  };
  const auto schemes = SchemeForms();
  const auto exchanges = ResumeExchanges();
  missing(OptimConfig::descriptor()->FindOneofByName("scheme"),
          [&](const std::string& name) { return std::ranges::any_of(schemes, [&](const auto& form) { return form.name == name; }); });
  missing(ExchangeConfig::descriptor()->FindOneofByName("kind"),
          [&](const std::string& name) { return std::ranges::any_of(exchanges, [&](const auto& form) { return form.kind == name; }); });
}

TEST(ResumeTest, EveryPairAtEveryStep) {
  for (const std::string& config : ResumePairs()) {
    SCOPED_TRACE(config);
    const Play play = ResumePlay(config);
    const auto straight = PlayGame(play);
    ASSERT_TRUE(straight.ok()) << straight.status();
    for (int stop = 1; stop < kResumeSteps; ++stop) ExpectResumes(play, *straight, stop);
  }
}

}  // namespace
}  // namespace conclave
