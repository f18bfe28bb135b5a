// What a trace says that a layer moves, against what moved.
#include "parallel/traffic_prediction.h"

#include <functional>

#include <gtest/gtest.h>

#include "comm/loopback.h"
#include "parallel/dispatch_route.h"
#include "tests/parallel/dispatch_case.h"

namespace conclave {
namespace {

struct MeshOnNodes {
  MeshShape shape;
  std::vector<int> nodes;  // by rank
};

// Runs `look` on rank 0 of a mesh.
void OnMesh(const MeshOnNodes& m, const std::function<void(const Mesh&)>& look) {
  const absl::Status status = RunRanks(m.shape.data * m.shape.expert,
                                       [&](Communicator& world) -> absl::Status {
                                         ASSIGN_OR_RETURN(const std::unique_ptr<Mesh> mesh, Mesh::Create(&world, m.shape));
                                         if (world.rank() == 0) look(*mesh);
                                         return world.Barrier("end");
                                       },
                                       {.nodes = m.nodes});
  ASSERT_TRUE(status.ok()) << status;
}

// The trace of all tokens of a case, what its layer moved, and what the trace says.
struct Traffic {
  LayerTraffic measured;
  TrafficPrediction::Bytes predicted;
};

Traffic TrafficOf(const DispatchCase& c) {
  Traffic traffic;
  const auto run = RunDispatch(c, DType::kF32);
  EXPECT_TRUE(run.ok()) << run.status();
  if (!run.ok()) return traffic;
  std::vector<int32_t> ids;
  std::vector<TrafficPrediction::Source> sources;
  PlacementTable owners(1);
  for (int e = 0; e < c.experts; ++e) owners[0].push_back(c.Home(e));
  const auto placement = ExpertPlacement::FromTable(owners, c.expert);
  EXPECT_TRUE(placement.ok()) << placement.status();
  for (int r = 0; r < c.ranks(); ++r) {
    const std::vector<int32_t> mine = c.Ids(r);
    ids.insert(ids.end(), mine.begin(), mine.end());
    sources.insert(sources.end(), c.tokens[r], {.home = r});
    traffic.measured += run->ranks[r].traffic;
  }
  const auto trace = RoutingTrace::Make({.experts = c.experts, .layers = 1, .top_k = c.top_k}, ids);
  EXPECT_TRUE(trace.ok()) << trace.status();
  OnMesh({{.data = c.data, .expert = c.expert}, c.nodes}, [&](const Mesh& mesh) {
    const auto prediction = TrafficPrediction::For(mesh, {.route = c.route, .top_k = c.top_k});
    ASSERT_TRUE(prediction);
    traffic.predicted = prediction->Of(*trace, sources, *placement, {traffic.measured})[0];
  });
  return traffic;
}

TEST(TrafficPrediction, OfTheTokensThatWentIsWhatTheyMoved) {
  int64_t inside = 0, between = 0;
  for (DispatchCase c : CasesOfTwoNodes()) {
    if (c.holes || c.name == "none") continue;
    SCOPED_TRACE(c.name);
    for (const bool pre_reduce : {false, true}) {
      for (const DispatchConfig::Wire wire : {DispatchConfig::EXACT, DispatchConfig::INT8}) {
        for (const auto& [two_levels, once] : {std::pair{false, false}, {false, true}, {true, false}, {true, true}}) {
          c.route = RouteOf(two_levels, once), c.pre_reduce = pre_reduce, c.wire = wire;
          SCOPED_TRACE(DispatchConfig::Route_Name(c.route));
          const Traffic traffic = TrafficOf(c);
          EXPECT_EQ(traffic.predicted.inside, static_cast<double>(traffic.measured.rows.bytes.inside));
          EXPECT_EQ(traffic.predicted.between, static_cast<double>(traffic.measured.rows.bytes.between));
          inside += traffic.measured.rows.bytes.inside, between += traffic.measured.rows.bytes.between;
        }
      }
    }
  }
  EXPECT_GT(inside, 0);
  EXPECT_GT(between, 0);
}

// Nodes with unequal numbers of ranks, of which columns may have unequal numbers, too.
TEST(TrafficPrediction, OfUnevenNodesIsWhatTheyMoved) {
  for (const DispatchCase& uneven :
       {DispatchCase{.name = "one column", .expert = 4, .experts = 8, .top_k = 3, .tokens = {9, 6, 5, 7}, .nodes = {0, 1, 1, 1}},
        DispatchCase{.name = "three nodes", .expert = 4, .experts = 8, .top_k = 3, .tokens = {9, 6, 5, 7}, .nodes = {0, 1, 2, 1}},
        DispatchCase{.name = "columns", .data = 2, .expert = 2, .experts = 4, .top_k = 2, .tokens = {4, 6, 5, 7}, .nodes = {0, 1, 1, 1}},
        DispatchCase{.name = "columns of three", .data = 2, .expert = 2, .experts = 4, .tokens = {4, 6, 5, 7}, .nodes = {0, 0, 0, 1}}}) {
    SCOPED_TRACE(uneven.name);
    for (const bool once : {false, true}) {
      DispatchCase c = uneven;
      c.route = RouteOf(/*two_levels=*/false, once);
      const Traffic traffic = TrafficOf(c);
      EXPECT_EQ(traffic.predicted.inside, static_cast<double>(traffic.measured.rows.bytes.inside));
      EXPECT_EQ(traffic.predicted.between, static_cast<double>(traffic.measured.rows.bytes.between));
      EXPECT_GT(traffic.predicted.inside, 0);
      EXPECT_GT(traffic.predicted.between, 0);
    }
  }
}

// The order of a token's experts is drawn: the prediction, which knows the set alone, is the mean over all orders.
TEST(TrafficPrediction, OfFoldedRowsIsTheirMean) {
  for (const bool two_levels : {false, true}) {
    DispatchCase c{.expert = 4, .experts = 8, .top_k = 3, .tokens = {300, 300, 300, 300}, .nodes = {0, 1, 0, 1}};
    c.route = RouteOf(two_levels, /*once=*/true);
    const Traffic plain = TrafficOf(c);
    c.fold = true;
    const Traffic folded = TrafficOf(c);
    const auto total = [](const TrafficPrediction::Bytes& bytes) { return bytes.inside + bytes.between; };
    const double saved = static_cast<double>(plain.measured.rows.bytes.between - folded.measured.rows.bytes.between +
                                             plain.measured.rows.bytes.inside - folded.measured.rows.bytes.inside);
    EXPECT_GT(saved, 0);
    EXPECT_NEAR(total(plain.predicted) - total(folded.predicted), saved, 0.1 * saved);
  }
}

TEST(TrafficPrediction, SaysNothingWhereATraceCannotTell) {
  const auto tells = [](const MeshOnNodes& m, const TrafficPrediction::Dispatch& dispatch) {
    bool found = false;
    OnMesh(m, [&](const Mesh& mesh) { found = TrafficPrediction::For(mesh, dispatch).has_value(); });
    return found;
  };
  EXPECT_TRUE(tells({{.data = 2, .expert = 2}, {0, 1, 0, 1}}, {}));
  EXPECT_TRUE(tells({{.data = 2, .expert = 2}, {0, 0, 1, 1}}, {}));
  EXPECT_TRUE(tells({{.data = 2, .expert = 2}, {0, 1, 1, 1}}, {}));  // columns differ
  EXPECT_TRUE(tells({{.data = 1, .expert = 4}, {0, 1, 1, 1}}, {}));  // uneven
  EXPECT_FALSE(tells({{.data = 1, .expert = 4}, {0, 0, 0, 0}}, {.top_k = RoutingTrace::kMostExperts / 2}));
  const TrafficPrediction::Dispatch levels{.route = DispatchConfig::HIERARCHICAL};
  EXPECT_FALSE(tells({{.data = 2, .expert = 4}, {0, 0, 1, 1, 0, 1, 0, 1}}, levels));
  EXPECT_FALSE(tells({{.data = 1, .expert = 4}, {0, 1, 1, 1}}, levels));
  const TrafficPrediction::Dispatch halves{.route = DispatchConfig::HIERARCHICAL, .ranks_per_node = 2};
  EXPECT_TRUE(tells({{.data = 1, .expert = 4}, {0, 0, 1, 1}}, halves));
  EXPECT_TRUE(tells({{.data = 1, .expert = 4}, {0, 0, 0, 0}}, halves));
  EXPECT_FALSE(tells({{.data = 1, .expert = 4}, {0, 1, 0, 1}}, halves));  // other nodes than the transport's
}

}  // namespace
}  // namespace conclave
