#include "optim/norm.h"

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "base/rng.h"
#include "comm/loopback.h"
#include "gtest/gtest.h"
#include "optim/gap.h"
#include "tests/optim/test_operators.h"

namespace conclave {
namespace {

ParameterSet Model() {
  ParameterSet parameters;
  parameters.Add({.name = "dense.weight", .shape = {90, 100}});  // more than two chunks
  parameters.Add({.name = "blocks.0.router.weight", .shape = {7}});
  for (int e = 0; e < 4; ++e) {
    parameters.Add(
        {.name = absl::StrFormat("blocks.0.experts.%d.w1", e), .shape = {5000}, .kind = BlockKind::kExpert, .expert = e, .moe_layer = 0});
  }
  return parameters;
}

// Experts one a rank in turn, every one on `copies` ranks; the rest everywhere.
Layout Spread(const ParameterSet* parameters, int rank, int ranks, int copies) {
  std::vector<BlockHome> homes = {{.owners = {}}, {.owners = {}}};
  for (int r = 0; r < ranks; ++r) {
    for (int i = 0; i < 2; ++i) homes[i].owners.push_back(r);
  }
  homes[1].canonical = ranks - 1;
  for (int e = 0; e < 4; ++e) {
    BlockHome home{.canonical = e % ranks};
    for (int r = 0; r < ranks; ++r) {
      if ((r - e % ranks + ranks) % ranks < copies) home.owners.push_back(r);
    }
    homes.push_back(home);
  }
  return Layout(parameters, rank, std::move(homes));
}

void FillRandom(const FlatVector& v) {
  for (const BlockId id : v.layout().local_blocks()) {
    const auto values = v.block(id).span<float>();
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(RngKey{.site = static_cast<uint32_t>(id.value)}.Normal(i));
  }
}

struct Case {
  int ranks, copies;
  bool note = false;  // every other block while it is "formed", before it is spoilt
};

// All four norms; fails where ranks disagree.
absl::StatusOr<VectorNorms> Measure(Case c, const std::function<bool(BlockId)>& counts = {}) {
  std::vector<VectorNorms> found(c.ranks);
  const ParameterSet parameters = Model();
  RETURN_IF_ERROR(RunRanks(c.ranks, [&](Communicator& world) -> absl::Status {
    const Layout layout = Spread(&parameters, world.rank(), c.ranks, c.copies);
    FlatVector v(&layout, DType::kF32);
    FillRandom(v);
    LogicalNorm norm(&layout, &world, counts);
    for (const BlockId id : layout.local_blocks()) {
      if (!c.note || id.value % 2 == 0) continue;
      norm.Note(id, v.block(id));
      v.block(id).Zero();
    }
    ASSIGN_OR_RETURN(found[world.rank()], norm.Of(v));
    if (!c.note) return absl::OkStatus();
    ASSIGN_OR_RETURN(const VectorNorms again, norm.Of(v));  // nothing is noted any more
    if (again.router != 0 || !(again.total < found[world.rank()].total)) return Internal("a note outlived Of");
    return absl::OkStatus();
  }));
  for (const VectorNorms& other : found) {
    if (other.total != found[0].total || other.expert != found[0].expert) return Internal("ranks disagree");
  }
  return found[0];
}

TEST(LogicalNormTest, HasEqualBitsForEveryLayout) {
  const auto one = Measure({1, 1});
  ASSERT_TRUE(one.ok()) << one.status();
  for (const Case c : {Case{2, 1}, Case{2, 2}, Case{3, 1}, Case{3, 2}, Case{4, 1}, Case{4, 4}, Case{1, 1, true}, Case{3, 2, true}}) {
    const auto many = Measure(c);
    ASSERT_TRUE(many.ok()) << many.status();
    EXPECT_EQ(one->total, many->total) << c.ranks << ' ' << c.copies;
    EXPECT_EQ(one->dense, many->dense) << c.ranks << ' ' << c.copies;
    EXPECT_EQ(one->router, many->router) << c.ranks << ' ' << c.copies;
    EXPECT_EQ(one->expert, many->expert) << c.ranks << ' ' << c.copies;
  }
}

TEST(LogicalNormTest, AgreesWithAPlainSum) {
  const auto norms = Measure({3, 2});
  ASSERT_TRUE(norms.ok()) << norms.status();
  const ParameterSet parameters = Model();
  long double dense = 0, router = 0, expert = 0;
  for (int b = 0; b < parameters.size(); ++b) {
    long double sum = 0;
    for (int64_t i = 0; i < parameters[{b}].shape.elements(); ++i) {
      const float x = static_cast<float>(RngKey{.site = static_cast<uint32_t>(b)}.Normal(i));
      sum += static_cast<long double>(x) * x;
    }
    (b == 0 ? dense : b == 1 ? router : expert) += sum;
  }
  EXPECT_NEAR(norms->dense, std::sqrt(static_cast<double>(dense)), 1e-12 * norms->dense);
  EXPECT_NEAR(norms->router, std::sqrt(static_cast<double>(router)), 1e-12 * norms->router);
  EXPECT_NEAR(norms->expert, std::sqrt(static_cast<double>(expert)), 1e-12 * norms->expert);
  EXPECT_NEAR(norms->total, std::sqrt(static_cast<double>(dense + router + expert)), 1e-12 * norms->total);
}

TEST(LogicalNormTest, LeavesOutWhatDoesNotCount) {
  const auto all = Measure({2, 1}), some = Measure({2, 1}, [](BlockId id) { return id.value != 0; });
  ASSERT_TRUE(all.ok() && some.ok());
  EXPECT_EQ(some->dense, 0);
  EXPECT_NEAR(some->total, std::hypot(all->router, all->expert), 1e-12 * all->total);
}

TEST(LogicalNormTest, OneBadElementReachesEveryRank) {
  const ParameterSet parameters = Model();
  ASSERT_TRUE(RunRanks(3, [&](Communicator& world) -> absl::Status {
                const Layout layout = Spread(&parameters, world.rank(), 3, 1);
                FlatVector v(&layout, DType::kF32);
                const BlockId last{5};  // the expert of rank 0 alone
                if (layout.is_local(last)) v.block(last).data<float>()[4999] = std::numeric_limits<float>::quiet_NaN();
                LogicalNorm norm(&layout, &world);
                ASSIGN_OR_RETURN(const VectorNorms norms, norm.Of(v));
                EXPECT_TRUE(std::isnan(norms.total)) << world.rank();
                EXPECT_EQ(norms.dense, 0);
                return absl::OkStatus();
              }).ok());
}

TEST(GapMeasuresTest, AreZeroAtSolutionsOnly) {
  const Play play{.game = {.experts = 2, .lambda = 0.5}, .ranks = 2};
  const absl::Status status = RunRanks(2, [&](Communicator& world) -> absl::Status {
    Stage stage(world, play);
    RETURN_IF_ERROR(stage.Open());
    GapMeasures gap(stage.context.exchange);
    FlatVector solution(stage.layout.get(), DType::kF64), away(stage.layout.get(), DType::kF64);
    stage.game->Solution(solution);
    away.CopyFrom(solution);
    if (stage.layout->is_local({0})) away.block({0}).data<double>()[2] += 3;
    const auto zero = MakeProx({}, stage.parameters);
    ASSIGN_OR_RETURN(const double distance, gap.Distance(away, solution));
    ASSIGN_OR_RETURN(const double at_solution, gap.GradientMapping(*stage.game, **zero, solution, {}, 0.3));
    ASSIGN_OR_RETURN(const double outside, gap.GradientMapping(*stage.game, **zero, away, {}, 0.05));
    ASSIGN_OR_RETURN(const double mapping, gap.GradientMapping(*stage.game, **zero, away, {}, 0.3));
    EXPECT_DOUBLE_EQ(distance, 3);
    EXPECT_LT(at_solution, 1e-14);
    // A step of 3 in x_2 moves F by 3 lambda there, by -3 sigma_2 in y_2, and by 0.3 in element 2 of both experts.
    EXPECT_NEAR(outside, std::sqrt(std::pow(3 * 0.5, 2) + std::pow(3 * stage.game->Sigma(2), 2) + 2 * 0.09), 1e-12);
    EXPECT_NEAR(mapping, outside, 1e-12);
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
}

}  // namespace
}  // namespace conclave
