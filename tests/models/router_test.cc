// The router's laws: selection, ties, weights, losses.
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "models/modules/mixture.h"
#include "tests/tensor/gradient_check.h"

namespace conclave {
namespace {

// A recorder without parameters, for router logits given as numbers.
struct RouterRun {
  ParameterSet parameters;
  std::vector<TermSpec> terms = {{"loss"}};
  Arena arena;
  Tape tape{&arena, /*gradients=*/false};
  Recorder recorder{{.tape = &tape, .parameters = &parameters, .terms = &terms}};

  Routing Route(const std::vector<double>& logits, const RouterOptions& options) {
    const int64_t n = static_cast<int64_t>(logits.size()) / options.experts;
    const Tensor values = arena.New({n, options.experts}, DType::kF64);
    std::ranges::copy(logits, values.data<double>());
    return RecordRouter(recorder, tape.Constant(values), options, 3);
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

std::vector<RouterOptions> AllKinds(int experts, int top_k) {
  return {{.experts = experts, .top_k = top_k},
          {.experts = experts, .top_k = top_k, .renormalize = false},
          {.experts = experts, .top_k = top_k, .post = true}};
}

TEST(Router, EqualScoresGoToTheLowerExpert) {
  for (const RouterOptions& options : AllKinds(4, 3)) {
    RouterRun run;
    EXPECT_EQ(run.Ids(run.Route({1, 3, 3, 2, 5, 5, 5, 5, -1, 0, -1, -1}, options)), (std::vector<int>{1, 2, 3, 0, 1, 2, 1, 0, 2}));
  }
}

TEST(Router, SlotsDescendAndWeightsFollow) {
  const std::vector<double> logits = {0.1, 2.0, -1.0, 0.7, 0.3, 0.2, 0.9, -0.4};
  for (const RouterOptions& options : AllKinds(4, 2)) {
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
      const double divisor = options.renormalize || options.post ? selected : all;
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
      const ParameterSet parameters;
      const std::vector<TermSpec> terms = {{"loss"}};
      Recorder recorder({.tape = &tape, .parameters = &parameters, .terms = &terms});
      return RecordRouter(recorder, x[0], options, 0).weights;
    }));
  }
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
    routing.ids = arena.New({n, k}, DType::kI32);
    std::ranges::copy(ids, routing.ids.data<int32_t>());
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
