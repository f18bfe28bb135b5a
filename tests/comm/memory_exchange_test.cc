// What each exchange with memory promises beside the laws of all (tests/comm/exchange_conformance_test.cc).
#include "tests/comm/memory_laws.h"

#include <cmath>

#include <gtest/gtest.h>

#include "comm/wire_frame.h"

namespace conclave {
namespace {

// "<part>.<what>/worker.<m>/<block>" averaged over workers, by block name.
std::map<std::string, std::vector<double>> WorkerMean(const SavedState& state, const std::string& what, int workers) {
  std::map<std::string, std::vector<double>> mean;
  for (int m = 0; m < workers; ++m) {
    const std::string prefix = absl::StrFormat("exchange.%s/worker.%d/", what, m);
    for (const auto& [name, v] : state.tensors) {
      if (!name.starts_with(prefix)) continue;
      std::vector<double>& sum = mean[name.substr(prefix.size())];
      sum.resize(v.size());
      for (size_t i = 0; i < v.size(); ++i) sum[i] += v[i] / static_cast<double>(workers);
    }
  }
  return mean;
}

// Over all steps, the means that were delivered and the memory left add up to the means that were put.
TEST(Ef14, WhatIsNotSentIsKept) {
  for (const char* codec : {"top_k { fraction: 0.1 }", "scaled_sign {}", "block_int { bits: 4 block: 16 rounding: NEAREST }"}) {
    const MemoryRun run{.config = ParseExchange(absl::StrFormat("ef14 { codec { %s } }", codec)), .ranks = 2, .steps = 12};
    MemoryRun exact = run;
    exact.config = ParseExchange("exact {}");
    const MemoryResult sent = RunMemory(run), put = RunMemory(exact);
    const auto left = WorkerMean(sent.state, "e_m", run.workers);
    const ParameterSet set = TestParameters();
    for (const auto& [id, v] : put.aggregates[0]) {
      const std::vector<double>& e = left.at(set[{id}].name);
      for (size_t i = 0; i < v.size(); ++i) {
        double expected = 0, got = e[i], size = 0;
        for (int step = 0; step < run.steps; ++step) {
          expected += put.aggregates[step].at(id)[i];
          got += sent.aggregates[step].at(id)[i];
          size += std::abs(sent.aggregates[step].at(id)[i]) + std::abs(put.aggregates[step].at(id)[i]);
        }
        EXPECT_NEAR(got, expected, 1e-5 * (size + std::abs(e[i])) + 1e-7 * Norm(put.aggregates[0])) << codec << ", block " << id;
      }
    }
  }
}

// With vectors that stay, |g_m - v_m|^2 shrinks by 1 - 1/delta a step at least, and g is the mean of g_m. Four steps of TopK bring every
// coordinate once; projections onto 2 of 7 and of 5 directions leave less than (5 / 7)^80 after 80.
TEST(Ef21, LearnsAVectorThatStaysAndKeepsItsMean) {
  for (const char* codec : {"top_k { fraction: 0.25 }",
                            "blockwise { rules { pattern: 'd' codec { low_rank { width: 2 iterations: 1 } } } rules { pattern: 'e*.w' "
                            "codec { low_rank { width: 2 iterations: 2 } } } otherwise { top_k { fraction: 0.25 } } }"}) {
    SCOPED_TRACE(codec);
    const MemoryRun run{.config = ParseExchange(absl::StrFormat("ef21 { codec { %s } }", codec)), .ranks = 2, .steps = 80, .moving = false};
    MemoryRun exact = run;
    exact.config = ParseExchange("exact {}");
    exact.steps = 1;
    const MemoryResult got = RunMemory(run);
    const Blocks<float> goal = RunMemory(exact).aggregates[0];
    EXPECT_GT(Distance(got.aggregates[0], goal), 0.01 * Norm(goal)) << "the codec must lose something at first";
    EXPECT_LT(Distance(got.aggregates[79], goal), 1e-5 * Norm(goal));
    const auto mean = WorkerMean(got.state, "g_m", run.workers);
    for (const auto& [name, v] : mean) {
      const std::vector<float>& g = got.state.tensors.at("exchange.g/" + name);
      for (size_t i = 0; i < v.size(); ++i) EXPECT_NEAR(v[i], g[i], 1e-5 * Norm(goal)) << name;
    }
  }
}

TEST(Ef21Sgdm, IdentityCodecIsTheMomentumOfTheMean) {
  const MemoryRun run{.config = ParseExchange("ef21_sgdm { eta: 0.25 codec { identity {} } }"), .ranks = 2, .steps = 5};
  MemoryRun exact = run;
  exact.config = ParseExchange("exact {}");
  const MemoryResult got = RunMemory(run), put = RunMemory(exact);
  Blocks<float> momentum = put.aggregates[0];
  for (int step = 0; step < run.steps; ++step) {
    for (auto& [id, u] : momentum) {
      for (size_t i = 0; i < u.size() && step > 0; ++i) u[i] = 0.75f * u[i] + 0.25f * put.aggregates[step].at(id)[i];
    }
    EXPECT_LT(Distance(got.aggregates[step], momentum), 1e-6 * Norm(momentum)) << step;
  }
}

// With vectors that stay h_m learns them, so the codec's noise dies out: no error floor, which the quantized exchange keeps.
TEST(Diana, NoiseDiesOut) {
  const MemoryRun run{.config = ParseExchange("diana { codec { rand_k { fraction: 0.25 } } }"), .ranks = 2, .steps = 150, .moving = false};
  MemoryRun exact = run, memoryless = run;
  exact.config = ParseExchange("exact {}");
  memoryless.config = ParseExchange("quantized { codec { rand_k { fraction: 0.25 } } }");
  exact.steps = 1;
  const MemoryResult got = RunMemory(run);
  const Blocks<float> goal = RunMemory(exact).aggregates[0];
  EXPECT_LT(Distance(got.aggregates[149], goal), 1e-4 * Norm(goal));
  EXPECT_GT(Distance(RunMemory(memoryless).aggregates[149], goal), 0.1 * Norm(goal));
  const auto mean = WorkerMean(got.state, "h_m", run.workers);
  for (const auto& [name, v] : mean) {
    const std::vector<float>& h = got.state.tensors.at("exchange.h/" + name);
    for (size_t i = 0; i < v.size(); ++i) EXPECT_NEAR(v[i], h[i], 1e-5 * Norm(goal)) << name;
  }
}

double LargestRatio(const Blocks<float>& a, const Blocks<float>& b) {
  double most = 0;
  for (const auto& [id, v] : a) {
    double error = 0, size = 0;
    for (size_t i = 0; i < v.size(); ++i) {
      error = std::max(error, std::abs(static_cast<double>(v[i]) - b.at(id)[i]));
      size = std::max(size, std::abs(static_cast<double>(b.at(id)[i])));
    }
    most = std::max(most, error / size);
  }
  return most;
}

// Block d is [7, 100]: with factors of 3 columns it is compressed, of 7 it would not be. A mean of rank 2 comes out exactly, to rounding,
// whatever was remembered: e_m of the first step is zero.
TEST(PowerSgd, IsExactWhereTheMeanHasNoMoreThanItsRank) {
  constexpr int kRows = 20, kCols = 30;
  ParameterSet set;
  set.Add({.name = "x", .shape = {kRows, kCols}});
  for (const int width : {1, 2, 3}) {
    double error = 0, size = 0;
    const absl::Status status = RunRanks(2, [&](Communicator& world) -> absl::Status {
      const Layout layout = ReplicatedLayout(&set, world.rank(), 2);
      ASSIGN_OR_RETURN(const auto exchange, MakeExchange(ParseExchange(absl::StrFormat("power_sgd { width: %d }", width)),
                                                         {.layout = &layout, .workers = {.workers = 2, .ranks = 2}, .world = &world}));
      // Worker m: the outer product of its own two vectors.
      std::vector<float> v(kRows * kCols), mean(kRows * kCols);
      for (int i = 0; i < kRows; ++i) {
        for (int j = 0; j < kCols; ++j) {
          const auto product = [&](int m) { return static_cast<float>(std::sin(1.0 + i * (m + 1)) * std::cos(2.0 + j * (2 * m + 1))); };
          v[i * kCols + j] = product(world.rank());
          mean[i * kCols + j] = (product(0) + product(1)) / 2;
        }
      }
      exchange->Begin(0, 0);
      RETURN_IF_ERROR(exchange->Put({world.rank()}, {0}, TensorOf(v)));
      ASSIGN_OR_RETURN(const Aggregate got, exchange->Finish());
      if (world.rank() != 0) return absl::OkStatus();
      for (size_t i = 0; i < mean.size(); ++i) {
        error += std::pow(got->block({0}).span<float>()[i] - mean[i], 2);
        size += std::pow(mean[i], 2);
      }
      return absl::OkStatus();
    });
    EXPECT_EQ(status, absl::OkStatus());
    if (width == 1) {
      EXPECT_GT(error, 0.01 * size) << "one column cannot hold two";
    } else {
      EXPECT_LT(error, 1e-10 * size) << width << " columns";
    }
  }
}

// Over all steps what was delivered and the mean of the memories add up to what was put; and the wire carries factors only.
TEST(PowerSgd, WhatIsNotSentIsKept) {
  const MemoryRun run{.config = ParseExchange("power_sgd { width: 2 }"), .ranks = 4, .steps = 8};
  MemoryRun exact = run;
  exact.config = ParseExchange("exact {}");
  const MemoryResult sent = RunMemory(run), put = RunMemory(exact);
  const ParameterSet set = TestParameters();
  const int d = set.Find("d").value;
  const std::vector<double> left = WorkerMean(sent.state, "e_m", run.workers).at("d");
  double error = 0, size = 0;
  for (size_t i = 0; i < left.size(); ++i) {
    double expected = 0, got = left[i];
    for (int step = 0; step < run.steps; ++step) {
      expected += put.aggregates[step].at(d)[i];
      got += sent.aggregates[step].at(d)[i];
    }
    error += (got - expected) * (got - expected), size += expected * expected;
  }
  EXPECT_LT(error, 1e-8 * size);
  const int64_t dense = put.reports[0].BetweenRanks().sent_bytes, factors = sent.reports[0].BetweenRanks().sent_bytes;
  // 6 bytes a coordinate and exchange at 4 ranks: 700 against (7 + 100) * 2, up to where chunks are cut.
  EXPECT_NEAR(static_cast<double>(dense - factors), 6.0 * (700 - 214), 24);
  EXPECT_EQ(sent.reports[0].logical.dense_bytes, put.reports[0].logical.dense_bytes);
}

// While it warms up the exact mean; then the servers' momentum. With a codec that loses nothing it is the momentum of the mean.
TEST(OneBit, IsTheMeanThenItsMomentum) {
  MemoryRun run{.config = ParseExchange("one_bit { warmup_steps: 2 beta1: 0.75 codec { identity {} } }"), .ranks = 2, .steps = 6};
  MemoryRun exact = run;
  exact.config = ParseExchange("exact {}");
  const MemoryResult got = RunMemory(run), put = RunMemory(exact);
  Blocks<float> momentum;
  for (int step = 0; step < run.steps; ++step) {
    for (const auto& [id, v] : put.aggregates[step]) {
      std::vector<float>& u = momentum[id];
      u.resize(v.size());
      for (size_t i = 0; i < u.size(); ++i) u[i] = 0.75f * u[i] + 0.25f * v[i];
    }
    if (step < 2) {
      EXPECT_TRUE(SameBlocks(got.aggregates[step], put.aggregates[step])) << step;
    } else {
      EXPECT_LT(LargestRatio(got.aggregates[step], momentum), 1e-5) << step;
    }
  }
  // One bit a coordinate loses something, and remembers it.
  run.config = ParseExchange("one_bit { warmup_steps: 2 beta1: 0.75 }");
  const MemoryResult coded = RunMemory(run);
  EXPECT_TRUE(SameBlocks(coded.aggregates[1], put.aggregates[1]));
  EXPECT_FALSE(SameBlocks(coded.aggregates[2], got.aggregates[2]));
}

TEST(Marina, FullSynchronisationsAreExactAndAtRateP) {
  const MemoryRun run{.config = ParseExchange("marina { p: 0.3 codec { natural {} } }"), .ranks = 1, .steps = 60};
  MemoryRun exact = run;
  exact.config = ParseExchange("exact {}");
  const MemoryResult got = RunMemory(run), goal = RunMemory(exact);
  int full = 0;
  for (int step = 0; step < run.steps; ++step) full += SameBlocks(got.aggregates[step], goal.aggregates[step]) ? 1 : 0;
  EXPECT_TRUE(SameBlocks(got.aggregates[0], goal.aggregates[0])) << "the first exchange is full";
  EXPECT_NEAR(full, 18, 11) << "binomial: 3 deviations";
  // Where vectors stay, the differences are zero.
  MemoryRun still = run;
  still.moving = false;
  const MemoryResult same = RunMemory(still);
  EXPECT_TRUE(SameBlocks(same.aggregates[59], same.aggregates[0]));
}

TEST(MajorityVote, IsTheSignThatMostWorkersSentAndCostsABitACoordinate) {
  const MemoryRun run{.config = ParseExchange("majority_vote {}"), .workers = 3, .ranks = 3, .steps = 1};
  const MemoryResult result = RunMemory(run);
  int64_t bits = 0;
  for (const auto& [id, v] : result.aggregates[0]) {
    bits += 8 * (4 + (static_cast<int64_t>(v.size()) + 7) / 8);
    for (size_t i = 0; i < v.size(); ++i) {
      int votes = 0;
      for (int m = 0; m < run.workers; ++m) {
        votes += WorkerVector<float>(m, {id}, static_cast<int64_t>(v.size()))[i] >= 0 ? 1 : -1;
      }
      EXPECT_EQ(v[i], votes >= 0 ? 1.0f : -1.0f) << "block " << id << " element " << i;
    }
  }
  for (const WireReport& report : result.reports) EXPECT_EQ(report.logical.encoded_bytes * 8, bits);
}

// Messages of varying size travel at their own size: lengths (8 bytes) and frames, to every other rank.
TEST(MemoryExchange, TopKLedgerEqualsTheFormula) {
  constexpr int kRanks = 3;
  constexpr int64_t kElements = 20000, kKept = 200;
  const ExchangeConfig config = ParseExchange("ef21 { codec { top_k { fraction: 0.01 } } }");
  for (const WireReport& report : ReportsOfOneBlock(config, kRanks, kElements)) {
    const int64_t payload = report.logical.encoded_bytes;
    const int64_t index_bytes = payload - 4 * kKept;
    EXPECT_GT(index_bytes, 190);
    EXPECT_LT(index_bytes, 8.08 / 8 * kKept * 1.05 + 1) << "Golomb-Rice within 5 % of the entropy of uniform support";
    EXPECT_EQ(report.BetweenRanks().sent_bytes, (kRanks - 1) * (8 + kFrameBytes + payload));
    EXPECT_EQ(report.BetweenRanks().sent_messages, 2 * (kRanks - 1));
    EXPECT_EQ(report.logical, (LogicalWire{.uplink_bytes = (kRanks - 1) * (8 + kFrameBytes + payload),
                                           .header_bytes = (kRanks - 1) * (8 + kFrameBytes),
                                           .messages = 2 * (kRanks - 1),
                                           .encoded_bytes = payload,
                                           .dense_bytes = 4 * kElements}));
  }
}

}  // namespace
}  // namespace conclave
