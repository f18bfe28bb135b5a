// Traces: their checks, their sums, their files.
#include "parallel/routing_trace.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/fault_file_system.h"
#include "parallel/chain_search.h"
#include "parallel/markov_trace.h"
#include "parallel/npy.h"
#include "parallel/placement_problem.h"
#include "parallel/trace_files.h"
#include "tests/parallel/placement_case.h"

namespace conclave {
namespace {

std::string ErrorOf(const absl::Status& status) { return std::string(status.message()); }

TEST(RoutingTrace, RefusesWhatIsNoTrace) {
  const auto error = [](TraceHeader header, std::vector<int32_t> ids) { return ErrorOf(RoutingTrace::Make(header, ids).status()); };
  EXPECT_NE(error({.experts = 4, .layers = 2}, {}).find("no token"), std::string::npos);
  EXPECT_NE(error({.experts = 4, .layers = 2}, {0, 1, 2}).find("3 ids"), std::string::npos);
  EXPECT_NE(error({.experts = 4, .layers = 2}, {0, 1, 2, 4}).find("token 1, layer 1, slot 0: expert 4 is outside 0..3"), std::string::npos);
  EXPECT_NE(error({.experts = 4, .layers = 2}, {0, -1}).find("token 0, layer 1"), std::string::npos);
  EXPECT_NE(error({.experts = 4, .layers = 1, .top_k = 2}, {0, 1, 2, 2}).find("token 1, layer 0: expert 2 is chosen twice"),
            std::string::npos);
  EXPECT_NE(error({.experts = 4, .layers = 1, .top_k = 5}, {0}).find("top_k"), std::string::npos);
}

TEST(RoutingCounts, AggregatedCostIsTheCostPerToken) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    const RoutingTrace trace = UniformTrace(5, 12, 300, seed);
    const RoutingCounts counts = RoutingCounts::Of(trace);
    EXPECT_EQ(counts.total(), 4 * 300);
    for (const Topology& topology : {Topology{.ranks = 6}, {.ranks = 6, .nodes = 2}, {.ranks = 6, .nodes = 6}}) {
      const PlacementTable table = RandomTable(5, 12, 6, seed);
      EXPECT_EQ(CountCrossings(counts, table, topology), CountCrossings(trace, table, topology));
    }
  }
}

TEST(RoutingCounts, SlotZeroCountsTransitionsAllSlotsLoad) {
  const RoutingTrace trace = *RoutingTrace::Make({.experts = 3, .layers = 2, .top_k = 2}, {0, 1, 2, 1, /**/ 0, 2, 2, 0});
  const RoutingCounts counts = RoutingCounts::Of(trace);
  EXPECT_EQ(counts.transitions(0)[0 * 3 + 2], 2);
  EXPECT_EQ(counts.total(), 2);
  EXPECT_EQ(counts.load(0)[0], 2);
  EXPECT_EQ(counts.load(0)[1], 1);
  EXPECT_EQ(counts.load(1)[2], 2);
  EXPECT_EQ(trace.FirstSlot().ids().size(), 4u);
  EXPECT_EQ(RoutingCounts::Of(trace.FirstSlot()).total(), 2);
  const std::vector<double> affinity = counts.Affinity(0);
  EXPECT_EQ(affinity[2], 1);
  EXPECT_EQ(affinity[3] + affinity[4] + affinity[5], 0);  // no token: a row of zeros
  EXPECT_EQ(counts.MeanLargestAffinity(), 1);             // over the one row with tokens
}

TEST(RoutingTrace, EveryTakesDisjointTokens) {
  const RoutingTrace trace = UniformTrace(2, 5, 7, 1);
  const RoutingTrace even = trace.Every(2, 0), odd = trace.Every(2, 1);
  EXPECT_EQ(even.tokens(), 4);
  EXPECT_EQ(odd.tokens(), 3);
  for (int64_t t = 0; t < 7; ++t) EXPECT_EQ((t % 2 == 0 ? even : odd).expert(t / 2, 1), trace.expert(t, 1));
}

TEST(TraceFiles, BothFormatsGiveTheTraceBack) {
  FaultFileSystem disk;
  const TraceHeader header{.experts = 300,
                           .layers = 3,
                           .corpus = "a text of kings",
                           .step = 2000,
                           .seed = ~uint64_t{0},
                           .checkpoint = "00ff",
                           .batches = "fe01"};
  const RoutingTrace trace = *RoutingTrace::Make(header, {0, 299, 5, 1, 2, 3});
  for (const char* path : {"t.csv", "t.npy"}) {
    ASSERT_TRUE(WriteTrace(disk, path, trace).ok());
    const auto read = ReadTrace(disk, path);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->header(), header);
    EXPECT_TRUE(std::equal(read->ids().begin(), read->ids().end(), trace.ids().begin(), trace.ids().end()));
  }
  const RoutingTrace pairs = *RoutingTrace::Make({.experts = 4, .layers = 1, .top_k = 2}, {0, 3, 2, 1});
  EXPECT_FALSE(WriteTrace(disk, "k.csv", pairs).ok());
  ASSERT_TRUE(WriteTrace(disk, "k.npy", pairs).ok());
  EXPECT_EQ(ReadTrace(disk, "k.npy")->top_k(), 2);
  EXPECT_NE(ErrorOf(ReadTrace(disk, "t.bin").status()).find(".csv or .npy"), std::string::npos);
}

