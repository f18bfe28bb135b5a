// A token embedding cut by columns over the expert axis.
#include <cmath>

#include "base/crc32c.h"
#include "tests/trainer/laws.h"
#include "trainer/memory_plan.h"

#include <gtest/gtest.h>

namespace conclave {
namespace {

constexpr char kUnclipped[] = " parallel { numerics: WORLD_SIZE_INVARIANT } optim { clip_norm: 0 }";

// Values that depend on a block's name and on the place in it alone; the parts of the embedding are columns of the whole one.
void NameValues(const ParameterSet& parameters, FlatVector& point) {
  constexpr std::string_view kPart = "embedding.parts.";
  const auto value = [](uint32_t name, int64_t i) {
    const RngKey key{.seed = 5, .site = name & 0xFFFFFF, .kind = RngKind::kTest};
    return static_cast<float>(0.2 * key.UniformDouble(static_cast<uint64_t>(i)) - 0.1);
  };
  for (const BlockId id : point.layout().local_blocks()) {
    const BlockSpec& spec = parameters[id];
    const bool part = spec.name.starts_with(kPart);
    const std::string name = part ? "embedding.weight" : spec.name;
    const uint32_t crc = ExtendCrc32c(0, std::as_bytes(std::span(name.data(), name.size())));
    const std::span<float> values = point.block(id).span<float>();
    for (int64_t i = 0; i < static_cast<int64_t>(values.size()); ++i) {
      const int64_t width = spec.shape[-1];
      values[i] = value(crc, part ? i / width * 16 + spec.expert * width + i % width : i);
    }
  }
}

ModelRun InParts(int parts) {
  ModelRun run = SmallMixture(kUnclipped, absl::StrFormat("tied_head: false embedding_parts: %d", parts));
  run.prepare = NameValues;
  return run;
}

TEST(EmbeddingParts, TrainAsTheWholeOnEverySplit) {
  const auto whole = RunModel(InParts(1));
  ASSERT_TRUE(whole.ok()) << whole.status();
  const std::vector<double> table = whole->Doubles("embedding.weight");
  for (const int parts : {2, 4, 16}) {
    for (const auto& split : {std::pair{1, 1}, {1, 2}, {2, 2}, {2, 1}, {1, 4}}) {
      if (parts % split.second != 0) continue;
      SCOPED_TRACE(absl::StrFormat("%d parts, ", parts) + NameOfSplit(split));
      ModelRun run = InParts(parts);
      std::tie(run.data, run.expert) = split;
      const auto got = RunModel(run);
      ASSERT_TRUE(got.ok()) << got.status();
      for (size_t step = 0; step < got->reports.size(); ++step) {
        EXPECT_TRUE(SameBits(got->reports[step].evaluation.objective, whole->reports[step].evaluation.objective)) << "step " << step;
      }
      const int64_t width = 16 / parts;
      for (int p = 0; p < parts; ++p) {
        const std::vector<double> part = got->Doubles(absl::StrFormat("embedding.parts.%d.weight", p));
        for (int64_t i = 0; i < static_cast<int64_t>(part.size()); ++i) {
          ASSERT_EQ(part[i], table[i / width * 16 + p * width + i % width]) << "part " << p << ", element " << i;
        }
      }
      for (const auto& [name, bytes] : whole->parameters) {
        if (name == "embedding.weight") continue;
        EXPECT_TRUE(got->parameters.at(name) == bytes) << name;
      }
    }
  }
}

TEST(EmbeddingParts, WithoutInvarianceASplitKeepsToItsTolerance) {
  ModelRun run = SmallMixture("optim { clip_norm: 0 }", "tied_head: false embedding_parts: 4");
  const auto alone = RunModel(run);
  run.expert = 4;
  const auto split = RunModel(run);
  ASSERT_TRUE(alone.ok() && split.ok()) << alone.status() << split.status();
  EXPECT_NEAR(split->loss(), alone->loss(), 1e-5 * std::abs(alone->loss()));
}

// A rank holds its columns, of parameters and of moments, and no others.
TEST(EmbeddingParts, ARankHoldsItsColumnsOnly) {
  ModelRun run = SmallMixture("", "vocab_size: 512 tied_head: false embedding_parts: 4");
  run.source = [] { return std::make_unique<RandomTokens>(RandomTokens::Options{.vocabulary = 512}); };
  run.expert = 4;
  int64_t bytes[2] = {0, 0};
  for (int cut = 0; cut < 2; ++cut) {
    if (cut == 0) run.config += " model { moe_lm { embedding_parts: 1 } }";
    if (cut == 1) run.config += " model { moe_lm { embedding_parts: 4 } }";
    const absl::Status status = RunRanks(run.ranks(), [&](Communicator& world) -> absl::Status {
      Assembly a;
      RETURN_IF_ERROR(BuildRun(run, world, &a));
      if (world.rank() == 0) bytes[cut] = a.layout->flat_elements() * 4;
      return absl::OkStatus();
    });
    ASSERT_TRUE(status.ok()) << status;
  }
  EXPECT_EQ(bytes[0] - bytes[1], 512 * 12 * 4);
}

}  // namespace
}  // namespace conclave
