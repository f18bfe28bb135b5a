// What the metrics say of a mixture. What each layer moves: to the byte what the ledger books, and what the trace of the same tokens says.
// Balance by layer, and norms of routers, experts and all else.
#include "base/strings.h"
#include "tests/trainer/state_fields.h"
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

class MixtureMetricsTest : public TextRunTest {
 protected:
  struct Run {
    std::vector<std::string> overrides;
    int ranks = 4;
    std::vector<int> nodes = {0, 0, 1, 1};  // by rank
  };

  // Metrics of a whole run. after: on every rank at its end; may be null.
  absl::StatusOr<std::string> Metrics(const Run& run, const std::function<void(Assembly&)>& after = nullptr) {
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
          RETURN_IF_ERROR(trainer->Run().status());
          if (after) after(a);
          return absl::OkStatus();
        },
        {.nodes = run.nodes}));
    return RealFileSystem().ReadAll(folder.Metrics());
  }

 private:
  int runs_ = 0;
};

class LayerTrafficTest : public MixtureMetricsTest {
 protected:
  struct Window {
    std::vector<LayerReport> layers;
    TrafficPrediction::Bytes ledger;  // of dispatch and combine rows, all ranks
  };

  // The windows of a run, by step.
  absl::StatusOr<std::map<int64_t, Window>> Windows(const Run& run) {
    ASSIGN_OR_RETURN(const std::string metrics, Metrics(run));
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
};

// A number of the lines of metrics, by step; steps that lack it are left out.
std::map<int64_t, double> Numbers(const std::string& metrics, const std::string& group, const std::string& name) {
  std::map<int64_t, double> numbers;
  for (const std::string& line : SplitString(metrics, '\n')) {
    const auto value = ParseJson(line);
    if (!value.ok() || value->Find("step") == nullptr) continue;
    const JsonValue* const members = group.empty() ? &*value : value->Find(group);
    const JsonValue* const number = members == nullptr ? nullptr : members->Find(name);
    if (number != nullptr) numbers[*value->Find("step")->AsInt64()] = *number->AsDouble();
  }
  return numbers;
}

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

// Nodes of one and three ranks; of two columns that lie on them otherwise.
TEST_F(LayerTrafficTest, KnowsUnevenNodes) {
  const std::vector<std::string> once = {"parallel.dispatch.route=DEDUPLICATED"};
  ExpectLaws({.overrides = With(once, kRandomMoves), .nodes = {0, 1, 1, 1}});
  ExpectLaws({.overrides = With(once, {"parallel.data=2", "trainer.workers=8"}), .ranks = 8, .nodes = {0, 1, 1, 1, 0, 0, 1, 2}});
}

// Ranks and leaves take turns with the copies of an expert; a trace knows the turn of each token. Nodes of four ranks, so that some choose.
TEST_F(LayerTrafficTest, FollowsCopiesOfExperts) {
  for (const char* route : {"FLAT", "DEDUPLICATED_HIERARCHICAL"}) {
    const Run run{.overrides = With(kRandomMoves, {"parallel.rebalance.replicas=1", "parallel.expert=8", "trainer.workers=16",
                                                   "trainer.global_batch=16", std::string("parallel.dispatch.route=") + route}),
                  .ranks = 8,
                  .nodes = {0, 0, 0, 0, 1, 1, 1, 1}};
    ExpectLaws(run);
    const auto metrics = Metrics(run);
    ASSERT_TRUE(metrics.ok()) << metrics.status();
    EXPECT_GT(Numbers(*metrics, "placement", "copies")[2], 0) << *metrics;
  }
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

TEST_F(MixtureMetricsTest, PartsOfNormsAddUpAndAreThoseOfAnyRanks) {
  const std::vector<std::string> overrides = {"trainer.log_every=2", "model.moe_lm.moe.balance_loss=0.01"};
  std::map<std::string, double> squares;  // of the weights at the end
  std::string alone;
  for (const int ranks : {1, 2, 4}) {
    std::vector<std::string> more = overrides;
    more.push_back(absl::StrFormat("parallel.expert=%d", ranks));
    const auto metrics = Metrics({.overrides = more, .ranks = ranks, .nodes = std::vector<int>(ranks)}, [&](Assembly& a) {
      if (ranks > 1) return;
      for (const BlockId id : a.layout->local_blocks()) {
        const std::string& name = a.model->parameters()[id].name;
        const char* part = name.find(".experts.") != std::string::npos ? "experts"
                           : name.find("router") != std::string::npos  ? "router"
                                                                       : "dense";
        for (const float x : a.scheme->point().block(id).span<float>()) squares[part] += double{x} * x;
      }
    });
    ASSERT_TRUE(metrics.ok()) << metrics.status();
    std::string states;
    for (const std::string& line : SplitString(*metrics, '\n')) states += std::string(StateFields(line)) + "\n";
    if (ranks == 1) alone = states;
    EXPECT_EQ(states, alone) << ranks;
    const auto whole = Numbers(*metrics, "", "gradient_norm"), weights = Numbers(*metrics, "extra", "parameter_norm");
    ASSERT_EQ(whole.size(), 4u);
    ASSERT_EQ(weights.size(), 2u);
    EXPECT_TRUE(weights.contains(2) && weights.contains(4));
    for (const auto& [of, sums] : {std::pair{"gradient_norm", &whole}, {"parameter_norm", &weights}}) {
      for (const auto& [step, sum] : *sums) {
        double parts = 0;
        for (const char* part : {"router", "experts", "dense"}) {
          const double norm = Numbers(*metrics, "extra", absl::StrFormat("%s.%s", of, part)).at(step);
          EXPECT_GT(norm, 0) << of << part << step;
          parts += norm * norm;
          if (sums != &weights || step < 4) continue;
          EXPECT_NEAR(norm * norm, squares[part], 1e-12 * squares[part]) << part;
        }
        EXPECT_NEAR(parts, sum * sum, 1e-13 * parts) << of << step;
      }
    }
  }
}

// Routing in turn loads all experts alike, so a layer's balance is 1 whatever the probabilities are.
TEST_F(MixtureMetricsTest, BalanceByLayerAddsUp) {
  for (const bool even : {false, true}) {
    const auto metrics = Metrics({.overrides = {"model.moe_lm.moe.balance_loss=0.01", "model.moe_lm.moe.z_loss=0",
                                                absl::StrFormat("model.moe_lm.moe.selection=%s", even ? "ROUND_ROBIN" : "BY_SCORE")}});
    ASSERT_TRUE(metrics.ok()) << metrics.status();
    const auto sum = Numbers(*metrics, "terms", "balance"), first = Numbers(*metrics, "terms", "balance.0"),
               second = Numbers(*metrics, "terms", "balance.1");
    ASSERT_EQ(sum.size(), 4u);
    for (const auto& [step, value] : sum) {
      EXPECT_NEAR(first.at(step) + second.at(step), value, 1e-12) << step;
      EXPECT_NEAR(first.at(step), 1, even ? 1e-6 : 0.5) << step;
      EXPECT_EQ(std::abs(first.at(step) - second.at(step)) < 1e-6, even) << step;
      // The objective counts each once.
      const double loss = Numbers(*metrics, "terms", "loss").at(step);
      EXPECT_NEAR(Numbers(*metrics, "", "objective").at(step), loss + 0.01 * value, 1e-12) << step;
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