TEST(TraceFiles, PlainCsvNeedsTheExperts) {
  const auto trace = ParseTraceCsv("0,1\r\n2, 3\n", 4);
  ASSERT_TRUE(trace.ok()) << trace.status();
  EXPECT_EQ(trace->tokens(), 2);
  EXPECT_EQ(trace->expert(1, 1), 3);
  EXPECT_NE(ErrorOf(ParseTraceCsv("0,1\n").status()).find("--experts"), std::string::npos);
}

// Written before headers said which batches they are of.
TEST(TraceFiles, OlderHeadersAreRead) {
  const auto trace = ParseTraceCsv(
      "# version 1\n# experts 4\n# layers 2\n# top_k 1\n# dtype int32\n# corpus a.txt\n# step 7\n# seed 1\n# checkpoint \n0,1\n");
  ASSERT_TRUE(trace.ok()) << trace.status();
  EXPECT_EQ(trace->header().step, 7);
  EXPECT_EQ(trace->header().batches, "");
}

TEST(TraceFiles, CsvErrorsNameTheLine) {
  const auto error = [](const char* text) { return ErrorOf(ParseTraceCsv(text, 4).status()); };
  EXPECT_NE(error("").find("no token"), std::string::npos);
  EXPECT_NE(error("0,1\n2\n").find("line 2: 1 ids, the lines before have 2"), std::string::npos);
  EXPECT_NE(error("0,1\n2,x\n").find("line 2, column 2: expected an expert's number, got 'x'"), std::string::npos);
  EXPECT_NE(error("0,1\n\n").find("line 2, column 1"), std::string::npos);
  EXPECT_NE(error("0,1\n2,9\n").find("token 1, layer 1"), std::string::npos);
  EXPECT_NE(error("# experts 8\n0,1\n").find("the header says 8 experts, 4 are expected"), std::string::npos);
  EXPECT_NE(error("# layers 3\n0,1\n").find("the header says 3 layers, the data has 2"), std::string::npos);
  EXPECT_NE(error("# version 2\n0,1\n").find("version 2; known: 1"), std::string::npos);
  EXPECT_NE(error("# expert 4\n0,1\n").find("unknown header 'expert'"), std::string::npos);
  EXPECT_NE(error("# step 1\n# step 1\n0,1\n").find("given twice"), std::string::npos);
  EXPECT_NE(error("0,1\n# step 1\n").find("must come first"), std::string::npos);
}

TEST(Npy, ReadsWhatNumPyWrites) {
  // numpy.save of numpy.array([[1, 2, 300]], dtype='<u2').
  std::string bytes("\x93NUMPY\x01\x00\x76\x00", 10);
  std::string header = "{'descr': '<u2', 'fortran_order': False, 'shape': (1, 3), }";
  header.append(117 - header.size(), ' ');
  bytes += header + "\n";
  bytes += std::string("\x01\x00\x02\x00\x2c\x01", 6);
  const auto array = ParseNpy(bytes);
  ASSERT_TRUE(array.ok()) << array.status();
  EXPECT_EQ(array->shape, (std::vector<int64_t>{1, 3}));
  EXPECT_EQ(array->values, (std::vector<int32_t>{1, 2, 300}));
  EXPECT_NE(ErrorOf(ParseNpy(bytes.substr(0, bytes.size() - 1)).status()).find("got 5 bytes"), std::string::npos);
  EXPECT_FALSE(ParseNpy(bytes + "x").ok());
  for (size_t cut = 0; cut < bytes.size(); ++cut) EXPECT_FALSE(ParseNpy(bytes.substr(0, cut)).ok()) << cut;
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string changed = bytes;
    changed.replace(changed.find(from), from.size(), to);
    return ErrorOf(ParseNpy(changed).status());
  };
  EXPECT_NE(with("<u2", "<f2").find("dtype '<f2'"), std::string::npos);
  EXPECT_NE(with("<u2", ">u2").find("dtype '>u2'"), std::string::npos);
  EXPECT_NE(with("False", "True ").find("Fortran"), std::string::npos);
  EXPECT_NE(with("(1, 3)", "(9, 3)").find("cut off"), std::string::npos);
  EXPECT_NE(with("'shape'", "'shapo'").find("expected one of"), std::string::npos);
}

TEST(Npy, WritesAlignedData) {
  const std::vector<int64_t> shape{2, 2};
  const std::vector<int32_t> values{1, -2, 3, 1 << 30};
  const std::string bytes = RenderNpy(shape, values);
  EXPECT_EQ((bytes.size() - 16) % 64, 0u);
  EXPECT_EQ(ParseNpy(bytes)->values, values);
}

TEST(MarkovTrace, TokensFollowTheExpectedCounts) {
  const MarkovInstance instance{.layers = 3, .experts = 4, .sigma = 1, .seed = 3, .tokens = 200'000};
  const RoutingCounts expected = MarkovCounts(instance), drawn = RoutingCounts::Of(MarkovTrace(instance));
  for (int j = 0; j < 2; ++j) {
    for (int i = 0; i < 16; ++i) {
      const double mean = static_cast<double>(expected.transitions(j)[i]);
      EXPECT_NEAR(static_cast<double>(drawn.transitions(j)[i]), mean, 6 * std::sqrt(mean) + 1);  // six standard deviations
    }
  }
  EXPECT_FALSE(CheckMarkovInstance({.layers = 1}).ok());
  EXPECT_FALSE(CheckMarkovInstance({.sigma = -1}).ok());
}

}  // namespace
}  // namespace conclave
