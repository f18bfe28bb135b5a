#include "trainer/model_operator.h"

#include <cmath>
#include <numeric>
#include <set>

#include <gtest/gtest.h>

#include "tests/trainer/laws.h"

namespace conclave {
namespace {

using Blocks = std::map<std::string, std::vector<double>>;

std::vector<double> Widen(const Tensor& tensor) {
  return DispatchFloat(tensor.dtype(), [&](auto t) {
    const auto span = tensor.span<decltype(t)>();
    return std::vector<double>(span.begin(), span.end());
  });
}

// What one evaluation handed over: every call, and by block the sum over all calls of all ranks.
struct Delivered {
  std::vector<std::multiset<std::pair<int, std::string>>> calls;  // by rank: (worker, block)
  std::vector<Blocks> sums;                                       // by rank
  int folded = 0;
  Evaluation evaluation;
};

absl::StatusOr<Delivered> EvaluateOnce(const ModelRun& run, bool each_worker) {
  Delivered delivered;
  delivered.calls.resize(run.ranks());
  delivered.sums.resize(run.ranks());
  std::vector<int> folded(run.ranks(), 0);
  RETURN_IF_ERROR(RunRanks(run.ranks(), [&](Communicator& world) -> absl::Status {
    Assembly a;
    RETURN_IF_ERROR(BuildRun(run, world, &a));
    const int rank = world.rank();
    const auto on_block = [&](WorkerId worker, BlockId block, const Tensor& span, bool is_folded) {
      const std::string& name = a.model->parameters()[block].name;
      delivered.calls[rank].emplace(worker.value, name);
      folded[rank] += is_folded;
      const std::vector<double> values = Widen(span);
      std::vector<double>& sum = delivered.sums[rank][name];
      sum.resize(values.size());
      for (size_t i = 0; i < values.size(); ++i) sum[i] += values[i];
      return absl::OkStatus();
    };
    ASSIGN_OR_RETURN(const Evaluation evaluation, a.field->Evaluate(a.scheme->point(), {.step = 1}, each_worker, on_block));
    if (rank == 0) delivered.evaluation = evaluation;
    return absl::OkStatus();
  }));
  delivered.folded = std::accumulate(folded.begin(), folded.end(), 0);
  return delivered;
}

ModelRun InDouble(std::pair<int, int> split) {
  ModelRun run = SmallMixture(" model { precision { compute: F64 } }");
  std::tie(run.data, run.expert) = split;
  return run;
}

bool IsExpert(const std::string& name) { return name.find(".experts.") != std::string::npos; }

// Replicated blocks: once for each worker of the rank. Expert blocks: once for each worker of the rank's data column.
TEST(ModelOperator, HandsOverEveryWorkerAndBlockOnce) {
  for (const auto& split : {std::pair{1, 1}, {3, 1}, {2, 2}, {1, 4}, {5, 1}}) {
    ModelRun run = InDouble(split);
    run.config += " trainer { micro_batches: 2 }";
    const auto delivered = EvaluateOnce(run, /*each_worker=*/true);
    ASSERT_TRUE(delivered.ok()) << delivered.status();
    EXPECT_EQ(delivered->folded, 0);
    const WorkerMap workers{.workers = 8, .ranks = run.ranks(), .expert_axis = run.expert};
    for (int r = 0; r < run.ranks(); ++r) {
      std::multiset<std::pair<int, std::string>> want;
      for (const auto& [name, sum] : delivered->sums[r]) {
        const int column = r / run.expert;
        const int first = IsExpert(name) ? workers.ColumnFirst(column) : workers.First(r);
        const int count = IsExpert(name) ? workers.ColumnCount(column) : workers.Count(r);
        for (int m = first; m < first + count; ++m) want.emplace(m, name);
      }
      EXPECT_EQ(delivered->calls[r], want) << "rank " << r << " of " << NameOfSplit(split);
      EXPECT_EQ(delivered->sums[r].size(), delivered->sums[0].size());
    }
  }
}

// However a step is cut, the sum over all calls is M^2 times the mean gradient: the same for every mesh, folded or not.
TEST(ModelOperator, SumsDoNotDependOnTheMesh) {
  const auto sum_up = [](const Delivered& delivered) {
    Blocks total;
    for (const Blocks& rank : delivered.sums) {
      for (const auto& [name, sum] : rank) {
        std::vector<double>& values = total[name];
        values.resize(sum.size());
        for (size_t i = 0; i < sum.size(); ++i) values[i] += sum[i];
      }
    }
    return total;
  };
  const auto alone = EvaluateOnce(InDouble({1, 1}), true);
  ASSERT_TRUE(alone.ok()) << alone.status();
  const Blocks want = sum_up(*alone);
  for (const bool each_worker : {true, false}) {
    for (const auto& split : {std::pair{1, 1}, {2, 1}, {1, 2}, {3, 1}, {2, 2}}) {
      const auto delivered = EvaluateOnce(InDouble(split), each_worker);
      ASSERT_TRUE(delivered.ok()) << delivered.status();
      EXPECT_EQ(delivered->folded > 0, !each_worker);
      for (const auto& [name, sum] : sum_up(*delivered)) {
        double largest = 1e-3, worst = 0;
        for (size_t i = 0; i < sum.size(); ++i) {
          largest = std::max(largest, std::abs(want.at(name)[i]));
          worst = std::max(worst, std::abs(sum[i] - want.at(name)[i]));
        }
        EXPECT_LE(worst, 1e-11 * largest) << name << " on " << NameOfSplit(split);
      }
      EXPECT_NEAR(delivered->evaluation.objective, alone->evaluation.objective, 1e-13);
      EXPECT_EQ(delivered->evaluation.counters, alone->evaluation.counters);
      EXPECT_EQ(delivered->evaluation.samples, alone->evaluation.samples);
    }
  }
  // 16 samples of 8 tokens, two layers, two slots; every third sample but one ignores 3 targets, two have none.
  EXPECT_EQ(std::accumulate(alone->evaluation.counters.begin(), alone->evaluation.counters.end(), int64_t{0}), 16 * 8 * 2 * 2);
}

// The mean gradient is the derivative of the reported objective, and the maximising player's is turned round.
TEST(ModelOperator, SignsFollowThePlayer) {
  const ModelRun run{.config =
                         "name: 'game' trainer { workers: 3 global_batch: 0 } optim { gda { gamma: 0.1 } }"
                         " model { precision { compute: F64 } bilinear_game { dim: 3 heterogeneity: 0.5 lambda: 0.2 } }"};
  const auto delivered = EvaluateOnce(run, true);
  ASSERT_TRUE(delivered.ok()) << delivered.status();
  const absl::Status status = RunRanks(1, [&](Communicator& world) -> absl::Status {
    Assembly a;
    RETURN_IF_ERROR(BuildRun(run, world, &a));
    const auto objective = [&]() -> absl::StatusOr<double> {
      ASSIGN_OR_RETURN(const Evaluation e, a.field->Evaluate(a.scheme->point(), {.step = 1}, true,
                                                             [](WorkerId, BlockId, const Tensor&, bool) { return absl::OkStatus(); }));
      return e.objective;
    };
    for (const char* name : {"x", "y"}) {
      const BlockId block = a.model->parameters().Find(name);
      for (int i = 0; i < 3; ++i) {
        double& z = a.scheme->point().block(block).data<double>()[i];
        const double at = z, h = 1e-5;
        z = at + h;
        ASSIGN_OR_RETURN(const double up, objective());
        z = at - h;
        ASSIGN_OR_RETURN(const double down, objective());
        z = at;
        const double sign = std::string(name) == "x" ? 1 : -1;
        EXPECT_NEAR(delivered->sums[0].at(name)[i] / 3, sign * (up - down) / (2 * h), 1e-8) << name << i;
      }
    }
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
}

// The gradient of the whole step's objective, balance and z-loss included, by central differences on 1 and 2 ranks.
TEST(ModelOperator, GradientOfTheStepsObjective) {
  for (const auto& split : {std::pair{1, 1}, {1, 2}}) {
    const ModelRun run = InDouble(split);
    const auto delivered = EvaluateOnce(run, true);
    ASSERT_TRUE(delivered.ok()) << delivered.status();
    const absl::Status status = RunRanks(run.ranks(), [&](Communicator& world) -> absl::Status {
      Assembly a;
      RETURN_IF_ERROR(BuildRun(run, world, &a));
      const auto objective = [&]() -> absl::StatusOr<double> {
        ASSIGN_OR_RETURN(const Evaluation e, a.field->Evaluate(a.scheme->point(), {.step = 1}, true,
                                                               [](WorkerId, BlockId, const Tensor&, bool) { return absl::OkStatus(); }));
        return e.objective;
      };
      for (const char* name :
           {"embedding.weight", "blocks.0.attention.qkv.weight", "blocks.1.moe.router.weight", "blocks.0.moe.experts.5.up.weight"}) {
        const BlockId block = a.model->parameters().Find(name);
        CHECK_GE(block.value, 0) << name;
        const bool here = a.layout->is_local(block);
        double scratch = 0;
        double& z = here ? a.scheme->point().block(block).data<double>()[5] : scratch;
        const double at = z, h = 1e-5;
        z = at + h;
        ASSIGN_OR_RETURN(const double up, objective());
        z = at - h;
        ASSIGN_OR_RETURN(const double down, objective());
        z = at;
        double sum = 0;
        for (const Blocks& rank : delivered->sums) sum += rank.contains(name) ? rank.at(name)[5] : 0;
        EXPECT_NEAR(sum / 8, (up - down) / (2 * h), 1e-8) << name << " on " << NameOfSplit(split);
      }
      return absl::OkStatus();
    });
    EXPECT_TRUE(status.ok()) << status;
  }
}

// Terms of unequal leaves are weighted by their tokens: a step reports what the held-out evaluation of the same leaves reports.
TEST(ModelOperator, UnequalLeavesCountByTheirTokens) {
  for (const auto& split : {std::pair{1, 1}, {2, 2}}) {
    const ModelRun run = InDouble(split);
    const absl::Status status = RunRanks(run.ranks(), [&](Communicator& world) -> absl::Status {
      Assembly a;
      RETURN_IF_ERROR(BuildRun(run, world, &a));
      const auto ignore = [](WorkerId, BlockId, const Tensor&, bool) { return absl::OkStatus(); };
      ASSIGN_OR_RETURN(const Evaluation step, a.field->Evaluate(a.scheme->point(), {.step = 0}, false, ignore));
      ASSIGN_OR_RETURN(const Evaluation held_out, a.field->EvaluateHeldOut(a.scheme->point(), 8, 2));
      EXPECT_EQ(step.samples, held_out.samples);
      EXPECT_EQ(step.terms.size(), 5u);  // loss, balance, z, and balance of two layers
      for (size_t t = 0; t < step.terms.size(); ++t) {
        EXPECT_NEAR(step.terms[t].value, held_out.terms[t].value, 1e-14 * std::abs(step.terms[t].value)) << step.terms[t].name;
      }
      return absl::OkStatus();
    });
    EXPECT_TRUE(status.ok()) << status;
  }
}

// The same key gives the same bits, another step gives other samples.
TEST(ModelOperator, IsAFunctionOfPointAndKey) {
  const ModelRun run = SmallMixture("");
  const absl::Status status = RunRanks(1, [&](Communicator& world) -> absl::Status {
    Assembly a;
    RETURN_IF_ERROR(BuildRun(run, world, &a));
    std::vector<double> objectives;
    for (const uint32_t step : {0u, 1u, 0u}) {
      ASSIGN_OR_RETURN(const Evaluation e, a.field->Evaluate(a.scheme->point(), {.step = step}, true,
                                                             [](WorkerId, BlockId, const Tensor&, bool) { return absl::OkStatus(); }));
      objectives.push_back(e.objective);
    }
    EXPECT_EQ(objectives[0], objectives[2]);
    EXPECT_NE(objectives[0], objectives[1]);
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
}

// Held-out means are weighted by tokens and have the same bits on any number of ranks.
TEST(ModelOperator, HeldOutEvaluation) {
  std::map<std::string, double> values;
  const auto evaluate = [&](std::pair<int, int> split, int64_t rows) {
    ModelRun run = SmallMixture("");
    std::tie(run.data, run.expert) = split;
    std::vector<Evaluation> seen(run.ranks());
    const absl::Status status = RunRanks(run.ranks(), [&](Communicator& world) -> absl::Status {
      Assembly a;
      RETURN_IF_ERROR(BuildRun(run, world, &a));
      ASSIGN_OR_RETURN(seen[world.rank()], a.field->EvaluateHeldOut(a.scheme->point(), 12 / rows, rows));
      return absl::OkStatus();
    });
    EXPECT_TRUE(status.ok()) << status;
    for (const Evaluation& e : seen) EXPECT_EQ(e.objective, seen[0].objective);
    return seen[0];
  };
  const Evaluation alone = evaluate({1, 1}, 2);
  EXPECT_EQ(alone.samples, 12 * 8 - 2 * 8 - 3 * 3);  // samples 4 and 5 have no target; 1, 7 and 10 ignore three
  for (const auto& split : {std::pair{1, 2}, {2, 1}, {3, 1}, {2, 2}}) {
    const Evaluation together = evaluate(split, 2);
    EXPECT_EQ(together.objective, alone.objective) << NameOfSplit(split);
    EXPECT_EQ(together.terms[0].value, alone.terms[0].value) << NameOfSplit(split);
    EXPECT_EQ(together.samples, alone.samples);
  }
  // The loss does not depend on how the samples are batched.
  EXPECT_NEAR(evaluate({1, 1}, 3).terms[0].value, alone.terms[0].value, 1e-6);
  EXPECT_NEAR(alone.terms[0].value, std::log(16.0), 0.1);
}

}  // namespace
}  // namespace conclave
