// What each layer moves: to the byte what the ledger books, and what the trace of the same tokens says.
#include "base/strings.h"
#include "tests/trainer/text_run.h"
#include "trainer/layer_report.h"
#include "trainer/run_folder.h"
#include "trainer/stop_signal.h"
#include "trainer/trainer.h"

namespace conclave {
namespace {

constexpr char kTrafficConfig[] = R"(name: "traffic"
trainer { steps: 4 workers: 4 global_batch: 8 eval { every: 2 batches: 1 } }
optim { first_order { lr: 0.01 rule { adamw {} } } }
model { moe_lm { layers: 2 width: 16 heads: 2 moe { experts: 8 top_k: 2 hidden: 8 } } }
parallel { expert: 4 numerics: WORLD_SIZE_INVARIANT }
observe { routing_window: 2 routing_tokens: 4096 }
data { sources { text {} } validation_fraction: 0.2 }
)";

const std::vector<std::string> kRandomMoves = {"parallel.rebalance.every=2", "parallel.rebalance.after_step=1",
                                               "parallel.rebalance.hysteresis=0", "parallel.rebalance.placement.random.seed=4"};

class LayerTrafficTest : public TextRunTest {
 protected:
  struct Run {
    std::vector<std::string> overrides;
    int ranks = 4;
    std::vector<int> nodes = {0, 0, 1, 1};  // by rank
  };
  struct Window {
    std::vector<LayerReport> layers;
    TrafficPrediction::Bytes ledger;  // of dispatch and combine rows, all ranks
  };

  // The windows of a run, by step.
  absl::StatusOr<std::map<int64_t, Window>> Windows(const Run& run) {
    ASSIGN_OR_RETURN(const Experiment config, Config(kTrafficConfig, run.overrides));
    const RunFolder folder(&RealFileSystem(), JoinPath(folder_, absl::StrFormat("run-%d", runs_++)));
    RETURN_IF_ERROR(RealFileSystem().CreateDirs(folder.path()));
    const StopRequests stop(&RealFileSystem(), "", 0);
    RETURN_IF_ERROR(RunRanks(
        run.ranks,
        [&](Communicator& world) -> absl::Status {
          Assembly a;
          RETURN_IF_ERROR(Assemble(config, world, RealFileSystem(), &a));
          ASSIGN_OR_RETURN(const auto trainer, Trainer::Create(&a, &world, {.files = &RealFileSystem(), .folder = &folder, .stop = &stop}));
          return trainer->Run().status();
        },
        {.nodes = run.nodes}));
    ASSIGN_OR_RETURN(const std::string metrics, RealFileSystem().ReadAll(folder.Metrics()));
    std::map<int64_t, Window> windows;
    for (const std::string& line : SplitString(metrics, '\n')) {
      if (line.find("\"layers\":") == std::string::npos) continue;
      ASSIGN_OR_RETURN(const JsonValue value, ParseJson(line));
      ASSIGN_OR_RETURN(const int64_t step, value.Find("step")->AsInt64());
      Window& window = windows[step];
      ASSIGN_OR_RETURN(window.layers, LayerReportsOf(value));
      for (const char* way : {"dispatch", "combine"}) {
        const auto number = [&](const char* link) {
          return *value.Find("routing")->Find(absl::StrFormat("%s_bytes_%s", way, link))->AsDouble();
        };
        window.ledger.inside += number("inside"), window.ledger.between += number("between");
      }
    }
    return windows;
  }

  // Both laws, and that something crossed both kinds of links. exact: the prediction is.
  void ExpectLaws(const Run& run, bool exact = true) {
    const auto windows = Windows(run);
    ASSERT_TRUE(windows.ok()) << windows.status();
    ASSERT_EQ(windows->size(), 2u);
    for (const auto& [step, window] : *windows) {
      ASSERT_EQ(window.layers.size(), 2u);
      RowCount sum;
      for (const LayerReport& layer : window.layers) {
        const RowCount& measured = layer.measured.rows.bytes;
        sum += measured;
        EXPECT_GT(measured.between, 0) << step;
        EXPECT_GT(measured.inside, 0) << step;
        ASSERT_TRUE(layer.predicted);
        if (!exact) continue;
        EXPECT_EQ(layer.predicted->inside, static_cast<double>(measured.inside)) << step;
        EXPECT_EQ(layer.predicted->between, static_cast<double>(measured.between)) << step;
      }
      EXPECT_EQ(static_cast<double>(sum.inside), window.ledger.inside) << step;
      EXPECT_EQ(static_cast<double>(sum.between), window.ledger.between) << step;
      EXPECT_NE(window.layers[0].measured, window.layers[1].measured) << step;
    }
  }

