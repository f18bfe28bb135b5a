// Proven steps against their formulas, written out by hand.
#include "optim/step_size.h"

#include <cmath>

#include "comm/loopback.h"
#include "gtest/gtest.h"
#include "tests/optim/test_operators.h"

namespace conclave {
namespace {

constexpr double kLipschitz = 2, kMeanSquare = 3, kMu = 0.1;

absl::StatusOr<double> StepOf(const std::string& config, const OperatorConstants& constants) {
  Play play{.config = ParseConfig<OptimConfig>(config)};
  play.game.n = 8;
  double step = 0;
  RETURN_IF_ERROR(RunRanks(1, [&](Communicator& world) -> absl::Status {
    Stage stage(world, play);
    RETURN_IF_ERROR(stage.Open());
    ASSIGN_OR_RETURN(step, ProvableStep(play.config, constants, stage.context.exchange));
    return absl::OkStatus();
  }));
  return step;
}

const OperatorConstants kAll{.lipschitz = kLipschitz, .mean_square_lipschitz = kMeanSquare, .strong_monotonicity = kMu};

void ExpectStep(const std::string& config, double expected) {
  const auto step = StepOf(config, kAll);
  ASSERT_TRUE(step.ok()) << config << ": " << step.status();
  EXPECT_NEAR(*step, expected, 1e-12) << config;
}

double MashaStep(double cq, double p) { return std::min(std::sqrt(p / 2) / cq, p / (2 * kMu)); }

TEST(StepSizeTest, UncompressedMethodsTakeAShareOfOneOverL) {
  ExpectStep("extragradient {}", 0.9 / kLipschitz);
  ExpectStep("fbf {}", 0.9 / kLipschitz);
  ExpectStep("ogda {}", 0.45 / kLipschitz);
  ExpectStep("past_extragradient {}", 0.3 / kLipschitz);
  ExpectStep("reflected_gradient {}", 0.37 / kLipschitz);
  ExpectStep("anchored {}", 0.12 / kLipschitz);
  ExpectStep("gda {}", kMu / (kLipschitz * kLipschitz));
}

TEST(StepSizeTest, Masha1TakesItsCodecsFactor) {
  const auto masha = [](const std::string& codec, const std::string& more = "") {
    return "masha1 { p: 0.2 " + more + " exchange { quantized { codec { " + codec + " } } } }";
  };
  const double l = kLipschitz * kLipschitz, mean = kMeanSquare * kMeanSquare;
  ExpectStep("masha1 { p: 0.2 }", MashaStep(kLipschitz, 0.2));
  ExpectStep(masha("rand_k { fraction: 0.25 }"), MashaStep(std::sqrt(l + (4 - 1) / 4.0 * mean), 0.2));
  ExpectStep(masha("natural {}"), MashaStep(std::sqrt(l + 0.125 / 4 * mean), 0.2));
  ExpectStep(masha("perm_k {}"), MashaStep(std::sqrt(mean), 0.2));
  ExpectStep(masha("perm_k { values { natural {} } }"), MashaStep(std::sqrt(1.125 * mean), 0.2));
  ExpectStep(masha("rand_k { fraction: 0.25 common_mask: true }"), MashaStep(std::sqrt(4 * mean), 0.2));
  // A codec on the way back: its factor times all of that.
  const std::string served =
      "masha1 { p: 0.2 exchange { quantized { codec { rand_k { fraction: 0.25 } } } downlink { codec { natural {} } } } }";
  ExpectStep(served, MashaStep(std::sqrt(1.125 * (l + (4 - 1) / 4.0 * mean)), 0.2));
  // Two of four workers: (4 - 2) / (2 * 3) of the spread, and errors that average over two.
  ExpectStep(masha("rand_k { fraction: 0.25 }", "participants: 2"), MashaStep(std::sqrt(l + (1.0 / 3 + 3.0 / 2) * mean), 0.2));
  ExpectStep("masha1 { p: 0.8 }", std::sqrt(0.8) / kLipschitz);  // the strongly monotone case needs p <= 1/2
}

TEST(StepSizeTest, WithoutMonotonicityMasha1TakesTheMonotoneStep) {
  const auto step = StepOf("masha1 { p: 0.2 }", {.lipschitz = kLipschitz, .strong_monotonicity = 0});
  ASSERT_TRUE(step.ok()) << step.status();
  EXPECT_NEAR(*step, std::sqrt(0.2) / kLipschitz, 1e-12);
}

TEST(StepSizeTest, MissingConstantsAndProofsAreErrors) {
  EXPECT_EQ(StepOf("extragradient {}", {}).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(StepOf("gda {}", {.lipschitz = 1, .strong_monotonicity = 0}).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(StepOf("optimistic_masha { p: 0.5 }", kAll).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(StepOf("first_order { lr: 0.1 rule { sgd {} } }", kAll).status().code(), absl::StatusCode::kInvalidArgument);
  // Exact means are part of these proofs.
  for (const char* scheme : {"extragradient", "fbf", "ogda", "past_extragradient", "reflected_gradient", "anchored", "gda"}) {
    for (const char* exchange : {"quantized { codec { rand_k { fraction: 0.5 } } }", "ef21 { codec { top_k { fraction: 0.5 } } }",
                                 "quantized { codec { identity {} } } downlink { codec { natural {} } }"}) {
      const auto step = StepOf(absl::StrFormat("%s { exchange { %s } }", scheme, exchange), kAll);
      EXPECT_EQ(step.status().code(), absl::StatusCode::kInvalidArgument) << scheme << ' ' << exchange << ": " << step.status();
      EXPECT_NE(std::string(step.status().message()).find(absl::StrFormat("optim.%s.exchange", scheme)), std::string::npos)
          << step.status();
    }
  }
  ExpectStep("extragradient { exchange { quantized { codec { identity {} } } } }", 0.9 / kLipschitz);
  EXPECT_EQ(StepOf("masha1 { p: 0.5 exchange { quantized { codec { top_k { fraction: 0.5 } } } } }", kAll).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace conclave
