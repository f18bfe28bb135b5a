// Routing of an evaluation, recorded as a trace: the same on any number of ranks; replayed it gives the bits of the recorded loss.
#include "trainer/routing_replay.h"

#include <unistd.h>

#include <gtest/gtest.h>

#include "comm/loopback.h"
#include "tests/trainer/config_fixture.h"

namespace conclave {
namespace {

constexpr char kReplayRun[] = R"(name: "replay"
trainer { workers: 2 global_batch: 4 }
optim { first_order { lr: 0.01 rule { sgd {} } } }
data { sources { text { path: "text.txt" } } tokenizer { bytes {} } validation_fraction: 0.3 }
model { moe_lm { layers: 2 width: 8 heads: 2 context: 8 init_std: 0.4 moe { experts: 4 top_k: 2 } } }
)";

// As 'conclave eval --record-routing' does it.
absl::StatusOr<RoutingTrace> RecordedTrace(const Assembly& a, const RoutingLog& log, int64_t batches) {
  RoutingOrigin origin{.step = 20, .checkpoint = "00ff"};
  ASSIGN_OR_RETURN(origin.batches, HeldOutDigest(a, batches));
  return GatherRouting(a, log, origin);
}

class RoutingReplayTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = JoinPath(testing::TempDir(), absl::StrFormat("replay-%d", getpid()));
    ASSERT_TRUE(RealFileSystem().CreateDirs(folder_).ok());
    std::string text;
    for (int i = 0; i < 60; ++i) text += absl::StrFormat("line %d\n", i * i);
    ASSERT_TRUE(RealFileSystem().WriteAtomically(JoinPath(folder_, "text.txt"), text).ok());
    text[text.size() - 2] ^= 1;  // a letter of the held-out end, as long as before
    ASSERT_TRUE(RealFileSystem().WriteAtomically(JoinPath(folder_, "other.txt"), text).ok());
  }
  void TearDown() override { RealFileSystem().RemoveTree(folder_).IgnoreError(); }

  struct Outcome {
    absl::Status status;
    double loss = 0;
    std::optional<RoutingTrace> trace;
  };
  // Evaluates `batches`, replaying `trace` or, without one, recording.
  Outcome Evaluate(int ranks, const RoutingTrace* trace, int64_t batches, const std::vector<std::string>& more = {}) const {
    Outcome outcome;
    std::vector<std::string> overrides{"data.sources[0].text.path=\"" + JoinPath(folder_, "text.txt") + "\"",
                                       "data.cache_dir=\"" + JoinPath(folder_, "cache") + "\"",
                                       absl::StrFormat("parallel.expert=%d", ranks)};
    overrides.insert(overrides.end(), more.begin(), more.end());
    const absl::StatusOr<LoadedConfig> loaded = LoadText(kReplayRun, overrides);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    absl::Status first;
    outcome.status = RunRanks(ranks, [&](Communicator& world) -> absl::Status {
      Assembly a;
      RETURN_IF_ERROR(Assemble(loaded->config, world, RealFileSystem(), &a));
      const auto run = [&]() -> absl::Status {
        RoutingLog log;
        if (trace != nullptr) {
          ASSIGN_OR_RETURN(log, HeldOutRouting(a, *trace, batches));
        }
        ASSIGN_OR_RETURN(const Evaluation result, a.field->EvaluateHeldOut(a.scheme->point(), batches, a.held_out_rows, &log));
        absl::StatusOr<RoutingTrace> gathered = absl::UnknownError("not recorded");
        if (trace == nullptr) gathered = RecordedTrace(a, log, batches);
        if (trace == nullptr) RETURN_IF_ERROR(gathered.status());
        if (world.rank() != 0) return absl::OkStatus();
        outcome.loss = result.terms[0].value;
        if (trace == nullptr) outcome.trace = *std::move(gathered);
        return absl::OkStatus();
      };
      const absl::Status status = run();
      if (world.rank() == 0) first = status;
      return absl::OkStatus();  // all ranks agree
    });
    if (!first.ok()) outcome.status = first;
    return outcome;
  }

  std::string folder_;
};

