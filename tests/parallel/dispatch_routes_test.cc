// The routes of dispatch: the same results, other traffic, counted exactly.
#include <cmath>
#include <set>

#include <gtest/gtest.h>

#include "comm/loopback.h"
#include "parallel/dispatch_choice.h"
#include "parallel/expert_dispatch.h"
#include "tests/parallel/dispatch_case.h"

namespace conclave {
namespace {

constexpr std::array kAllRoutes = {DispatchConfig::FLAT, DispatchConfig::DEDUPLICATED, DispatchConfig::HIERARCHICAL,
                                   DispatchConfig::DEDUPLICATED_HIERARCHICAL};

TEST(DispatchRoutes, GiveTheSameBits) {
  for (DispatchCase c : CasesOfTwoNodes()) {
    SCOPED_TRACE(c.name);
    const auto flat = RunDispatch(c, DType::kF32);
    ASSERT_TRUE(flat.ok()) << flat.status();
    for (const DispatchConfig::Route route : kAllRoutes) {
      SCOPED_TRACE(DispatchConfig::Route_Name(route));
      c.route = route;
      const auto other = RunDispatch(c, DType::kF32);
      ASSERT_TRUE(other.ok()) << other.status();
      ExpectSameBits(*other, *flat);
    }
  }
}

// Sums by rank: the same bits for one or two experts a token; else within 2 g sum |w_s out_s|, checked in double against the oracle.
TEST(DispatchRoutes, SumsOnTheWayHome) {
  for (DispatchCase c : CasesOfTwoNodes()) {
    SCOPED_TRACE(c.name);
    const auto exact = RunDispatch(c, DType::kF32);
    ASSERT_TRUE(exact.ok()) << exact.status();
    const DispatchOutcome oracle = Oracle(c);
    c.pre_reduce = true;
    for (const DispatchConfig::Route route : kAllRoutes) {
      SCOPED_TRACE(DispatchConfig::Route_Name(route));
      c.route = route;
      const auto summed = RunDispatch(c, DType::kF32), wide = RunDispatch(c, DType::kF64);
      ASSERT_TRUE(summed.ok() && wide.ok()) << summed.status() << wide.status();
      if (c.top_k <= 2) ExpectSameBits(*summed, *exact);
      for (int r = 0; r < c.ranks(); ++r) {
        const auto near = [&](const std::vector<double>& got, const std::vector<double>& want, double tolerance) {
          for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], tolerance) << "rank " << r << " element " << i;
        };
        near(wide->ranks[r].y, oracle.ranks[r].y, 1e-13);
        near(wide->ranks[r].dx, oracle.ranks[r].dx, 1e-13);
        near(wide->ranks[r].dweights, oracle.ranks[r].dweights, 1e-13);
        // |w out| <= 5 here (products of numbers below 1, width 5): sum over k slots, u = 2^-24.
        const double g = (c.top_k - 1) * 0x1p-24 / (1 - (c.top_k - 1) * 0x1p-24);
        near(summed->ranks[r].y, exact->ranks[r].y, 2 * g * 5 * c.top_k);
      }
    }
  }
}

// Sums of first slots formed on the way are the beginnings of the sums at home.
TEST(DispatchRoutes, FoldingGivesTheSameBits) {
  for (DispatchCase c : CasesOfTwoNodes()) {
    SCOPED_TRACE(c.name);
    const auto flat = RunDispatch(c, DType::kF32);
    ASSERT_TRUE(flat.ok()) << flat.status();
    c.fold = true;
    for (const DispatchConfig::Route route : kAllRoutes) {
      SCOPED_TRACE(DispatchConfig::Route_Name(route));
      c.route = route;
      const auto folded = RunDispatch(c, DType::kF32);
      ASSERT_TRUE(folded.ok()) << folded.status();
      ExpectSameBits(*folded, *flat);
    }
  }
}

struct Counted {
  int64_t inside = 0, between = 0;
  bool operator==(const Counted&) const = default;
};

Counted SentRows(const WireReport& report, const std::string& label, int64_t row_bytes) {
  Counted c;
  for (const WireLine& line : report.lines) {
    if (line.label != label) continue;
    c.inside += line.links[static_cast<int>(LinkClass::kIntraNode)].sent_bytes / row_bytes;
    c.between += line.links[static_cast<int>(LinkClass::kInterNode)].sent_bytes / row_bytes;
  }
  return c;
}

