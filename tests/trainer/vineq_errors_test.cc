// What a config of a compressed method can get wrong: refused with the reason, before anything is evaluated.
#include <gtest/gtest.h>

#include "comm/loopback.h"
#include "tests/trainer/config_fixture.h"
#include "trainer/assembly.h"
#include "trainer/config_codecs.h"

namespace conclave {
namespace {

constexpr char kProblem[] = R"(name: "game"
trainer { steps: 6 workers: 4 global_batch: 0 }
model { bilinear_game { dim: 8 lambda: 0.1 } }
)";

// By loading the config, or by making its parts.
absl::Status Refusal(const std::string& optim) {
  const absl::StatusOr<LoadedConfig> loaded = LoadText(kProblem + ("optim { " + optim + " }\n"));
  RETURN_IF_ERROR(loaded.status());
  return RunRanks(1, [&](Communicator& world) -> absl::Status {
    Assembly assembly;
    return Assemble(loaded->config, world, RealFileSystem(), &assembly);
  });
}

TEST(VineqErrors, BadInputIsRefusedBeforeAnythingRuns) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"masha1 { gamma: 0.1 p: 0.5 exchange { quantized { codec { top_k { fraction: 0.5 } } } } }", "biased"},
      {"masha1 { gamma: 0.1 p: 0.5 exchange { ef14 { codec { top_k { fraction: 0.5 } } } } }", "optim.masha1.exchange"},
      {"masha2 { gamma: 0.1 p: 0.5 exchange { quantized { codec { rand_k { fraction: 0.5 } } } } }", "optim.masha2.exchange"},
      {"masha2 { gamma: 0.1 p: 0.5 exchange { ef14 { codec { rand_k { fraction: 0.5 } } } } }", "contractive"},
      {"masha2 { gamma: 0.1 p: 0.5 exchange { ef14 { codec { top_k { fraction: 0.5 } } } } } prox { l1 { weight: 1 } }", "prox"},
      {"optimistic_masha { gamma: 0.1 p: 0.5 exchange { quantized { codec { top_k { fraction: 0.5 } } } } }", "biased"},
      {"masha1 { gamma: 0.1 p: 0 }", "p"},
      {"masha1 { gamma: 0.1 p: 1.5 }", "p"},
      {"masha1 { gamma: 0 p: 1 }", "gamma"},
      {"masha1 { gamma: 0.1 p: 0.5 participants: 5 }", "participants"},
      {"masha1 { gamma: 0.1 p: 0.5 exchange { quantized { codec { rand_k { fraction: 0 } } } } }", "fraction"},
      {"masha1 { gamma: 0.1 p: 0.5 exchange { quantized { codec { rand_k { fraction: 1.5 } } } } }", "fraction"},
      {"masha1 { gamma: 0.1 p: 0.5 exchange { quantized { codec { block_int { bits: 8 block: 0 } } } } }", "block"},
      {"masha1 { gamma: 0.1 p: 0.5 exchange { quantized { codec { no_such_codec {} } } } }", "no_such_codec"},
      {"proxskip { gamma: 0.1 p: 0.5 } prox { l2_ball { radius: 1 } }", "skips the prox of consensus"},
  };
  for (const auto& [optim, expected] : cases) {
    const absl::Status status = Refusal(optim);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << optim << ": " << status;
    EXPECT_NE(std::string(status.message()).find(expected), std::string::npos) << optim << ": " << status;
  }
}

// Sampled operators have no proven step but with variance reduction, whose proof needs a constant that is not known.
TEST(VineqErrors, StepsOfSampledOperatorsAreNotProven) {
  const auto load = [](const std::string& optim, int batch) {
    const std::string text = absl::StrFormat(
        "name: \"game\"\ntrainer { steps: 6 workers: 2 global_batch: 0 }\nmodel { auc_saddle { dim: 4 rows: 16 batch: %d lambda: 0.1 } }\n"
        "optim { step: PROVABLE %s }\n",
        batch, optim);
    const absl::StatusOr<LoadedConfig> loaded = LoadText(text);
    RETURN_IF_ERROR(loaded.status());
    return RunRanks(1, [&](Communicator& world) -> absl::Status {
      Assembly assembly;
      return Assemble(loaded->config, world, RealFileSystem(), &assembly);
    });
  };
  for (const std::string optim : {"extragradient {}", "ogda {}", "masha1 { p: 0.25 }"}) {
    const absl::Status refused = load(optim, 4);
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << optim;
    for (const char* part : {"x.textproto:4:9: error: no constant step is proven", "AUTO_TUNE", "model.auc_saddle.batch"}) {
      EXPECT_NE(std::string(refused.message()).find(part), std::string::npos) << refused;
    }
    EXPECT_TRUE(load(optim, 0).ok()) << load(optim, 0);  // all rows
  }
  const absl::Status unknown = load("masha1 { p: 0.25 variance_reduced: true }", 4);
  EXPECT_NE(std::string(unknown.message()).find("mean-square Lipschitz constant, which no model declares"), std::string::npos) << unknown;
}

// A block of fewer coordinates than workers cannot be dealt out.
TEST(VineqErrors, MoreWorkersThanCoordinatesAreRefused) {
  const absl::StatusOr<LoadedConfig> loaded =
      LoadText(std::string(kProblem) + "optim { masha1 { gamma: 0.1 p: 0.5 exchange { quantized { codec { perm_k {} } } } } }\n",
               {"trainer.workers=9"});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const absl::Status status = RunRanks(1, [&](Communicator& world) -> absl::Status {
    Assembly assembly;
    return Assemble(loaded->config, world, RealFileSystem(), &assembly);
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_NE(std::string(status.message()).find("perm_k"), std::string::npos) << status;
}

// What only the blocks of the model tell is found in the config's text as well, wherever the codec stands in it.
TEST(VineqErrors, CodecsThatBlocksRefuseHaveAPlace) {
  const std::pair<std::string, std::string> cases[] = {
      {"quantized { codec { perm_k {} } }", "x.textproto:4:67: error: quantized exchange, block x"},
      {"quantized { codec { blockwise { otherwise { perm_k {} } } } }", "x.textproto:4:67: error: quantized exchange, block x"},
      {"ef21 { codec { low_rank {} } }", "x.textproto:4:62: error: ef21 exchange, block x"},
      {"hierarchical { workers_per_group: 3 exchange { quantized { codec { perm_k {} } } } }", ""},
      {"quantized { codec { rand_k { fraction: 0.5 } } }", ""},
  };
  for (const auto& [exchange, expected] : cases) {
    const absl::StatusOr<LoadedConfig> loaded =
        LoadText(kProblem + ("optim { extragradient { gamma: 0.1 exchange { " + exchange + " } } }\n"), {"trainer.workers=9"});
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    const auto model = MakeModel(loaded->config.model(), {.workers = 9});
    ASSERT_TRUE(model.ok()) << model.status();
    const absl::Status found = CheckCodecsOf(*loaded, (*model)->parameters());
    EXPECT_EQ(found.ok(), expected.empty()) << exchange << ": " << found;
    EXPECT_NE(std::string(found.message()).find(expected), std::string::npos) << exchange << ": " << found;
  }
}

}  // namespace
}  // namespace conclave
