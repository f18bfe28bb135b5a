// The measuring behind `conclave bench`: statistics by value, and what the ledger must say of a bench.
#include <gtest/gtest.h>

#include "bench/benches.h"
#include "comm/loopback.h"
#include "tests/trainer/config_fixture.h"
#include "trainer/json.h"

namespace conclave {
namespace {

TEST(Measure, QuartilesInterpolate) {
  const Timing odd = TimingOf({5, 1, 4, 2, 3});
  EXPECT_EQ(odd.median, 3);
  EXPECT_EQ(odd.low, 2);
  EXPECT_EQ(odd.high, 4);
  EXPECT_EQ(odd.samples, 5);
  const Timing even = TimingOf({4, 1, 3, 2});
  EXPECT_EQ(even.median, 2.5);
  EXPECT_EQ(even.low, 1.75);
  EXPECT_EQ(even.high, 3.25);
  EXPECT_EQ(TimingOf({7}).median, 7);
}

TEST(Measure, SamplesAreRepeatedCalls) {
  int calls = 0;
  const Timing t = Measure([&] { ++calls; }, {.samples = 3, .sample_seconds = 0});
  EXPECT_EQ(calls, 2 + 3);  // warm-up, trial, one call a sample
  EXPECT_EQ(t.samples, 3);
}

TEST(Measure, JsonHoldsTheRate) {
  const BenchReport report{
      .bench = "x",
      .ranks = 2,
      .results = {{.name = "a \"b\"", .unit = "GB/s", .work = 6, .seconds = TimingOf({2, 3, 4}), .facts = {{"n", 5}}}}};
  const absl::StatusOr<JsonValue> json = ParseJson(RenderJson(report));
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ(*json->Find("ranks")->AsInt64(), 2);
  const JsonValue& result = json->Find("results")->items.at(0);
  EXPECT_EQ(result.Find("name")->text, "a \"b\"");
  EXPECT_EQ(*result.Find("rate")->AsDouble(), 2);
  EXPECT_EQ(*result.Find("seconds_high")->AsDouble(), 3.5);
  EXPECT_EQ(*result.Find("n")->AsDouble(), 5);
}

// A rank sends the other ranks' chunks of its vector and the sum of its own chunk to everyone: at least 2 (P - 1) / P of the vector each,
// and with one rank nothing.
TEST(Collectives, TheLedgerCountsWhatTheExchangeMoves) {
  for (const int ranks : {1, 2}) {
    const absl::Status status = RunRanks(ranks, [&](Communicator& world) -> absl::Status {
      ASSIGN_OR_RETURN(const BenchReport report, BenchCollectives(world, {.largest_bytes = 65536, .samples = 2}));
      EXPECT_EQ(report.ranks, ranks);
      for (const BenchResult& result : report.results) {
        const double vector_bytes = result.work * 1e9, floor = 2 * (ranks - 1) * vector_bytes;
        EXPECT_EQ(result.facts.at(0).first, "sent_bytes_all_ranks");
        EXPECT_GE(result.facts.at(0).second, floor) << result.name;
        EXPECT_LE(result.facts.at(0).second, 1.01 * floor + 4096 * (ranks - 1)) << result.name;
      }
      return absl::OkStatus();
    });
    EXPECT_TRUE(status.ok()) << status;
  }
}

// Exactly, half of the vector goes up and half of it comes back: 8 MiB a rank. QSGD takes about 2 bits a value. What saves no
// bytes has no crossover.
TEST(Crossover, CountsTheBytesOfBothWays) {
  const absl::StatusOr<BenchReport> report = BenchCrossover("qsgd { levels: 1024 }", 1);
  ASSERT_TRUE(report.ok()) << report.status();
  const BenchResult& result = report->results.at(0);
  EXPECT_GT(result.facts.at(0).second, 0);
  EXPECT_EQ(result.facts.at(3), (std::pair<std::string, double>{"bytes_exact", 8 << 20}));
  EXPECT_EQ(result.facts.at(4).first, "bytes_coded");
  EXPECT_LT(result.facts.at(4).second, (8 << 20) / 8.0);
  // A matrix of 2^11 by 2^10 as two factors of one column, from each rank to the other. The defaults are those of configs.
  const absl::StatusOr<BenchReport> biased = BenchCrossover("low_rank { width: 1 }", 1);
  ASSERT_TRUE(biased.ok()) << biased.status();
  constexpr double kFactors = 4 * (2048 + 1024), kHeaders = 64;
  EXPECT_GE(biased->results.at(0).facts.at(4).second, kFactors);
  EXPECT_LE(biased->results.at(0).facts.at(4).second, kFactors + kHeaders);
  EXPECT_EQ(BenchCrossover("no codec").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(BenchCrossover("identity {}", 1).status().code(), absl::StatusCode::kFailedPrecondition);
}

// One extragradient step of a game is two exchanges of one vector (and the small sums that all models share): more than 2 * 2 * 16 * 8
// bytes between two ranks, and none where one rank has all workers.
TEST(Training, AGameIsMeasuredInSteps) {
  const absl::StatusOr<LoadedConfig> loaded = LoadText(
      "name: \"game\" trainer { workers: 2 global_batch: 0 } optim { extragradient { gamma: 0.1 } } "
      "model { precision { compute: F64 } bilinear_game { dim: 8 } }");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  for (const int ranks : {1, 2}) {
    const absl::Status status = RunRanks(ranks, [&](Communicator& world) -> absl::Status {
      ASSIGN_OR_RETURN(const BenchReport report, BenchTraining(loaded->config, world, {.warmup_steps = 1, .steps = 5}));
      const BenchResult& result = report.results.at(0);
      EXPECT_EQ(result.unit, "steps/s");
      EXPECT_EQ(result.seconds.samples, 5);
      EXPECT_EQ(result.facts.at(2), (std::pair<std::string, double>{"parameters", 16}));
      const double sent = result.facts.at(0).second;
      EXPECT_TRUE(ranks == 1 ? sent == 0 : sent > 2 * 2 * 16 * 8) << sent;
      return absl::OkStatus();
    });
    EXPECT_TRUE(status.ok()) << status;
  }
}

// A step of the encoder and decoder of a linear model: its products are known, and what the ops take adds up to the step.
TEST(Training, ProductsAndOpsOfAStep) {
  const absl::StatusOr<LoadedConfig> loaded = LoadText(
      "name: \"vae\" trainer { workers: 1 global_batch: 96 } optim { first_order { lr: 0.01 rule { sgd {} } } } "
      "model { linear_vae { data_dim: 48 latent_dim: 16 } } data { sources { gaussian { dim: 48 samples: 200 } } }");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const absl::Status status = RunRanks(1, [&](Communicator& world) -> absl::Status {
    ASSIGN_OR_RETURN(const BenchReport report, BenchTraining(loaded->config, world, {.warmup_steps = 1, .steps = 3}));
    const BenchResult& step = report.results.at(0);
    EXPECT_EQ(step.work, 96);
    EXPECT_GT(step.facts.at(3).second, 0);  // seconds of the processor
    EXPECT_EQ(step.facts.at(4).first, "ceiling");
    EXPECT_EQ(step.facts.at(5).first, "of_ceiling");
    EXPECT_GT(step.facts.at(5).second, 0);
    double shares = 0;
    bool encoder = false;
    for (const BenchResult& result : report.results) {
      if (result.unit == "calls/s") shares += result.facts.at(0).second;
      if (result.name == "forward 96 x 48 -> 16") {
        encoder = true;
        EXPECT_DOUBLE_EQ(result.work, 2e-9 * 96 * 48 * 16);
      }
    }
    EXPECT_TRUE(encoder);
    EXPECT_GT(shares, 0);
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
}

}  // namespace
}  // namespace conclave