TEST_F(RoutingReplayTest, GivesTheRecordedLossOnAnyNumberOfRanks) {
  const Outcome recorded = Evaluate(1, nullptr, 0), split = Evaluate(2, nullptr, 0);
  ASSERT_TRUE(recorded.status.ok() && split.status.ok()) << recorded.status << split.status;
  EXPECT_EQ(std::vector(split.trace->ids().begin(), split.trace->ids().end()),
            std::vector(recorded.trace->ids().begin(), recorded.trace->ids().end()));
  EXPECT_EQ(Evaluate(1, &*recorded.trace, 0).loss, recorded.loss);
  EXPECT_EQ(Evaluate(2, &*recorded.trace, 0).loss, split.loss);
  // Other experts for the same tokens: another loss.
  std::vector<int32_t> turned(recorded.trace->ids().begin(), recorded.trace->ids().end());
  for (int32_t& id : turned) id = (id + 1) % 4;
  const absl::StatusOr<RoutingTrace> other = RoutingTrace::Make(recorded.trace->header(), std::move(turned));
  ASSERT_TRUE(other.ok());
  EXPECT_NE(Evaluate(1, &*other, 0).loss, recorded.loss);
}

// A token of one rank lost an expert to a capacity: no rank waits for that rank's record.
TEST_F(RoutingReplayTest, OneRanksEmptySlotIsRefusedByAll) {
  const absl::StatusOr<LoadedConfig> loaded =
      LoadText(kReplayRun, {"data.sources[0].text.path=\"" + JoinPath(folder_, "text.txt") + "\"",
                            "data.cache_dir=\"" + JoinPath(folder_, "cache") + "\"", "parallel.expert=2"});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  std::vector<absl::Status> statuses(2);
  ASSERT_TRUE(RunRanks(2, [&](Communicator& world) -> absl::Status {
                Assembly a;
                RETURN_IF_ERROR(Assemble(loaded->config, world, RealFileSystem(), &a));
                RoutingLog log;
                std::vector<int32_t> ids = {1, world.rank() == 1 ? -1 : 2};
                for (int layer = 0; layer < 2; ++layer) log.Append(layer, Tensor(ids.data(), {1, 2}, DType::kI32));
                statuses[world.rank()] = GatherRouting(a, log, {}).status();
                return absl::OkStatus();
              }).ok());
  EXPECT_EQ(statuses[1].code(), absl::StatusCode::kFailedPrecondition) << statuses[1];
  EXPECT_NE(statuses[0].message().find("recording the routing failed on rank 1"), absl::string_view::npos) << statuses[0];
}

TEST_F(RoutingReplayTest, RefusesRecordsOfSomethingElse) {
  const Outcome three = Evaluate(1, nullptr, 3);
  ASSERT_TRUE(three.status.ok()) << three.status;
  const absl::Status longer = Evaluate(2, &*three.trace, 4).status;
  EXPECT_EQ(longer.code(), absl::StatusCode::kInvalidArgument) << longer;
  EXPECT_NE(longer.message().find("the trace holds 48 tokens, 4 held-out batches have 64"), std::string::npos) << longer;
  EXPECT_EQ(Evaluate(1, &*three.trace, 3, {"model.moe_lm.layers=3"}).status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Evaluate(1, nullptr, 3, {"model.moe_lm.moe.router=EXPERT_CHOICE"}).status.code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(RoutingReplayTest, RefusesRecordsOfOtherTokens) {
  const Outcome recorded = Evaluate(2, nullptr, 0);
  ASSERT_TRUE(recorded.status.ok()) << recorded.status;
  const TraceHeader& header = recorded.trace->header();
  EXPECT_EQ(header.step, 20);
  EXPECT_EQ(header.checkpoint, "00ff");
  EXPECT_EQ(header.batches.size(), 16u);
  EXPECT_EQ(Evaluate(1, nullptr, 0).trace->header(), header);  // however they are cut
  EXPECT_NE(Evaluate(1, nullptr, 3).trace->header().batches, header.batches);
  const std::vector<std::string> other = {"data.sources[0].text.path=\"" + JoinPath(folder_, "other.txt") + "\""};
  const absl::Status refused = Evaluate(2, &*recorded.trace, 0, other).status;
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << refused;
  EXPECT_NE(refused.message().find("the trace is of other tokens, with the digest " + header.batches), std::string::npos) << refused;
  // A file from before traces said so is taken on trust, a sample of training never.
  const auto of_batches = [&](const std::string& batches) {
    TraceHeader changed = header;
    changed.batches = batches;
    return *RoutingTrace::Make(changed, {recorded.trace->ids().begin(), recorded.trace->ids().end()});
  };
  const RoutingTrace unknown = of_batches(""), sampled = of_batches(kSampledBatches);
  EXPECT_EQ(Evaluate(2, &unknown, 0).loss, recorded.loss);
  EXPECT_TRUE(Evaluate(2, &unknown, 0, other).status.ok());
  EXPECT_NE(Evaluate(2, &sampled, 0).status.message().find("drawn from many batches"), absl::string_view::npos);
}

}  // namespace
}  // namespace conclave
