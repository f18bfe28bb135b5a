#include "launch/contest.h"

#include <gtest/gtest.h>

#include <cmath>

#include "launch/svg_plot.h"
#include "trainer/config_loader.h"

namespace conclave {
namespace {

using Words = std::vector<std::string>;

constexpr const char* kConfig = "configs/games/bilinear_masha1.textproto";

std::string PathOf(const std::string& config) { return std::string(CONCLAVE_SOURCE_DIR) + "/" + config; }

TEST(GridAxis, ValuesMayHoldBracesAndRangesAreGeometric) {
  const auto plain = ParseGridAxis("optim.*.exchange={ exact {} },{ quantized { codec { qsgd { levels: 4 } } } }");
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->path, "optim.*.exchange");
  EXPECT_EQ(plain->values, (Words{"{ exact {} }", "{ quantized { codec { qsgd { levels: 4 } } } }"}));
  const auto range = ParseGridAxis("optim.*.gamma=0.1..1.6/5,3");
  ASSERT_TRUE(range.ok()) << range.status();
  EXPECT_EQ(range->values, (Words{"0.1", "0.2", "0.4", "0.8", "1.6", "3"}));
  for (const char* bad : {"gamma", "=1", "gamma=", "gamma=1..2", "gamma=2..1/3", "gamma=0..1/3", "gamma=1..2/1"}) {
    EXPECT_EQ(ParseGridAxis(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(GridAxis, AStarIsTheChosenMember) {
  const auto loaded = LoadConfig(PathOf(kConfig), {});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(ResolvePath(loaded->config, "optim.*.gamma"), "optim.masha1.gamma");
  EXPECT_EQ(ResolvePath(loaded->config, "optim.*.exchange.*.codec.*.fraction"), "optim.masha1.exchange.quantized.codec.rand_k.fraction");
  EXPECT_EQ(ResolvePath(loaded->config, "trainer.workers"), "trainer.workers");
  EXPECT_EQ(ResolvePath(loaded->config, "optim.*.alpha"), "");
  EXPECT_EQ(ResolvePath(loaded->config, "optim.ogda.gamma"), "");  // another scheme's
}

TEST(Contest, TuningTakesTheCheapestAndSeesEdges) {
  const Entrant entrant{"eg", PathOf("configs/games/bilinear_extragradient.textproto"), {"model.bilinear_game.dim=8"}};
  ContestOptions options{.race = {.target = 1e-6, .max_evaluations = 4000}, .seeds = 3};
  options.tuned = {*ParseGridAxis("optim.*.gamma=0.01,0.3,0.7,5"), *ParseGridAxis("optim.*.p=0.1,0.2")};
  const auto tuned = RunEntrant(entrant, options);
  ASSERT_TRUE(tuned.ok()) << tuned.status();
  EXPECT_EQ(tuned->settings, (Words{"optim.extragradient.gamma=0.7"}));  // extragradient has no p
  EXPECT_EQ(tuned->candidates, 4);
  EXPECT_FALSE(tuned->at_edge);
  EXPECT_TRUE(tuned->exact);
  EXPECT_EQ(tuned->reached(), 3);
  options.tuned = {*ParseGridAxis("optim.*.gamma=0.1,0.3")};
  const auto coarse = RunEntrant(entrant, options);
  ASSERT_TRUE(coarse.ok()) << coarse.status();
  EXPECT_TRUE(coarse->at_edge);
  EXPECT_GT(MedianGain(*coarse, *tuned, &RaceCosts::two_way_bytes), 1.2);
  EXPECT_EQ(MedianGain(*tuned, *tuned, &RaceCosts::evaluations), 1);
}

TEST(Contest, WhatNeverArrivesHasNoMedian) {
  const auto result = RunEntrant({"gda", PathOf("configs/games/bilinear_gda.textproto"), {"model.bilinear_game.dim=8"}},
                                 {.race = {.max_evaluations = 2000}, .seeds = 2});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->reached(), 0);
  EXPECT_TRUE(std::isinf(result->Median(&RaceCosts::evaluations)));
  EXPECT_EQ(MedianGain(*result, *result, &RaceCosts::evaluations), 0);
}

TEST(SvgPlot, PointsStandWhereTheAxesSay) {
  const std::string svg = RenderPlot({.title = "a < b", .x_label = "bytes", .y_label = "distance", .log_x = true},
                                     {{.name = "one", .x = {1, 10, 100, 0}, .y = {1, 0.1, 0.01, 5}}, {.name = "empty"}});
  EXPECT_NE(svg.find("points=\"80.0,40.0 340.0,250.0 600.0,460.0 \""), std::string::npos) << svg;
  EXPECT_NE(svg.find("a &lt; b"), std::string::npos);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
}

}  // namespace
}  // namespace conclave