// Rows on their way to experts, over all ranks, from the ids alone.
Counted RowsOf(const DispatchCase& c, DispatchConfig::Route route) {
  Counted rows;
  std::vector<int> local(c.ranks());
  for (int r = 0; r < c.ranks(); ++r) {
    for (int before = 0; before < r; ++before) local[r] += c.nodes[before] == c.nodes[r];
  }
  for (int r = 0; r < c.ranks(); ++r) {
    const std::vector<int32_t> ids = c.Ids(r);
    for (int64_t t = 0; t < c.tokens[r]; ++t) {
      std::vector<int> owners;
      for (int s = 0; s < c.top_k; ++s) {
        if (ids[t * c.top_k + s] >= 0) owners.push_back(c.Home(ids[t * c.top_k + s]));
      }
      if (SendsOnce(route)) {
        const std::set<int> distinct(owners.begin(), owners.end());
        owners.assign(distinct.begin(), distinct.end());
      }
      std::set<int> nodes;
      for (const int owner : owners) {
        const bool crosses = c.nodes[owner] != c.nodes[r];
        switch (route) {
          case DispatchConfig::HIERARCHICAL:
            rows.inside += local[owner] != local[r];
            rows.between += crosses;
            break;
          case DispatchConfig::DEDUPLICATED_HIERARCHICAL:
            rows.inside += local[owner] != local[r];
            if (crosses) nodes.insert(c.nodes[owner]);
            break;
          default:
            rows.inside += owner != r && !crosses;
            rows.between += crosses;
        }
      }
      rows.between += static_cast<int64_t>(nodes.size());
    }
  }
  return rows;
}

// Rows on their way home where first slots are folded: a row for the first slots that one rank (in two levels: node) has together, and one
// for every other copy; in two levels copies change their place in the node one by one.
Counted FoldedRowsOf(const DispatchCase& c, DispatchConfig::Route route) {
  Counted rows{.inside = InTwoLevels(route) ? RowsOf(c, DispatchConfig::HIERARCHICAL).inside : 0};
  for (int r = 0; r < c.ranks(); ++r) {
    const std::vector<int32_t> ids = c.Ids(r);
    for (int64_t t = 0; t < c.tokens[r]; ++t) {
      const auto place = [&](int s) {
        const int32_t id = ids[t * c.top_k + s];
        return id < 0 ? -1 : InTwoLevels(route) ? c.nodes[c.Home(id)] : c.Home(id);
      };
      int run = 0;
      while (run < c.top_k && place(run) >= 0 && place(run) == place(0)) ++run;
      for (int s = 0; s < c.top_k; ++s) {
        if (place(s) < 0 || (s > 0 && s < run)) continue;
        const int node = c.nodes[c.Home(ids[t * c.top_k + s])];
        rows.between += node != c.nodes[r];
        if (!InTwoLevels(route)) rows.inside += node == c.nodes[r] && place(s) != r;
      }
    }
  }
  return rows;
}

TEST(DispatchRoutes, FoldedRowsAreTheCountFromTheIds) {
  int64_t saved = 0;
  for (DispatchCase c : CasesOfTwoNodes()) {
    if (c.data > 1) continue;
    SCOPED_TRACE(c.name);
    c.fold = true;
    for (const DispatchConfig::Route route : {DispatchConfig::DEDUPLICATED, DispatchConfig::DEDUPLICATED_HIERARCHICAL}) {
      c.route = route;
      const auto got = RunDispatch(c, DType::kF32);
      ASSERT_TRUE(got.ok()) << got.status();
      Counted home, home_back;
      for (const DispatchOutcome::Rank& rank : got->ranks) {
        for (const auto& [report, sum] : {std::pair{&rank.forward, &home}, {&rank.backward, &home_back}}) {
          const Counted more = SentRows(*report, "combine rows", c.width * int64_t{sizeof(float)});
          sum->inside += more.inside, sum->between += more.between;
        }
      }
      EXPECT_EQ(home, FoldedRowsOf(c, route));
      EXPECT_EQ(home_back, home);
      saved += RowsOf(c, RouteHome(route, /*pre_reduce=*/false)).between - home.between;
    }
  }
  EXPECT_GT(saved, 0);
}

