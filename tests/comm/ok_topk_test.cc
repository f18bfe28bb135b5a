// Sums of the coordinates that matter: what travels, what is kept, and in how many bytes.
#include <cmath>

#include <gtest/gtest.h>

#include "comm/sparse_terms.h"
#include "comm/wire_frame.h"
#include "tests/comm/memory_laws.h"

namespace conclave {
namespace {

constexpr int64_t kCoordinates = 20000;

ParameterSet OneBlock() {
  ParameterSet set;
  set.Add({.name = "x", .shape = {kCoordinates}});
  return set;
}

MemoryRun SparseRun(const char* text, int ranks, int steps) {
  return {.config = ParseExchange(text), .ranks = ranks, .steps = steps, .parameters = OneBlock};
}

TEST(SparseTerms, RunsComeBackWithinTheirBound) {
  const RngKey draws{.seed = 3};
  for (const int64_t elements : {1, 7, 1000, 40000}) {
    for (const double density : {1.0, 0.5, 0.1, 0.01, 0.0003}) {
      SparseTerms terms;
      for (int64_t i = 0; i < elements; ++i) {
        if (draws.UniformDouble(static_cast<uint64_t>(i)) < density)
          terms.push_back({.index = 100 + i, .value = 0.5 * static_cast<double>(i)});
      }
      const SparseRange range{.first = 100, .elements = elements};
      const auto count = static_cast<int64_t>(terms.size());
      std::vector<std::byte> wire(static_cast<size_t>(MostSparseBytes(count, elements, range.dtype)) + 64);
      const int64_t bytes = EncodeSparse(range, terms, wire);
      EXPECT_LE(bytes, MostSparseBytes(count, elements, range.dtype)) << elements << ' ' << density;
      SparseTerms back;
      ASSERT_EQ(DecodeSparse(range, std::span(wire).first(static_cast<size_t>(bytes)), {}, count, back), absl::OkStatus());
      ASSERT_EQ(back.size(), terms.size());
      for (size_t i = 0; i < terms.size(); ++i) EXPECT_TRUE(back[i].index == terms[i].index && back[i].value == terms[i].value) << i;
      // The worst gaps: all terms at the far end.
      for (size_t i = 0; i < terms.size(); ++i) terms[i].index = 100 + elements - count + static_cast<int64_t>(i);
      EXPECT_LE(EncodeSparse(range, terms, wire), MostSparseBytes(count, elements, range.dtype)) << elements << ' ' << density;
      // What is cut short, or claims more than can be, is refused.
      for (int64_t cut = 0; cut < std::min<int64_t>(bytes, 40); ++cut) {
        back.clear();
        EXPECT_EQ(DecodeSparse(range, std::span(wire).first(static_cast<size_t>(cut)), {}, count, back).code(),
                  absl::StatusCode::kDataLoss);
      }
    }
  }
}

// Over all exchanges, what was delivered and the mean of what is kept add up to what was put.
TEST(OkTopK, WhatDoesNotTravelIsKept) {
  const MemoryRun run = SparseRun("ok_topk { fraction: 0.02 estimate_every: 4 }", 2, 10);
  MemoryRun exact = run;
  exact.config = ParseExchange("exact {}");
  const MemoryResult sent = RunMemory(run), put = RunMemory(exact);
  double error = 0, size = 0, kept = 0;
  for (size_t i = 0; i < static_cast<size_t>(kCoordinates); ++i) {
    double expected = 0, got = 0;
    for (int m = 0; m < run.workers; ++m) {
      const double e = sent.state.tensors.at(absl::StrFormat("exchange.e_m/worker.%d/x", m))[i];
      got += e / run.workers, kept += e * e;
    }
    for (int step = 0; step < run.steps; ++step) got += sent.aggregates[step].at(0)[i], expected += put.aggregates[step].at(0)[i];
    error += (got - expected) * (got - expected), size += expected * expected;
  }
  EXPECT_LT(error, 1e-10 * size);
  EXPECT_GT(kept, 0);
}

// In an exact look about k coordinates travel, and they are the largest: with equal vectors the k largest of them, like TopK.
TEST(OkTopK, DeliversTheLargestCoordinates) {
  constexpr int64_t kKept = 200;
  const absl::Status status = RunRanks(4, [&](Communicator& world) -> absl::Status {
    const ParameterSet set = OneBlock();
    const Layout layout = ReplicatedLayout(&set, world.rank(), 4);
    ASSIGN_OR_RETURN(const auto exchange, MakeExchange(ParseExchange("ok_topk { fraction: 0.01 estimate_every: 8 }"),
                                                       {.layout = &layout, .workers = {.workers = 4, .ranks = 4}, .world = &world}));
    std::vector<float> v = TestVector<float>(0, kCoordinates), sizes;
    for (const float x : v) sizes.push_back(std::abs(x));
    std::ranges::sort(sizes, std::greater<>());
    exchange->Begin(0, 0);
    RETURN_IF_ERROR(exchange->Put({world.rank()}, {0}, TensorOf(v)));
    ASSIGN_OR_RETURN(const Aggregate mean, exchange->Finish());
    exchange->Commit();
    const std::span<const float> got = mean->block({0}).span<float>();
    for (size_t i = 0; i < v.size(); ++i) EXPECT_EQ(got[i], std::abs(v[i]) >= sizes[kKept - 1] ? v[i] : 0.0f) << i;
    return absl::OkStatus();
  });
  EXPECT_EQ(status, absl::OkStatus());
}

// Vectors change and thresholds stay for 16 exchanges: every worker sends between k / 2 and 2 k terms, in balanced regions.
TEST(OkTopK, SendsAsManyTermsAsItSaysAndFewBytes) {
  constexpr int kRanks = 4, kSteps = 12;
  constexpr double kFraction = 0.01, kKept = kFraction * kCoordinates;
  const MemoryRun run = SparseRun("ok_topk { fraction: 0.01 estimate_every: 16 }", kRanks, kSteps);
  int64_t most = 0, least = INT64_MAX;
  for (const WireReport& report : RunMemory(run).reports) {
    const int64_t sent = report.BetweenRanks().sent_bytes;
    EXPECT_EQ(sent, report.logical.uplink_bytes + report.logical.downlink_bytes);
    EXPECT_EQ(report.logical.dense_bytes, 4 * kCoordinates);
    // A count and values of 4 bytes, an index of about 8.1 bits; a region a worker.
    const double terms = static_cast<double>(report.logical.encoded_bytes - kRanks * 4) / (4 + 8.1 / 8);
    EXPECT_GT(terms, 0.45 * kKept);
    EXPECT_LT(terms, 2.2 * kKept);
    most = std::max(most, sent), least = std::min(least, sent);
    // 2 k terms each way at most, as against 8 d (M - 1) / M.
    EXPECT_LT(static_cast<double>(sent), 0.75 * (2 * 2 * kKept * 5.2) + 6 * (kFrameBytes + 8 + 8));
  }
  EXPECT_LT(static_cast<double>(most), 1.6 * static_cast<double>(least)) << "regions are balanced";
}

}  // namespace
}  // namespace conclave
