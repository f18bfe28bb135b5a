#include <cmath>

#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include "comm/compressors.h"
#include "comm/wire_frame.h"
#include "tests/comm/memory_laws.h"

namespace conclave {
namespace {

ExchangeConfig Identity() {
  ExchangeConfig config;
  config.mutable_quantized()->mutable_codec()->mutable_identity();
  return config;
}

ExchangeConfig RandK(double fraction) {
  ExchangeConfig config;
  config.mutable_quantized()->mutable_codec()->mutable_rand_k()->set_fraction(fraction);
  return config;
}

ExchangeCase With(const ExchangeConfig& config, ExchangeCase c) {
  c.make = [config](const ExchangeContext& context) {
    ExchangeOr exchange = MakeExchange(config, context);
    EXPECT_EQ(exchange.status(), absl::OkStatus());
    return *std::move(exchange);
  };
  return c;
}

TEST(QuantizedExchange, IdentityCodecIsTheExactExchange) {
  const ParameterSet set = TestParameters();
  for (const auto& [ranks, axis] : {std::pair{1, 1}, {2, 2}, {3, 1}, {4, 2}, {8, 1}}) {
    // In either setting of the config: lossy paths always use the tree.
    for (const bool invariant : {true, false}) {
      const ExchangeCase c = With(Identity(), {.workers = 8, .ranks = ranks, .expert_axis = axis, .world_size_invariant = invariant});
      for (const Blocks<float>& blocks : RunExchange<float>(c)) {
        for (const auto& [id, v] : blocks)
          EXPECT_TRUE(SameBits(v, TreeMean<float>(c, {id}, set[{id}].shape.elements()))) << id << " on " << ranks;
      }
    }
  }
}

// Wherever a config has it, it is warned of once by every exchange that uses it, on rank 0.
TEST(QuantizedExchange, CommonMasksAreWarnedOfWhereverTheyStand) {
  const std::string mask = "rand_k { fraction: 0.5 common_mask: true }";
  const std::pair<std::string, size_t> cases[] = {
      {"quantized { codec { " + mask + " } }", 1},
      {"diana { codec { " + mask + " } }", 1},
      {"quantized { codec { blockwise { rules { pattern: '*' codec { " + mask + " } } otherwise { identity {} } } } }", 1},
      {"quantized { codec { " + mask + " } } when_it_pays { link_rate: 1 codec_rate: 1e12 }", 1},
      {"hierarchical { workers_per_group: 2 exchange { marina { p: 0.5 codec { " + mask + " } } } }",
       2},  // of replicated blocks, of experts
      {"quantized { codec { rand_k { fraction: 0.5 } } }", 0},
  };
  for (const auto& [text, expected] : cases) {
    ExchangeConfig config;
    ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &config)) << text;
    testing::internal::CaptureStderr();
    RunExchange<float>(With(config, {.workers = 8, .ranks = 2}));
    const std::string told = testing::internal::GetCapturedStderr();
    size_t warnings = 0;
    for (size_t at = 0; (at = told.find("common_mask: true", at)) != std::string::npos; ++at) ++warnings;
    EXPECT_EQ(warnings, expected) << text << ": " << told;
  }
}

// The mean of decoded messages by the one-process tree, from the codec alone.
std::vector<float> Oracle(const ExchangeCase& c, const CodecConfig& config, const BlockSpec& spec, BlockId block) {
  const CompressorOr codec = MakeCompressor(config, {.shape = spec.shape, .workers = c.workers});
  const int64_t n = spec.shape.elements();
  std::vector<std::vector<float>> leaves;
  std::vector<Partial> partials;
  for (int m = 0; m < c.workers; ++m) {
    leaves.emplace_back(n);
    if (!c.skip || !c.skip(m, block)) {
      std::vector<float> v = WorkerVector<float>(m, block, n);
      std::vector<std::byte> wire((*codec)->MaxWireBytes());
      const CodecKey key{.seed = 42, .block = block, .worker = {m}, .step = static_cast<uint32_t>(c.steps - 1)};
      (*codec)->Encode(TensorOf(v), key, wire);
      EXPECT_EQ((*codec)->Decode(wire, key, TensorOf(leaves.back())), absl::OkStatus());
    }
    partials.push_back({{m, m + 1}, reinterpret_cast<std::byte*>(leaves.back().data())});
  }
  MergeSiblings(partials, c.workers, DType::kF32, n);
  for (float& x : leaves[0]) x *= 1.0f / static_cast<float>(c.workers);
  return leaves[0];
}