TEST(DispatchRoutes, RowsAreTheCountFromTheIds) {
  for (DispatchCase c : CasesOfTwoNodes()) {
    if (c.data > 1) continue;
    SCOPED_TRACE(c.name);
    for (const bool pre_reduce : {false, true}) {
      for (const DispatchConfig::Route route : kAllRoutes) {
        SCOPED_TRACE(DispatchConfig::Route_Name(route));
        c.route = route;
        c.pre_reduce = pre_reduce;
        const auto got = RunDispatch(c, DType::kF32);
        ASSERT_TRUE(got.ok()) << got.status();
        Counted out, home, out_back, home_back;
        const auto add = [&](Counted* sum, const WireReport& report, const char* label) {
          const Counted more = SentRows(report, label, c.width * int64_t{sizeof(float)});
          sum->inside += more.inside, sum->between += more.between;
        };
        for (const DispatchOutcome::Rank& rank : got->ranks) {
          add(&out, rank.forward, "dispatch rows"), add(&home, rank.forward, "combine rows");
          add(&out_back, rank.backward, "dispatch rows"), add(&home_back, rank.backward, "combine rows");
        }
        const Counted want = RowsOf(c, route), slots = RowsOf(c, RouteHome(route, /*pre_reduce=*/false));
        EXPECT_EQ(out, want);
        EXPECT_EQ(out_back, want);
        EXPECT_EQ(home.inside + home.between > 0, slots.inside + slots.between > 0);
        EXPECT_EQ(home, pre_reduce ? want : slots);
        EXPECT_EQ(home_back, pre_reduce ? want : slots);
      }
    }
  }
}

// Flat: every other rank; two levels: the others of the node, and one rank of each other node.
TEST(DispatchRoutes, MessagesOfARank) {
  DispatchCase c{.expert = 6, .experts = 12, .top_k = 12, .tokens = {2, 2, 2, 2, 2, 2}, .nodes = {0, 0, 1, 1, 2, 2}};
  for (const auto& [route, inside, between] : {std::tuple{DispatchConfig::FLAT, 1, 4},
                                               {DispatchConfig::DEDUPLICATED, 1, 4},
                                               {DispatchConfig::HIERARCHICAL, 1, 2},
                                               {DispatchConfig::DEDUPLICATED_HIERARCHICAL, 1, 2}}) {
    c.route = route;
    const auto got = RunDispatch(c, DType::kF32);
    ASSERT_TRUE(got.ok()) << got.status();
    for (const WireLine& line : got->ranks[3].forward.lines) {
      if (line.label != "dispatch rows") continue;
      EXPECT_EQ(line.links[static_cast<int>(LinkClass::kIntraNode)].sent_messages, inside) << DispatchConfig::Route_Name(route);
      EXPECT_EQ(line.links[static_cast<int>(LinkClass::kInterNode)].sent_messages, between) << DispatchConfig::Route_Name(route);
    }
  }
}

TEST(DispatchRoutes, TwoLevelsNeedEvenNodes) {
  DispatchCase c{
      .expert = 4, .experts = 8, .top_k = 2, .tokens = {1, 1, 1, 1}, .route = DispatchConfig::HIERARCHICAL, .nodes = {0, 0, 0, 1}};
  const auto got = RunDispatch(c, DType::kF32);
  EXPECT_EQ(got.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(got.status().message()).find("node 0 has 3 of its 4 ranks and node 1 has 1"), std::string::npos) << got.status();
}

// A lossy wire rounds every row, also of experts at home: no bit depends on the route, the placement or the number of ranks.
TEST(DispatchWires, DoNotDependOnWhereExpertsAre) {
  for (const DispatchConfig::Wire wire : {DispatchConfig::BF16, DispatchConfig::INT8, DispatchConfig::FP8}) {
    SCOPED_TRACE(DispatchConfig::Wire_Name(wire));
    DispatchCase c{.expert = 4, .experts = 8, .top_k = 3, .tokens = {9, 6, 0, 7}, .wire = wire, .nodes = {0, 0, 1, 1}, .width = 7};
    const auto flat = RunDispatch(c, DType::kF32);
    ASSERT_TRUE(flat.ok()) << flat.status();
    const DispatchOutcome oracle = Oracle(c);
    double worst = 0, largest = 0;
    for (int r = 0; r < 4; ++r) {
      for (size_t i = 0; i < oracle.ranks[r].y.size(); ++i) {
        worst = std::max(worst, std::abs(flat->ranks[r].y[i] - oracle.ranks[r].y[i]));
        largest = std::max(largest, std::abs(oracle.ranks[r].y[i]));
      }
    }
    EXPECT_GT(worst, 1e-6);  // it does round
    EXPECT_LT(worst, 0.2 * largest);
    for (const DispatchConfig::Route route : kAllRoutes) {
      c.route = route;
      for (const std::vector<int>& table : {std::vector<int>{}, {3, 0, 1, 2, 0, 1, 2, 3}}) {
        c.table = table;
        const auto other = RunDispatch(c, DType::kF32);
        ASSERT_TRUE(other.ok()) << other.status();
        ExpectSameBits(*other, *flat);
      }
    }
  }
  // One rank that holds all experts rounds just as two do.
  DispatchCase two{.expert = 2, .experts = 4, .top_k = 2, .tokens = {5, 0}, .wire = DispatchConfig::BF16};
  DispatchCase one{.expert = 1, .experts = 4, .top_k = 2, .tokens = {5}, .wire = DispatchConfig::BF16};
  const auto a = RunDispatch(two, DType::kF32), b = RunDispatch(one, DType::kF32);
  ASSERT_TRUE(a.ok() && b.ok()) << a.status() << b.status();
  EXPECT_EQ(a->ranks[0].y, b->ranks[0].y);
  EXPECT_EQ(a->ranks[0].dx, b->ranks[0].dx);
}

