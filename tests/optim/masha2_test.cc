// MASHA2 against its algorithm, its conservation law and its relatives.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "comm/loopback.h"
#include "gtest/gtest.h"
#include "optim/guard.h"
#include "tests/optim/test_operators.h"

namespace conclave {
namespace {

constexpr char kTopK[] = "exchange { ef14 { codec { top_k { fraction: 0.34 } } } }";  // k = 2 of 6 coordinates

Play PlayOf(const std::string& config) { return {.config = ParseConfig<OptimConfig>(config)}; }

TEST(Masha2Test, WithoutCompressionItIsMasha1) {
  const auto masha1 = PlayGame(PlayOf("masha1 { gamma: 0.3 p: 0.4 exchange { exact {} } }"));
  ASSERT_TRUE(masha1.ok()) << masha1.status();
  const auto expected = masha1->state.All("model");
  for (const char* exchange : {"exchange { exact {} }", "exchange { ef14 { codec { identity {} } } }"}) {
    const auto masha2 = PlayGame(PlayOf(absl::StrFormat("masha2 { gamma: 0.3 p: 0.4 %s }", exchange)));
    ASSERT_TRUE(masha2.ok()) << masha2.status();
    const auto got = masha2->state.All("model");
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], expected[i], 1e-13) << exchange << " coordinate " << i;
    for (const auto& [name, bytes] : masha2->state.tensors) {
      if (name.find("e_m") == std::string::npos) continue;
      for (const double e : masha2->state.Doubles(name)) EXPECT_EQ(e, 0) << name << " remembers something";
    }
  }
}

// The algorithm as it is written down: gamma inside the codec, the memories weighted by it and rescaled where it changes.
class Reference {
 public:
  Reference(const Play& play, Stage& stage) : stage_(stage), workers_(play.game.workers), z_(stage.layout.get(), DType::kF64) {
    for (const BlockId id : stage.layout->local_blocks()) stage.context.initial(id, z_.block(id));
    w_ = Values(z_);
    fields_ = Fields(w_);
    memory_.assign(workers_, std::vector<double>(w_.size(), 0));
    compressed_ = weighted_ = memory_;
  }

  void Step(double gamma, double p, bool refresh) {
    if (gamma_ > 0) {
      for (auto& e : memory_) {
        for (double& x : e) x *= gamma / gamma_;
      }
    }
    gamma_ = gamma;
    const std::vector<double> z = Values(z_), f_w = Mean(fields_);
    std::vector<double> zh(z.size());
    for (size_t i = 0; i < z.size(); ++i) zh[i] = (1 - p) * z[i] + p * w_[i] - gamma * f_w[i];
    const auto at_zh = Fields(zh);
    std::vector<std::vector<double>> c(workers_);
    for (int m = 0; m < workers_; ++m) {
      std::vector<double> u = memory_[m];
      for (size_t i = 0; i < u.size(); ++i) {
        u[i] += gamma * (at_zh[m][i] - fields_[m][i]);
        weighted_[m][i] += gamma * (at_zh[m][i] - fields_[m][i]);
      }
      c[m] = TopTwoOfEachBlock(u);
      for (size_t i = 0; i < u.size(); ++i) {
        memory_[m][i] = u[i] - c[m][i];
        compressed_[m][i] += c[m][i];
      }
    }
    const std::vector<double> s = Mean(c);
    for (size_t i = 0; i < z.size(); ++i) zh[i] -= s[i];
    Assign(zh);
    if (!refresh) return;
    w_ = zh;
    fields_ = Fields(w_);
  }

  std::vector<double> z() const { return Values(z_); }
  const std::vector<double>& memory(int m) const { return memory_[m]; }
  const std::vector<double>& compressed(int m) const { return compressed_[m]; }
  const std::vector<double>& weighted(int m) const { return weighted_[m]; }

 private:
  // All blocks one after another.
  std::vector<double> Values(const FlatVector& v) const {
    std::vector<double> values;
    for (const BlockId id : stage_.layout->local_blocks()) {
      const auto block = v.block(id).span<double>();
      values.insert(values.end(), block.begin(), block.end());
    }
    return values;
  }
  void Assign(const std::vector<double>& values) {
    size_t next = 0;
    for (const BlockId id : stage_.layout->local_blocks()) {
      for (double& x : z_.block(id).span<double>()) x = values[next++];
    }
  }
  std::vector<std::vector<double>> Fields(const std::vector<double>& point) {
    const std::vector<double> z = Values(z_);
    Assign(point);
    std::vector<std::vector<double>> fields(workers_, std::vector<double>(point.size()));
    const absl::Status status =
        stage_.game
            ->Evaluate(z_, {}, true,
                       [&](WorkerId worker, BlockId block, const Tensor& span, bool) {
                         std::ranges::copy(span.span<double>(), fields[worker.value].begin() + block.value * span.elements());
                         return absl::OkStatus();
                       })
            .status();
    CHECK_OK(status);
    Assign(z);
    return fields;
  }
  static std::vector<double> Mean(const std::vector<std::vector<double>>& vectors) {
    std::vector<double> mean(vectors[0].size());
    for (const auto& v : vectors) {
      for (size_t i = 0; i < v.size(); ++i) mean[i] += v[i] / static_cast<double>(vectors.size());
    }
    return mean;
  }
  std::vector<double> TopTwoOfEachBlock(const std::vector<double>& u) const {
    std::vector<double> kept(u.size());
    const size_t n = u.size() / 2;
    for (size_t first = 0; first < u.size(); first += n) {
      std::vector<size_t> order(n);
      std::iota(order.begin(), order.end(), first);
      std::ranges::stable_sort(order, [&](size_t a, size_t b) { return std::abs(u[a]) > std::abs(u[b]); });
      for (int k = 0; k < 2; ++k) kept[order[k]] = u[order[k]];
    }
    return kept;
  }