  static std::vector<std::string> With(std::vector<std::string> a, const std::vector<std::string>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }

 private:
  int runs_ = 0;
};

TEST_F(LayerTrafficTest, IsTheLedgersAndTheTraces) {
  for (const char* route : {"FLAT", "DEDUPLICATED", "HIERARCHICAL", "DEDUPLICATED_HIERARCHICAL"}) {
    SCOPED_TRACE(route);
    const std::vector<std::string> with_route = {std::string("parallel.dispatch.route=") + route};
    ExpectLaws({.overrides = with_route});
    ExpectLaws({.overrides = With(with_route, kRandomMoves)});
    ExpectLaws({.overrides = With(with_route, {"model.moe_lm.moe.combine_order=PRE_REDUCE"})});
  }
}

// Two data columns of four ranks on two nodes each.
TEST_F(LayerTrafficTest, SumsUpDataColumns) {
  const std::vector<std::string> two = {"parallel.data=2", "trainer.workers=8", "parallel.dispatch.route=DEDUPLICATED_HIERARCHICAL"};
  ExpectLaws({.overrides = With(two, kRandomMoves), .ranks = 8, .nodes = {0, 0, 1, 1, 0, 0, 1, 1}});
}

TEST_F(LayerTrafficTest, CountsCodedRowsPiecesAndLeavesThatAreRecordedTwice) {
  for (const std::vector<std::string>& more :
       {std::vector<std::string>{"parallel.dispatch.dispatch_forward=FP8", "parallel.dispatch.combine_backward=BF16"},
        {"parallel.dispatch.pieces=3", "parallel.dispatch.route=DEDUPLICATED"},
        {"model.recompute=BLOCKS", "parallel.dispatch.route=HIERARCHICAL"},
        {"trainer.micro_batches=2", "trainer.workers=4"}}) {
    SCOPED_TRACE(more[0]);
    ExpectLaws({.overrides = more});
  }
  ExpectLaws({.overrides = {"parallel.dispatch.route=DEDUPLICATED", "parallel.dispatch.fold=true"}}, /*exact=*/false);
}

// A sample of the tokens gives an estimate; one rank, and ranks that share no expert, move nothing.
TEST_F(LayerTrafficTest, OfASampleIsNearAndOfNoOneIsNothing) {
  const auto sampled = Windows({.overrides = {"observe.routing_tokens=64"}});
  ASSERT_TRUE(sampled.ok()) << sampled.status();
  bool differs = false;
  for (const auto& [step, window] : *sampled) {
    for (const LayerReport& layer : window.layers) {
      const auto measured = static_cast<double>(layer.measured.rows.bytes.between);
      EXPECT_NEAR(layer.predicted->between, measured, 0.25 * measured) << step;
      differs = differs || layer.predicted->between != measured;
    }
  }
  EXPECT_TRUE(differs);
  for (const int ranks : {1, 2}) {
    const auto alone = Windows({.overrides = {"parallel.expert=1"}, .ranks = ranks, .nodes = std::vector<int>(ranks)});
    ASSERT_TRUE(alone.ok()) << alone.status();
    ASSERT_EQ(alone->size(), 2u);
    for (const auto& [step, window] : *alone) {
      for (const LayerReport& layer : window.layers) {
        EXPECT_EQ(layer.measured, LayerTraffic());
        EXPECT_EQ(layer.predicted->inside + layer.predicted->between, 0);
      }
    }
  }
}

TEST(LayerReport, TablesSayWhatIsKnown) {
  LayerReport known, unknown;
  known.predicted = {.inside = 1.5e6, .between = 2.5e6};
  known.measured.rows.bytes = {.inside = 1250000, .between = 2750000};
  known.measured.rest.bytes = {.inside = 1000, .between = 2000};
  unknown.measured.rows.bytes = {.inside = 250000, .between = 250000};
  const std::vector<LayerReport> layers = {known, unknown};
  const std::string table = TrafficTable("title", layers);
  EXPECT_NE(table.find("0              2.500       2.750       1.500       1.250       0.003\n"), std::string::npos) << table;
  EXPECT_NE(table.find("1                  -       0.250           -       0.250       0.000\n"), std::string::npos) << table;
  EXPECT_NE(table.find("all                -       3.000           -       1.500       0.003\n"), std::string::npos) << table;
}

}  // namespace
}  // namespace conclave