TEST(DispatchWires, BytesOfARow) {
  for (const auto& [wire, bytes] : {std::pair{DispatchConfig::BF16, 14}, {DispatchConfig::INT8, 9}, {DispatchConfig::FP8, 8}}) {
    const auto codec = RowCodec::Make(wire, 7, DType::kF32);
    ASSERT_TRUE(codec.ok()) << codec.status();
    EXPECT_EQ((*codec)->row_bytes(), bytes) << DispatchConfig::Wire_Name(wire);
  }
}

TEST(DispatchWires, WhatIsNotFiniteArrivesAsNaN) {
  for (const DispatchConfig::Wire wire : {DispatchConfig::BF16, DispatchConfig::INT8, DispatchConfig::FP8}) {
    const auto codec = RowCodec::Make(wire, 3, DType::kF32);
    ASSERT_TRUE(codec.ok()) << codec.status();
    Arena arena;
    std::vector<float> rows = {1, 2, 3, 4, NAN, 6, 1, INFINITY, 1, 0.5, 0.25, 0};
    const Tensor tensor(rows.data(), {4, 3}, DType::kF32);
    ASSERT_TRUE((*codec)->Round(arena, tensor).ok());
    for (int i = 0; i < 12; ++i) EXPECT_EQ(std::isnan(rows[i]), i / 3 == 1 || i / 3 == 2) << i;
    EXPECT_NEAR(rows[10], 0.25, 0.02);
  }
}

// The golden figures: 8 experts, 4 ranks, 2 experts a token: 1.5 rows each token, 39/28 where ranks share rows.
TEST(DispatchChoice, ExpectedRows) {
  const DispatchLoad load{.nodes = 1, .ranks_per_node = 4, .tokens = 28, .experts = 8, .top_k = 2};
  EXPECT_NEAR(ExpectedTraffic(load, DispatchConfig::FLAT).inside_rows, 28 * 1.5, 1e-12);
  EXPECT_NEAR(ExpectedTraffic(load, DispatchConfig::DEDUPLICATED).inside_rows, 39, 1e-12);
}

// Three ranks on two nodes: AUTO leaves out what needs even nodes, on every rank, and says so; a named route of two levels is an error.
TEST(DispatchChoice, UnevenNodesTakeARouteOfOneLevel) {
  std::vector<DispatchConfig::Route> routes(3);
  const auto create = [&](DispatchConfig::Route route) {
    return RunRanks(3, [&](Communicator& world) -> absl::Status {
      ASSIGN_OR_RETURN(const std::unique_ptr<Mesh> mesh, Mesh::Create(&world, {.data = 1, .expert = 3}));
      DispatchSetup::Request request{.config = {}, .width = 8, .tokens = 64, .experts = 6, .top_k = 2};
      request.config.set_route(route);
      request.config.set_ranks_per_node(2);
      ASSIGN_OR_RETURN(const std::unique_ptr<DispatchSetup> setup, DispatchSetup::Create(*mesh, request));
      EXPECT_EQ(setup->grid, nullptr);
      routes[world.rank()] = setup->route;
      return absl::OkStatus();
    });
  };
  ASSERT_EQ(create(DispatchConfig::AUTO), absl::OkStatus());
  EXPECT_TRUE(routes[0] == DispatchConfig::FLAT || routes[0] == DispatchConfig::DEDUPLICATED);
  EXPECT_TRUE(routes[1] == routes[0] && routes[2] == routes[0]);
  EXPECT_NE(create(DispatchConfig::HIERARCHICAL).message().find("as many ranks of the expert axis on every node"), std::string_view::npos);
  // Where two levels would win by far.
  DispatchLoad load{.nodes = 2, .ranks_per_node = 4, .tokens = 1024, .experts = 64, .top_k = 8, .row_bytes = 4096, .pre_reduce = true};
  load.inside = {1e-6, 1e10}, load.between = {1e-6, 1e7};
  EXPECT_TRUE(InTwoLevels(ChooseRoute(load).route));
  load.two_levels = false;
  EXPECT_FALSE(InTwoLevels(ChooseRoute(load).route));
  EXPECT_NE(ChooseRoute(load).reason.find("routes in two levels are left out"), std::string::npos);
}

