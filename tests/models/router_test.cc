// The router's laws: selection, ties, weights, losses.
#include <cmath>
#include <limits>
#include <set>

#include <gtest/gtest.h>

#include "models/model.h"
#include "models/modules/mixture.h"
#include "models/routing_log.h"
#include "tests/tensor/gradient_check.h"

namespace conclave {
namespace {

// Of no parameters, for router logits given as numbers.
class LogitsAlone final : public Model {
 public:
  LogitsAlone() { terms_ = {{"loss"}}; }
  SampleShape sample_shape() const override { return {}; }
  absl::Status Record(Recorder&) const override { return absl::OkStatus(); }
};

struct RouterRun {
  LogitsAlone model;
  Arena arena;
  Tape tape{&arena, /*gradients=*/false};
  Recorder recorder;

  explicit RouterRun(RoutingLog* log = nullptr) : recorder({.tape = &tape, .model = &model, .routing_log = log}) {}

  Routing Route(const std::vector<double>& logits, const RouterOptions& options, std::span<const float> bias = {}) {
    const int64_t n = static_cast<int64_t>(logits.size()) / options.experts;
    const Tensor values = arena.New({n, options.experts}, DType::kF64);
    std::ranges::copy(logits, values.data<double>());
    auto routing = RecordRouter(recorder, tape.Constant(values), options, 3, bias);
    EXPECT_TRUE(routing.ok()) << routing.status();
    return *routing;
  }
  std::vector<int> Ids(const Routing& routing) const {
    const auto ids = routing.ids.span<int32_t>();
    return {ids.begin(), ids.end()};
  }
  std::vector<double> Values(Var v) const {
    const auto values = tape.value(v).span<double>();
    return {values.begin(), values.end()};
  }
};

std::vector<RouterOptions> SoftmaxKinds(int experts, int top_k) {
  return {{.experts = experts, .top_k = top_k},
          {.experts = experts, .top_k = top_k, .renormalize = false},
          {.experts = experts, .top_k = top_k, .kind = MoeConfig::SOFTMAX_POST}};
}

std::vector<RouterOptions> AllKinds(int experts, int top_k) {
  std::vector<RouterOptions> kinds = SoftmaxKinds(experts, top_k);
  kinds.push_back({.experts = experts, .top_k = top_k, .kind = MoeConfig::SIGMOID, .scale = 1.5});
  kinds.push_back({.experts = experts, .top_k = top_k, .kind = MoeConfig::SIGMOID, .renormalize = false});
  return kinds;
}

// Every expert gets as many slots as any other, a token's experts are different ones and far apart, and weights are still the scores'.
TEST(Router, InTurnLoadsAreEqual) {
  for (RouterOptions options : AllKinds(4, 2)) {
    options.in_turn = true;
    RouterRun run;
    const Routing routing = run.Route({9, 0, 0, 0, 9, 0, 0, 0, 9, 0, 0, 0, 9, 0, 0, 0}, options);
    EXPECT_EQ(run.Ids(routing), (std::vector<int>{0, 2, 1, 3, 2, 0, 3, 1}));
    EXPECT_GT(run.Values(routing.weights)[0], run.Values(routing.weights)[1]);
  }
}

TEST(Router, EqualScoresGoToTheLowerExpert) {
  for (const RouterOptions& options : AllKinds(4, 3)) {
    RouterRun run;
    EXPECT_EQ(run.Ids(run.Route({1, 3, 3, 2, 5, 5, 5, 5, -1, 0, -1, -1}, options)), (std::vector<int>{1, 2, 3, 0, 1, 2, 1, 0, 2}));
  }
}

TEST(Router, SlotsDescendAndWeightsFollow) {
  const std::vector<double> logits = {0.1, 2.0, -1.0, 0.7, 0.3, 0.2, 0.9, -0.4};
  for (const RouterOptions& options : SoftmaxKinds(4, 2)) {
    RouterRun run;
    const Routing routing = run.Route(logits, options);
    const std::vector<int> ids = run.Ids(routing);
    EXPECT_EQ(ids, (std::vector<int>{1, 3, 2, 0}));
    const std::vector<double> weights = run.Values(routing.weights), p = run.Values(routing.probabilities);
    for (int t = 0; t < 2; ++t) {
      double all = 0, selected = 0;
      for (int e = 0; e < 4; ++e) all += std::exp(logits[t * 4 + e]);
      for (int s = 0; s < 2; ++s) selected += std::exp(logits[t * 4 + ids[t * 2 + s]]);
      for (int e = 0; e < 4; ++e) EXPECT_NEAR(p[t * 4 + e], std::exp(logits[t * 4 + e]) / all, 1e-15);
      const double divisor = options.renormalize || options.kind == MoeConfig::SOFTMAX_POST ? selected : all;
      for (int s = 0; s < 2; ++s) EXPECT_NEAR(weights[t * 2 + s], std::exp(logits[t * 4 + ids[t * 2 + s]]) / divisor, 1e-15);
    }
  }
}

TEST(Router, AllExpertsSelected) {
  RouterRun run;
  const Routing routing = run.Route({0.5, -0.5, 1.5}, {.experts = 3, .top_k = 3});
  EXPECT_EQ(run.Ids(routing), (std::vector<int>{2, 0, 1}));
  double sum = 0;
  for (const double w : run.Values(routing.weights)) sum += w;
  EXPECT_NEAR(sum, 1, 1e-15);
}

TEST(Router, GradientsOfTheSelectedWeights) {
  for (const RouterOptions& options : AllKinds(5, 2)) {
    EXPECT_TRUE(CheckGradients({RandomInput({4, 5}, 6, -2, 2)}, [&](Tape& tape, std::span<const Var> x) {
      const LogitsAlone model;
      Recorder recorder({.tape = &tape, .model = &model});
      return RecordRouter(recorder, x[0], options, 0)->weights;
    }));
  }
}

TEST(Router, SigmoidScoresAreTheWeights) {
  const std::vector<double> logits = {0.1, 2.0, -1.0, 0.7};
  const auto sigmoid = [](double z) { return 1 / (1 + std::exp(-z)); };
  for (const bool renormalize : {false, true}) {
    RouterRun run;
    const Routing routing =
        run.Route(logits, {.experts = 4, .top_k = 2, .kind = MoeConfig::SIGMOID, .renormalize = renormalize, .scale = 2.5});
    EXPECT_EQ(run.Ids(routing), (std::vector<int>{1, 3}));
    const double divisor = renormalize ? sigmoid(2.0) + sigmoid(0.7) : 1;
    EXPECT_NEAR(run.Values(routing.weights)[0], 2.5 * sigmoid(2.0) / divisor, 1e-15);
    EXPECT_NEAR(run.Values(routing.weights)[1], 2.5 * sigmoid(0.7) / divisor, 1e-15);
    double all = 0;
    for (const double z : logits) all += sigmoid(z);
    for (int e = 0; e < 4; ++e) EXPECT_NEAR(run.Values(routing.probabilities)[e], sigmoid(logits[e]) / all, 1e-15);
  }
}

// The bias moves the selection and the order of slots, never the weights of a fixed selection.
TEST(Router, BiasEntersTheSelectionOnly) {
  for (const MoeConfig::Router kind : {MoeConfig::SIGMOID, MoeConfig::SOFTMAX_PRE, MoeConfig::SOFTMAX_POST}) {
    const RouterOptions options{.experts = 4, .top_k = 2, .kind = kind};
    RouterRun run;
    const std::vector<double> logits = {0.1, 2.0, -1.0, 0.7};
    const std::vector<float> flips = {0, -5, 5, 0}, same = {-3, 0.01f, -3, 0.02f};
    EXPECT_EQ(run.Ids(run.Route(logits, options, flips)), (std::vector<int>{2, 3}));
    const Routing plain = run.Route(logits, options), biased = run.Route(logits, options, same);
    EXPECT_EQ(run.Ids(biased), run.Ids(plain));
    EXPECT_EQ(run.Values(biased.weights), run.Values(plain.weights));
  }
}

TEST(Router, BiasMovesAgainstTheLoad) {
  std::vector<float> bias = {1, 1, 1, 1};
  const std::vector<int64_t> load = {10, 5, 0, 5};
  UpdateRouterBias(load, {.rate = 0.25}, bias);
  EXPECT_EQ(bias, (std::vector<float>{0.75f, 1, 1.25f, 1}));
  UpdateRouterBias(std::vector<int64_t>{15, 4, 0, 1}, {.rate = 0.5, .kind = MoeConfig::PROPORTIONAL}, bias);  // mean 5
  EXPECT_EQ(bias, (std::vector<float>{-0.25f, 1.1f, 1.75f, 1.4f}));
}

// Groups {0, 1}, {2, 3}, {4, 5}: the best two by the score asked for; equal groups: the lower one.
TEST(Router, ExpertsComeFromTheBestGroups) {
  const std::vector<double> logits = {3, -9, 2, 1.9, 2.5, -8};
  RouterOptions options{.experts = 6, .top_k = 3, .kind = MoeConfig::SOFTMAX_POST, .groups = 3, .group_top_k = 2};
  RouterRun run;
  EXPECT_EQ(run.Ids(run.Route(logits, options)), (std::vector<int>{0, 4, 5}));  // largest members 3, 2, 2.5
  options.group_score_top = 2;
  EXPECT_EQ(run.Ids(run.Route(logits, options)), (std::vector<int>{4, 2, 3}));  // sums -6, 3.9, -5.5: groups 1 and 2
  options.group_top_k = 1;
  options.top_k = 2;
  EXPECT_EQ(run.Ids(run.Route({1, 1, 1, 1, 1, 1}, options)), (std::vector<int>{0, 1}));
}

TEST(Router, AtMostTheAskedNumberOfGroupsIsTouched) {
  const RouterOptions options{.experts = 64, .top_k = 8, .kind = MoeConfig::SIGMOID, .groups = 8, .group_top_k = 3, .group_score_top = 2};
  const RngKey key{.seed = 4, .kind = RngKind::kTest};
  std::vector<double> logits(50 * 64);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = key.Normal(i);
  RouterRun run;
  const std::vector<int> ids = run.Ids(run.Route(logits, options));
  for (int t = 0; t < 50; ++t) {
    std::set<int> groups, experts;
    for (int s = 0; s < 8; ++s) {
      groups.insert(ids[t * 8 + s] / 8);
      experts.insert(ids[t * 8 + s]);
    }
    EXPECT_LE(groups.size(), 3u);
    EXPECT_EQ(experts.size(), 8u);
  }
}

// Three tokens, two experts, each takes two: by score, then the earlier token.
TEST(Router, ExpertsChooseTheirTokens) {
  Arena arena;
  std::vector<double> scores = {0.5, 0.5, 0.5, 0.6, 0.9, 0.1};
  const Tensor ids = ChooseTokens(arena, Tensor(scores.data(), {3, 2}, DType::kF64), 2);
  ASSERT_EQ(ids.shape(), (Shape{3, 2}));
  const auto got = ids.span<int32_t>();
  EXPECT_EQ((std::vector<int>{got.begin(), got.end()}), (std::vector<int>{0, 1, 1, -1, 0, -1}));  // expert 0: 2, 0; expert 1: 1, 0
}

TEST(Router, ExpertChoiceGivesEveryExpertItsShare) {
  const RngKey key{.seed = 9, .kind = RngKind::kTest};
  std::vector<double> logits(24 * 6);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = key.Normal(i);
  RouterOptions options{.experts = 6, .top_k = 2, .kind = MoeConfig::EXPERT_CHOICE};
  for (const auto& [factor, rows] : {std::pair{0.0, 8}, {1.0, 8}, {1.5, 12}, {100.0, 24}}) {
    options.capacity.factor = factor;
    RouterRun run;
    const Routing routing = run.Route(logits, options);
    std::vector<int64_t> counts(6, 0);
    CountExperts(routing.ids, counts);
    for (const int64_t count : counts) EXPECT_EQ(count, rows);
    EXPECT_EQ(routing.dropped, 0);
  }
}

TEST(Capacity, RowsOfAnExpert) {
  EXPECT_EQ((CapacityOptions{.factor = 1.25}.Rows(100, 2, 8)), 32);  // 31.25
  EXPECT_EQ((CapacityOptions{.factor = 1, .minimum = 4}.Rows(3, 1, 8)), 4);
  EXPECT_EQ((CapacityOptions{.factor = 1}.Rows(64, 2, 8)), 16);
}

// Expert 0 is wanted by tokens 0, 1, 2, 3 with weights .6, .9, .6, .7 and has room for two.
TEST(Capacity, DropRules) {
  const std::vector<std::pair<CapacityConfig::Drop, std::vector<int>>> cases = {
      {CapacityConfig::BY_WEIGHT, {-1, 1, 0, 2, -1, 1, 0, 2}},
      {CapacityConfig::BY_POSITION, {0, 1, 0, 2, -1, 1, -1, 2}},
  };
  for (const auto& [drop, want] : cases) {
    Arena arena;
    std::vector<int32_t> ids = {0, 1, 0, 2, 0, 1, 0, 2};
    std::vector<double> weights = {.6, .4, .9, .1, .6, .4, .7, .3};
    const int64_t dropped = DropOverflow(arena, Tensor(ids.data(), {4, 2}, DType::kI32), Tensor(weights.data(), {4, 2}, DType::kF64),
                                         {.experts = 3, .rows = 2, .drop = drop});
    EXPECT_EQ(dropped, 2);
    EXPECT_EQ(std::vector<int>(ids.begin(), ids.end()), want);
  }
}

TEST(Capacity, EqualWeightsKeepTheEarlierToken) {
  Arena arena;
  std::vector<int32_t> ids = {1, 1, 1};
  std::vector<double> weights = {.5, .5, .5};
  DropOverflow(arena, Tensor(ids.data(), {3, 1}, DType::kI32), Tensor(weights.data(), {3, 1}, DType::kF64), {.experts = 2, .rows = 2});
  EXPECT_EQ(ids, (std::vector<int32_t>{1, 1, -1}));
}

// Recorded routing replayed gives the same experts, whatever the logits; their weights follow the logits.
TEST(RoutingLog, ReplaysWhatWasRecorded) {
  const RouterOptions options{.experts = 4, .top_k = 2};
  RoutingLog log;
  RouterRun recorded(&log);
  const std::vector<double> logits = {0.1, 2.0, -1.0, 0.7, 0.3, 0.2, 0.9, -0.4}, reversed = {0.7, -1.0, 2.0, 0.1, -0.4, 0.9, 0.2, 0.3};
  const Routing first = recorded.Route(logits, options);
  log.Rewind();
  RouterRun replayed(&log);
  const Routing same = replayed.Route(logits, options);
  EXPECT_EQ(replayed.Ids(same), recorded.Ids(first));
  EXPECT_EQ(replayed.Values(same.weights), recorded.Values(first.weights));
  EXPECT_TRUE(log.ExpectEnd().ok());
  log.Rewind();
  const Routing other = replayed.Route(reversed, options);
  EXPECT_EQ(replayed.Ids(other), recorded.Ids(first));
  EXPECT_NE(replayed.Values(other.weights), recorded.Values(first.weights));
  log.Rewind();
  EXPECT_FALSE(log.ExpectEnd().ok());
}

TEST(RoutingLog, RefusesWhatDoesNotFit) {
  Arena arena;
  const OwnedTensor ids({3, 1}, DType::kI32);
  ids->Zero();
  ids->data<int32_t>()[2] = 5;
  RoutingLog log;
  log.Append(1, *ids);
  const auto refused = [&](int layer, int64_t tokens, int experts, const std::string& reason) {
    log.Rewind();
    const absl::Status status = log.Next(arena, {layer, tokens, experts}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_NE(std::string(status.message()).find(reason), std::string::npos) << status;
  };
  refused(1, 4, 8, "recorded MoE layer 1 with 3 tokens, this run routes layer 1 with 4 tokens");
  refused(0, 3, 8, "this run routes layer 0 with 3 tokens");
  refused(1, 3, 5, "expert 5, but MoE layer 1 has experts 0..4");
  log.Rewind();
  EXPECT_FALSE(log.Again(arena, {1, 3, 6}).ok());
  EXPECT_TRUE(log.Next(arena, {1, 3, 6}).ok());
  EXPECT_TRUE(log.Again(arena, {1, 3, 6}).ok());
  EXPECT_NE(std::string(log.Next(arena, {1, 3, 6}).status().message()).find("after the end of the 1 recorded"), std::string::npos);
}

TEST(Router, NonFiniteLogitsPoisonTheStep) {
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    for (const RouterOptions& options : AllKinds(3, 2)) {
      RouterRun run;
      const Routing routing = run.Route({1, 2, 3, 4, bad, 6, 7, 8, 9}, options);
      EXPECT_NE(std::string(run.recorder.poison().message()).find("MoE layer 3: logits of token 1"), std::string::npos)
          << run.recorder.poison();
      EXPECT_TRUE(std::isnan(run.recorder.values()[0]));
      for (const int e : run.Ids(routing)) EXPECT_TRUE(e >= 0 && e < 3);
      // The other tokens are routed as ever.
      const std::vector<int> ids = run.Ids(routing);
      EXPECT_EQ((std::vector<int>{ids[0], ids[4], ids[5]}), (std::vector<int>{2, 2, 1}));
    }
  }
}

// A routing given by hand: probabilities [n, E] and ids [n, k].
struct Given {
  Arena arena;
  Tape tape{&arena, /*gradients=*/false};
  Routing routing;

