#include "parallel/expert_placement.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace conclave {
namespace {

TEST(ExpertPlacement, ContiguousRunsAndTheirInverse) {
  const std::vector<int> experts = {8, 4};
  const auto placement = ExpertPlacement::Contiguous(experts, 4);
  ASSERT_TRUE(placement.ok()) << placement.status();
  EXPECT_EQ(placement->layers(), 2);
  EXPECT_EQ(placement->slots(0), 2);
  EXPECT_EQ(placement->slots(1), 1);
  for (int e = 0; e < 8; ++e) {
    EXPECT_EQ(placement->coordinate(0, e), e / 2);
    EXPECT_EQ(placement->slot(0, e), e % 2);
  }
  for (int layer = 0; layer < 2; ++layer) {
    for (int e = 0; e < experts[layer]; ++e) {
      EXPECT_EQ(placement->expert_at(layer, placement->coordinate(layer, e), placement->slot(layer, e)), e);
    }
  }
}

TEST(ExpertPlacement, SlotsAscendWithTheLogicalId) {
  const auto placement = ExpertPlacement::FromTable({{1, 0, 1, 0, 0, 1}}, 2);
  ASSERT_TRUE(placement.ok()) << placement.status();
  const int slots[] = {0, 0, 1, 1, 2, 2};
  for (int e = 0; e < 6; ++e) EXPECT_EQ(placement->slot(0, e), slots[e]) << "expert " << e;
  const int at_one[] = {0, 2, 5};
  for (int s = 0; s < 3; ++s) EXPECT_EQ(placement->expert_at(0, 1, s), at_one[s]);
}

TEST(ExpertPlacement, RefusesWhatDoesNotBalance) {
  const std::vector<int> six = {6};
  const absl::Status uneven = ExpertPlacement::Contiguous(six, 4).status();
  EXPECT_EQ(uneven.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(uneven.message()).find("6 experts cannot be split evenly over an expert axis of 4"), std::string::npos) << uneven;
  EXPECT_EQ(ExpertPlacement::FromTable({{0, 0, 0, 1}}, 2).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ExpertPlacement::FromTable({{0, 2}}, 2).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ExpertPlacement::FromTable({{0, -1}}, 2).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ExpertPlacement::FromTable({{0, 1, 0}}, 2).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ExpertPlacement, TokensFindTheNearestCopyAndLeavesTakeTurns) {
  const std::vector<int> nodes = {0, 0, 1, 1};
  // Expert 0 of rank 0 also at 1 and 2; expert 3 of rank 3 also at 0.
  const auto placement = ExpertPlacement::FromTables({.owners = {{0, 1, 2, 3}}, .copies = {{{1, 2}, {}, {}, {0}}}}, 4, nodes);
  ASSERT_TRUE(placement.ok()) << placement.status();
  const auto host = [&](int expert, int source, int64_t leaf) { return placement->PlaceOf(0, expert, source, leaf).coordinate; };
  for (int64_t leaf = 0; leaf < 6; ++leaf) {
    for (int source = 0; source < 3; ++source) EXPECT_EQ(host(0, source, leaf), source) << "it is there";
    EXPECT_EQ(host(0, 3, leaf), 2) << "on the same node";
    EXPECT_EQ(host(3, 1, leaf), 0);
    EXPECT_EQ(host(3, 2, leaf), 3);
    EXPECT_EQ(host(1, 3, leaf), 1);
  }
  EXPECT_EQ(host(0, 3, -1), 0) << "no leaf: the owner";
  EXPECT_EQ(placement->held(0, 0), 2);
  EXPECT_EQ(placement->held(0, 3), 1);
  EXPECT_EQ(placement->slots(0), 2);
  EXPECT_EQ(placement->expert_at(0, 0, 1), 3) << "copies behind owned ones";
  EXPECT_EQ(placement->Shares(0, 0), (std::vector<double>{0.25, 0.25, 0.5, 0}));
}

// Rows by host, with one leaf a rank and all ranks sending alike: even in every turn, the shares exactly over as many turns as there are
// hosts.
TEST(ExpertPlacement, FewLeavesShareCopiesOutEvenly) {
  constexpr int kAxis = 12, kTurns = 12, kExperts = 24;
  ExpertTables tables{.owners = {{}}, .copies = {{}}};
  for (int e = 0; e < kExperts; ++e) {
    tables.owners[0].push_back(e / 2);
    std::vector<int>& copies = tables.copies[0].emplace_back();
    for (int c = 1; c <= e % 3; ++c) copies.push_back((e / 2 + 4 * c) % kAxis);
    std::ranges::sort(copies);
  }
  for (const std::vector<int>& nodes : {std::vector<int>{}, std::vector<int>{0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3}}) {
    const auto placement = ExpertPlacement::FromTables(tables, kAxis, nodes);
    ASSERT_TRUE(placement.ok()) << placement.status();
    for (int e = 0; e < kExperts; ++e) {
      const std::vector<double> shares = placement->Shares(0, e);
      std::vector<int64_t> rows(kAxis);
      for (int64_t turn = 0; turn < kTurns; ++turn) {
        std::vector<int64_t> now(kAxis);
        for (int source = 0; source < kAxis; ++source) ++now[placement->PlaceOf(0, e, source, turn).coordinate];
        for (int host = 0; host < kAxis; ++host) {
          EXPECT_LT(std::abs(static_cast<double>(now[host]) - kAxis * shares[host]), 2) << e << " in turn " << turn;
          rows[host] += now[host];
        }
      }
      for (int host = 0; host < kAxis; ++host) EXPECT_NEAR(static_cast<double>(rows[host]), kTurns * kAxis * shares[host], 1e-9) << e;
    }
  }
}

TEST(ExpertPlacement, RefusesCopiesThatCannotBe) {
  const auto message = [](const std::vector<int>& copies) {
    return std::string(ExpertPlacement::FromTables({.owners = {{0, 1}}, .copies = {{copies, {}}}}, 2).status().message());
  };
  EXPECT_EQ(message({1}), "");
  for (const std::vector<int>& wrong : {std::vector<int>{0}, {2}, {-1}, {1, 1}}) {
    EXPECT_NE(message(wrong).find("layer 0 expert 0: a copy on coordinate"), std::string::npos) << message(wrong);
  }
  EXPECT_FALSE(ExpertPlacement::FromTables({.owners = {{0, 1}}, .copies = {{{1}}}}, 2).ok());
  const auto none = ExpertPlacement::FromTables({.owners = {{0, 1}}, .copies = {{{}, {}}}}, 2);
  ASSERT_TRUE(none.ok());
  EXPECT_FALSE(none->has_copies());
}

// Replicated blocks everywhere; an expert's blocks on the ranks of its coordinate. Every block is canonical on exactly one rank.
TEST(PlanLayout, OwnersFollowThePlacement) {
  ParameterSet parameters;
  const BlockId shared = parameters.Add({.name = "shared", .shape = {3}});
  std::vector<BlockId> experts;
  for (int e = 0; e < 4; ++e) {
    experts.push_back(
        parameters.Add({.name = "expert" + std::to_string(e), .shape = {2, 5}, .kind = BlockKind::kExpert, .expert = e, .moe_layer = 0}));
  }
  const auto placement = ExpertPlacement::FromTable({{1, 0, 0, 1}}, 2);
  ASSERT_TRUE(placement.ok());
  const MeshShape shape{.data = 2, .expert = 2};
  std::vector<int> canonical(parameters.size(), 0);
  for (int rank = 0; rank < 4; ++rank) {
    const Layout layout = PlanLayout(&parameters, shape, rank, *placement);
    EXPECT_TRUE(layout.is_local(shared));
    EXPECT_EQ(layout.home(shared).owners, (std::vector<int>{0, 1, 2, 3}));
    for (int e = 0; e < 4; ++e) {
      const int coordinate = placement->coordinate(0, e);
      EXPECT_EQ(layout.is_local(experts[e]), rank % 2 == coordinate) << "rank " << rank << " expert " << e;
      EXPECT_EQ(layout.home(experts[e]).owners, (std::vector<int>{coordinate, 2 + coordinate}));
    }
    EXPECT_EQ(layout.local_blocks().size(), 3u);
    for (int b = 0; b < parameters.size(); ++b) canonical[b] += layout.is_canonical({b});
  }
  for (const int count : canonical) EXPECT_EQ(count, 1);
}

}  // namespace
}  // namespace conclave