// 1 in 7 tokens has both experts on one rank; what folding saves of the rows home is what the sets of experts say, in the mean.
TEST(DispatchChoice, ReckonsWithFoldedRows) {
  DispatchConfig config;
  config.set_fold(true);
  DispatchLoad load{.nodes = 1, .ranks_per_node = 4, .tokens = 28, .experts = 8, .top_k = 2, .config = &config};
  EXPECT_NEAR(ExpectedReturn(load, DispatchConfig::DEDUPLICATED).inside_rows, 28 * 1.5 - 28 * 0.75 / 7, 1e-12);
  EXPECT_NEAR(ExpectedReturn(load, DispatchConfig::FLAT).inside_rows, 28 * 1.5, 1e-12);  // does not fold
  load.nodes = 2, load.ranks_per_node = 2;
  const RouteTraffic two = ExpectedReturn(load, DispatchConfig::DEDUPLICATED_HIERARCHICAL);
  EXPECT_NEAR(two.between_rows, 28 * (2 - 3.0 / 7) / 2, 1e-12);  // 3 in 7 have both in one node
  EXPECT_NEAR(two.inside_rows, ExpectedTraffic(load, DispatchConfig::HIERARCHICAL).inside_rows, 1e-12);
  config.set_combine_forward(DispatchConfig::BF16);  // rows home are rounded one by one
  EXPECT_NEAR(ExpectedReturn(load, DispatchConfig::DEDUPLICATED_HIERARCHICAL).between_rows, 28, 1e-12);
  // Links between nodes that favour few rows: with folding the route that shares them is the cheaper one, without it is not.
  load = {.nodes = 2, .ranks_per_node = 4, .tokens = 1024, .experts = 16, .top_k = 8, .row_bytes = 4096, .config = &config};
  load.inside = {0, 2e8}, load.between = {0, 1e8};
  config.clear_combine_forward();
  const double folded = ExpectedSeconds(load, DispatchConfig::DEDUPLICATED_HIERARCHICAL);
  config.set_fold(false);
  EXPECT_GT(ExpectedSeconds(load, DispatchConfig::DEDUPLICATED_HIERARCHICAL), folded);
}

TEST(DispatchChoice, FollowsTheLinks) {
  DispatchLoad load{.nodes = 2, .ranks_per_node = 4, .tokens = 1024, .experts = 64, .top_k = 8, .row_bytes = 4096, .pre_reduce = true};
  load.inside = {1e-6, 1e10};
  load.between = {1e-5, 25e6};  // slow links between nodes: one row a node
  EXPECT_EQ(ChooseRoute(load).route, DispatchConfig::DEDUPLICATED_HIERARCHICAL);
  load.tokens = 1;
  load.row_bytes = 4;
  load.between = {1e-2, 1e10};  // messages cost, bytes do not
  EXPECT_NE(ChooseRoute(load).route, DispatchConfig::FLAT);
  EXPECT_NE(ChooseRoute(load).route, DispatchConfig::DEDUPLICATED);
  load.top_k = 1;  // nothing to share, one level: the simplest
  load.nodes = 1;
  EXPECT_EQ(ChooseRoute(load).route, DispatchConfig::FLAT);
}

TEST(DispatchChoice, AutoTakesOneForAllRanks) {
  DispatchCase c{.expert = 4, .experts = 8, .top_k = 2, .tokens = {9, 6, 0, 7}, .nodes = {0, 0, 1, 1}};
  const auto flat = RunDispatch(c, DType::kF32);
  c.route = DispatchConfig::AUTO;
  const auto chosen = RunDispatch(c, DType::kF32);
  ASSERT_TRUE(flat.ok() && chosen.ok()) << flat.status() << chosen.status();
  ExpectSameBits(*chosen, *flat);
}

}  // namespace
}  // namespace conclave