  Given(const std::vector<double>& p, const std::vector<int>& ids, int experts, int k) {
    const int64_t n = static_cast<int64_t>(p.size()) / experts;
    const Tensor probabilities = arena.New({n, experts}, DType::kF64);
    std::ranges::copy(p, probabilities.data<double>());
    routing.probabilities = tape.Constant(probabilities);
    routing.selected = arena.New({n, k}, DType::kI32);
    std::ranges::copy(ids, routing.selected.data<int32_t>());
  }
  double Loss(const BalanceArgs& args) { return *tape.value(BalanceLoss(tape, routing, args)).data<double>(); }
};

TEST(BalanceLoss, ExactlyOneUnderUniformLoad) {
  // 8 tokens, 4 experts, 2 slots: each sequence of 4 tokens uses every expert twice.
  const std::vector<int> ids = {0, 1, 2, 3, 0, 1, 2, 3, 3, 0, 1, 2, 2, 1, 3, 0};
  Given given(std::vector<double>(32, 0.25), ids, 4, 2);
  const std::vector<int64_t> counts(4, 12);  // of this leaf and others
  EXPECT_EQ(given.Loss({.scope = MoeConfig::SEQUENCE, .sequences = 2}), 1.0);
  EXPECT_EQ(given.Loss({.scope = MoeConfig::WORKER, .sequences = 2}), 1.0);
  EXPECT_EQ(given.Loss({.scope = MoeConfig::GLOBAL, .sequences = 2, .counts = counts}), 1.0);
  EXPECT_EQ(given.Loss({.scope = MoeConfig::BATCH, .sequences = 2, .counts = counts}), 1.0);
  EXPECT_EQ(given.Loss({.scope = MoeConfig::WORKER, .sequences = 1}), 1.0);
}

TEST(BalanceLoss, ExpertsWhenAllLoadIsOnOne) {
  Given given({1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0}, {0, 0, 0}, 4, 1);
  EXPECT_EQ(given.Loss({.scope = MoeConfig::WORKER}), 4.0);
}

TEST(BalanceLoss, FollowsItsDefinitionInEveryScope) {
  constexpr int kTokens = 6, kExperts = 3, kSlots = 2;
  const RngKey key{.seed = 8, .kind = RngKind::kTest};
  std::vector<double> p(kTokens * kExperts);
  std::vector<int> ids;
  for (int t = 0; t < kTokens; ++t) {
    double sum = 0;
    for (int e = 0; e < kExperts; ++e) sum += p[t * kExperts + e] = key.UniformDouble(t * kExperts + e);
    for (int e = 0; e < kExperts; ++e) p[t * kExperts + e] /= sum;
    const int first = static_cast<int>(key.Below(kExperts, 1000 + t));
    ids.insert(ids.end(), {first, (first + 1) % kExperts});
  }
  // E sum_i f_i P_i of tokens begin .. end - 1; f from `counts` where given.
  const auto aux = [&](int begin, int end, const std::vector<int64_t>& counts) {
    double loss = 0;
    int64_t total = 0;
    for (const int64_t c : counts) total += c;
    for (int e = 0; e < kExperts; ++e) {
      double count = 0, mean = 0;
      for (int t = begin; t < end; ++t) {
        mean += p[t * kExperts + e] / (end - begin);
        for (int s = 0; s < kSlots; ++s) count += ids[t * kSlots + s] == e;
      }
      const double f = counts.empty() ? count / ((end - begin) * kSlots) : static_cast<double>(counts[e]) / static_cast<double>(total);
      loss += kExperts * f * mean;
    }
    return loss;
  };
  Given given(p, ids, kExperts, kSlots);
  const std::vector<int64_t> counts = {40, 10, 22};
  EXPECT_NEAR(given.Loss({.scope = MoeConfig::WORKER, .sequences = 3}), aux(0, 6, {}), 1e-15);
  EXPECT_NEAR(given.Loss({.scope = MoeConfig::SEQUENCE, .sequences = 3}), (aux(0, 2, {}) + aux(2, 4, {}) + aux(4, 6, {})) / 3, 1e-15);
  EXPECT_NEAR(given.Loss({.scope = MoeConfig::GLOBAL, .sequences = 3, .counts = counts}), aux(0, 6, counts), 1e-15);
}

TEST(RouterZ, SumOfSquaredLogPartitions) {
  Arena arena;
  Tape tape(&arena, /*gradients=*/false);
  std::vector<double> logits = {0.5, -0.5, 1.0, 2.0};
  const Var z = RouterZSum(tape, tape.Constant(Tensor(logits.data(), {2, 2}, DType::kF64)));
  const double a = std::log(std::exp(0.5) + std::exp(-0.5)), b = std::log(std::exp(1.0) + std::exp(2.0));
  EXPECT_NEAR(*tape.value(z).data<double>(), a * a + b * b, 1e-14);
}

}  // namespace
}  // namespace conclave