  Stage& stage_;
  int workers_;
  FlatVector z_;
  std::vector<double> w_;
  std::vector<std::vector<double>> fields_, memory_, compressed_, weighted_;  // by worker
  double gamma_ = 0;
};

// Step by step, under a schedule that changes gamma in every step.
TEST(Masha2Test, FollowsItsAlgorithmWithAChangingStep) {
  Play play = PlayOf(absl::StrFormat("masha2 { gamma: 0.3 p: 0.3 %s } schedule { warmup_steps: 9 }", kTopK));
  play.steps = 30;
  const absl::Status status = RunRanks(1, [&](Communicator& world) -> absl::Status {
    Stage stage(world, play);
    RETURN_IF_ERROR(stage.Open());
    ASSIGN_OR_RETURN(std::unique_ptr<Scheme> scheme, MakeScheme(play.config, stage.context));
    const std::unique_ptr<Guard> guard = MakeGuard(play.config.guard(), 0);
    StateDict state;
    scheme->Register(state);
    RETURN_IF_ERROR(scheme->Start(*stage.game));
    Reference reference(play, stage);
    for (int64_t k = 0; k < play.steps; ++k) {
      const double evaluated = stage.game->evaluations();
      ASSIGN_OR_RETURN(const StepReport report, scheme->Step(*stage.game, {.step = k}, *guard));
      reference.Step(report.learning_rate, 0.3, stage.game->evaluations() - evaluated == 2);
      SavedState saved;
      saved.Add(state);
      std::vector<double> z = saved.Doubles("model/x.weight");
      std::ranges::copy(saved.Doubles("model/y.bias"), std::back_inserter(z));
      const std::vector<double> expected = reference.z();
      for (size_t i = 0; i < z.size(); ++i) EXPECT_NEAR(z[i], expected[i], 1e-12) << "step " << k << " coordinate " << i;
      for (int m = 0; m < play.game.workers; ++m) {
        const std::string part = absl::StrFormat("exchange.differences.e_m/worker.%d/", m);
        std::vector<double> e = saved.Doubles(part + "x.weight");
        std::ranges::copy(saved.Doubles(part + "y.bias"), std::back_inserter(e));
        for (size_t i = 0; i < e.size(); ++i) {
          EXPECT_NEAR(report.learning_rate * e[i], reference.memory(m)[i], 1e-12) << "step " << k << " worker " << m << " element " << i;
        }
      }
    }
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
}

// Conservation: over any number of steps with one gamma, what was sent and the memory at the end add up to what was to be sent. The sums
// come from the algorithm written above, the memories from the scheme.
TEST(Masha2Test, NothingIsLostForAnyWorker) {
  Play play = PlayOf(absl::StrFormat("masha2 { gamma: 0.25 p: 0.3 %s }", kTopK));
  play.steps = 40;
  play.ranks = 2;
  const auto outcome = PlayGame(play);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  Play alone = play;
  alone.ranks = 1;
  const absl::Status status = RunRanks(1, [&](Communicator& world) -> absl::Status {
    Stage stage(world, alone);
    RETURN_IF_ERROR(stage.Open());
    Reference reference(alone, stage);
    for (const double evaluations : outcome->evaluations) reference.Step(0.25, 0.3, evaluations == 2);
    for (int m = 0; m < play.game.workers; ++m) {
      const std::string part = absl::StrFormat("exchange.differences.e_m/worker.%d/", m);
      std::vector<double> e = outcome->state.Doubles(part + "x.weight");
      std::ranges::copy(outcome->state.Doubles(part + "y.bias"), std::back_inserter(e));
      double remembered = 0;
      for (size_t i = 0; i < e.size(); ++i) {
        EXPECT_NEAR(reference.compressed(m)[i] + 0.25 * e[i], reference.weighted(m)[i], 1e-12) << "worker " << m << " element " << i;
        remembered += std::abs(e[i]);
      }
      EXPECT_GT(remembered, 1e-6) << "worker " << m << " had nothing to remember, so the law was not tried";
    }
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
}

// Where the reference point moves to makes another trajectory with the same limit.
TEST(Masha2Test, TheReferenceMovesWhereItIsTold) {
  Play play = PlayOf(absl::StrFormat("masha2 { gamma: 0.25 p: 1 %s }", kTopK));
  play.steps = 5;
  const auto fresh = PlayGame(play);
  Play before = PlayOf(absl::StrFormat("masha2 { gamma: 0.25 p: 1 reference: PREVIOUS %s }", kTopK));
  before.steps = 4;
  const auto four = PlayGame(before);
  before.steps = 5;
  const auto five = PlayGame(before);
  ASSERT_TRUE(fresh.ok() && four.ok() && five.ok()) << five.status();
  EXPECT_EQ(fresh->state.All("masha2.w"), fresh->state.All("model"));
  EXPECT_EQ(five->state.All("masha2.w"), four->state.All("model"));
}

}  // namespace
}  // namespace conclave