TEST(QuantizedExchange, RandKHasTheSameBitsOnAnyMesh) {
  const ParameterSet set = TestParameters();
  const auto skip = [](int worker, BlockId block) { return worker == 1 && block.value % 2 == 0; };
  for (const double fraction : {0.05, 0.4}) {  // few bytes: messages; many: sums
    for (const auto& [ranks, axis] : {std::pair{1, 1}, {2, 1}, {2, 2}, {3, 1}, {4, 2}, {8, 1}, {8, 4}}) {
      const ExchangeCase c = With(RandK(fraction), {.workers = 8, .ranks = ranks, .expert_axis = axis, .bucket_bytes = 600, .skip = skip});
      for (const Blocks<float>& blocks : RunExchange<float>(c)) {
        for (const auto& [id, v] : blocks) {
          EXPECT_TRUE(SameBits(v, Oracle(c, RandK(fraction).quantized().codec(), set[{id}], {id})))
              << "block " << id << ", " << ranks << " ranks";
        }
      }
    }
  }
}

TEST(QuantizedExchange, ANonFiniteVectorMakesTheMeanNaNOnEveryRank) {
  for (const ExchangeConfig& config : {Identity(), RandK(0.05)}) {
    const absl::Status status = RunRanks(3, [&](Communicator& world) -> absl::Status {
      const ParameterSet set = TestParameters();
      const Layout layout = TestLayout(&set, world.rank(), 3, 1);
      ASSIGN_OR_RETURN(const auto exchange,
                       MakeExchange(config, {.layout = &layout, .workers = {.workers = 3, .ranks = 3}, .world = &world, .data = &world}));
      exchange->Begin(0, 0);
      const BlockId block = set.Find("d");
      std::vector<float> v(700, 1.0f);
      if (world.rank() == 1) v[3] = INFINITY;
      RETURN_IF_ERROR(exchange->Put({world.rank()}, block, TensorOf(v)));
      ASSIGN_OR_RETURN(const Aggregate mean, exchange->Finish());
      for (const float x : mean->block(block).span<float>()) EXPECT_TRUE(std::isnan(x));
      for (const float x : mean->block(set.Find("b")).span<float>()) EXPECT_EQ(x, 0.0f);
      return absl::OkStatus();
    });
    EXPECT_EQ(status, absl::OkStatus());
  }
}

// One replicated block large enough that messages win: the ledger equals the formula of the wire format to the byte, in both books.
TEST(QuantizedExchange, LedgerEqualsTheFormula) {
  constexpr int64_t kElements = 5000;
  constexpr int kRanks = 3;
  constexpr int64_t kPayload = 500 * 4;
  for (const WireReport& report : ReportsOfOneBlock(RandK(0.1), kRanks, kElements)) {
    const WireCount wire = report.BetweenRanks();
    EXPECT_EQ(wire.sent_bytes, (kRanks - 1) * (kFrameBytes + kPayload));
    EXPECT_EQ(wire.received_bytes, (kRanks - 1) * (kFrameBytes + kPayload));
    EXPECT_EQ(wire.sent_messages, kRanks - 1);
    EXPECT_EQ(report.logical, (LogicalWire{.uplink_bytes = wire.sent_bytes,
                                           .header_bytes = (kRanks - 1) * kFrameBytes,
                                           .messages = kRanks - 1,
                                           .encoded_bytes = kPayload,
                                           .dense_bytes = kElements * 4}));
  }
}

// What frames messages weighs less than a percent of them from 1e5 coordinates on, at a sixteenth of the coordinates' bytes a worker.
TEST(QuantizedExchange, FramesAreLessThanAPercentOfLargeMessages) {
  constexpr int64_t kElements = 100000;
  constexpr int kRanks = 8;
  ExchangeConfig config;
  CodecConfig* const values = config.mutable_quantized()->mutable_codec()->mutable_perm_k()->mutable_values();
  values->mutable_block_int()->set_bits(4);
  values->mutable_block_int()->set_block(64);
  for (const WireReport& report : ReportsOfOneBlock(config, kRanks, kElements)) {
    constexpr int64_t kShare = kElements / kRanks, kPayload = kShare / 2 + 2 * ((kShare + 63) / 64);
    EXPECT_EQ(report.logical.uplink_bytes - report.logical.header_bytes, (kRanks - 1) * kPayload);
    EXPECT_LT(100 * report.logical.header_bytes, (kRanks - 1) * kPayload);
    EXPECT_GT(report.logical.header_bytes, 0);
  }
}

TEST(QuantizedExchange, BothBooksAgreeWithOneWorkerARank) {
  for (const double fraction : {0.02, 0.3, 1.0}) {
    for (const int ranks : {2, 5}) {
      std::vector<WireReport> reports(ranks);
      ExchangeCase c = With(RandK(fraction), {.workers = ranks, .ranks = ranks, .bucket_bytes = 700, .steps = 1});
      c.after = [&](Communicator& world) { reports[world.rank()] = world.ledger()->Take(); };
      RunExchange<float>(c);
      for (const WireReport& report : reports) {
        EXPECT_EQ(report.BetweenRanks().sent_bytes, report.logical.uplink_bytes + report.logical.downlink_bytes)
            << fraction << ' ' << ranks;
        EXPECT_EQ(report.BetweenRanks().sent_messages, report.logical.messages);
      }
    }
  }
}

}  // namespace
}  // namespace conclave
