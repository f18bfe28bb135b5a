// Training on perturbed samples: the inner maximum, the gradient beside it, and the laws of every run.
#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include "tests/trainer/labelled_points.h"
#include "tests/trainer/model_run.h"

namespace conclave {
namespace {

constexpr int64_t kWidth = 6;

ModelRun Perturbed(const std::string& model, const std::string& more = "") {
  return {.config = absl::StrFormat("name: 'perturbed' trainer { workers: 4 global_batch: 32 }"
                                    " optim { first_order { lr: 0.05 rule { adamw { weight_decay: 0 } } } }"
                                    " model { robust_mlp { inputs: %d classes: 2 %s } } %s",
                                    kWidth, model, more),
          .source = [] { return std::make_unique<LabelledPoints>(kWidth); }};
}

constexpr char kDouble[] = " model { precision { compute: F64 } }";

struct Looked {
  std::map<std::string, std::vector<double>> field;  // F, by block
  Evaluation evaluation;
  double TermOf(const std::string& name) const {
    for (const Term& term : evaluation.terms) {
      if (term.name == name) return term.value;
    }
    return std::nan("");
  }
};

// F at the starting point, whose element `shift.first` of layers.0.weight is moved by shift.second; of samples of step 3.
Looked LookAt(const ModelRun& run, std::pair<size_t, double> shift = {0, 0}) {
  Looked looked;
  const absl::Status status = RunRanks(1, [&](Communicator& world) -> absl::Status {
    Assembly a;
    RETURN_IF_ERROR(BuildRun(run, world, &a));
    const ParameterSet& parameters = a.model->parameters();
    a.scheme->point().block(parameters.Find("layers.0.weight")).span<double>()[shift.first] += shift.second;
    const auto keep = [&](WorkerId, BlockId block, const Tensor& span, bool) {
      std::vector<double>& sum = looked.field[parameters[block].name];
      sum.resize(static_cast<size_t>(span.elements()));
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += span.data<double>()[i] / a.workers.workers;
      return absl::OkStatus();
    };
    ASSIGN_OR_RETURN(looked.evaluation, a.field->Evaluate(a.scheme->point(), {.step = 3}, true, keep));
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
  return looked;
}

// Where the net is linear the best perturbation is known: against the sign of what tells the classes apart, as far as ball and range allow.
TEST(PerturbedTraining, FindsTheInnerMaximumOfALinearNet) {
  const ModelRun run = Perturbed("layers: 0 perturbation { radius: 0.2 step: 0.5 moves: 1 }", kDouble);
  ModelRun still = run;
  still.steps = 0;
  const auto start = RunModel(still);
  ASSERT_TRUE(start.ok()) << start.status();
  const std::vector<double> w = start->Doubles("layers.0.weight");
  const LabelledPoints points(kWidth);
  double loss = 0, right = 0, robust = 0;
  for (int64_t sample = 3 * 32; sample < 4 * 32; ++sample) {
    const size_t own = static_cast<size_t>(points.ClassOf(sample)) * kWidth, other = kWidth - own;
    double margin = 0, worst = 0;
    for (int64_t j = 0; j < kWidth; ++j) {
      const double slope = w[own + static_cast<size_t>(j)] - w[other + static_cast<size_t>(j)], x = points.At(sample, j);
      margin += slope * x;
      worst += slope * std::clamp(x - (slope > 0 ? 0.2 : -0.2), 0.0, 1.0);
    }
    loss += std::log1p(std::exp(-worst)) / 32;
    right += (margin > 0) / 32.0;
    robust += (worst > 0) / 32.0;
  }
  const Looked looked = LookAt(run);
  EXPECT_NEAR(looked.TermOf("loss"), loss, 1e-12);
  EXPECT_NEAR(looked.TermOf("accuracy"), right, 1e-12);
  EXPECT_NEAR(looked.TermOf("robust_accuracy"), robust, 1e-12);
}

// The gradient at the end of the walk is that of the inner maximum, whatever the walk does when the parameters move.
TEST(PerturbedTraining, TheGradientIsThatOfTheInnerMaximum) {
  const ModelRun run = Perturbed("layers: 0 perturbation { radius: 0.2 step: 0.5 moves: 1 }", kDouble);
  const std::vector<double> f = LookAt(run).field.at("layers.0.weight");
  for (const size_t i : {0u, 3u, 8u, 11u}) {
    const double h = 1e-6, up = LookAt(run, {i, h}).evaluation.objective, down = LookAt(run, {i, -h}).evaluation.objective;
    EXPECT_NEAR(f[i], (up - down) / (2 * h), 1e-8) << i;
  }
}

// More steps of ascent find a larger loss, and FreeLB's field is the mean of those along the way.
TEST(PerturbedTraining, EveryPointOfTheWayMayCount) {
  const auto walk = [](int moves, bool every_point) {
    return LookAt(Perturbed(
        absl::StrFormat("hidden: 5 perturbation { norm: L2 radius: 0.4 step: 0.1 moves: %d every_point: %d }", moves, every_point),
        kDouble));
  };
  const Looked ends[] = {walk(0, false), walk(1, false), walk(2, false)};
  EXPECT_GT(ends[1].TermOf("loss"), ends[0].TermOf("loss"));
  EXPECT_GT(ends[2].TermOf("loss"), ends[1].TermOf("loss"));
  const Looked mean = walk(2, true);
  EXPECT_NEAR(mean.TermOf("loss"), ends[2].TermOf("loss"), 1e-14);  // the way's directions come from a third of a gradient
  for (const auto& [name, f] : mean.field) {
    for (size_t i = 0; i < f.size(); ++i) {
      const double expected = (ends[0].field.at(name)[i] + ends[1].field.at(name)[i] + ends[2].field.at(name)[i]) / 3;
      EXPECT_NEAR(f[i], expected, 1e-15) << name << ' ' << i;
    }
  }
}

TEST(PerturbedTraining, IsTheSameOnEveryNumberOfRanks) {
  for (const char* model : {"hidden: 5 perturbation { moves: 2 }", "hidden: 5 perturbation { norm: L2 moves: 2 every_point: true }"}) {
    for (const char* scheme :
         {"", " optim { extragradient { gamma: 0.5 exchange { ef21 { codec { block_int { bits: 4 block: 8 rounding: NEAREST } } } } } }"}) {
      ModelRun run = Perturbed(model, std::string(" parallel { numerics: WORLD_SIZE_INVARIANT } trainer { micro_batches: 2 }") + scheme);
      const auto alone = RunModel(run);
      ASSERT_TRUE(alone.ok()) << alone.status();
      for (const int ranks : {2, 3, 4}) {
        run.data = ranks;
        const auto together = RunModel(run);
        ASSERT_TRUE(together.ok()) << together.status();
        EXPECT_EQ(FirstDifference(*together, *alone), "") << ranks << " ranks: " << model << scheme;
      }
    }
  }
}

// Sequences of one token: a hidden one is told by any that is shown, before or behind it.
class OneToken : public Source {
 public:
  static constexpr int64_t kTokens = 11, kLength = 8;
  SampleShape shape() const override { return {SampleShape::Kind::kTokens, kLength}; }
  int64_t size() const override { return 4096; }
  absl::Status Fetch(int64_t sample, int64_t, int64_t row, Batch* batch) const override {
    const auto token = static_cast<int32_t>(RngKey{.seed = 6}.Below(kTokens, static_cast<uint64_t>(sample)));
    std::fill_n(batch->tokens.data<int32_t>() + row * kLength, kLength, token);
    std::fill_n(batch->targets.data<int32_t>() + row * kLength, kLength, token);
    batch->count += kLength;
    return absl::OkStatus();
  }
};

ModelRun Masked(const std::string& more) {
  return {.config =
              "name: 'masked' trainer { workers: 4 global_batch: 32 } optim { first_order { lr: 0.02 rule { adamw { weight_decay: 0 } } } }"
              " parallel { numerics: WORLD_SIZE_INVARIANT } model { masked_lm { vocab_size: 11 layers: 1 width: 16 heads: 2 context: 8"
              " init_std: 0.1 mask_rate: 0.25 perturbation { norm: L2 radius: 0.3 step: 0.15 moves: 2 every_point: true } } } " +
              more,
          .source = [] { return std::make_unique<OneToken>(); }};
}

TEST(PerturbedTraining, AnEncoderIsTheSameOnEveryNumberOfRanks) {
  ModelRun run = Masked("");
  const auto alone = RunModel(run);
  ASSERT_TRUE(alone.ok()) << alone.status();
  for (const int ranks : {2, 4}) {
    run.data = ranks;
    const auto together = RunModel(run);
    ASSERT_TRUE(together.ok()) << together.status();
    EXPECT_EQ(FirstDifference(*together, *alone), "") << ranks;
  }
}

TEST(PerturbedTraining, AnEncoderLearnsToFillIn) {
  ModelRun run = Masked("");
  run.steps = 150;
  const auto outcome = RunModel(run);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  const auto term = [&](size_t step, size_t t) { return outcome->reports[step].evaluation.terms[t].value; };
  EXPECT_NEAR(term(0, 2), std::log(11.0), 0.4);  // clean loss
  double right = 0;
  for (size_t step = 130; step < 150; ++step) right += term(step, 1) / 20;
  EXPECT_GT(right, 0.9);
  EXPECT_GT(term(149, 0), term(149, 2));  // the perturbed loss is the larger one
}

// Held-out samples are perturbed from starts of their own: neither ranks nor the size of a batch matter.
TEST(PerturbedTraining, HeldOutSamplesArePerturbedToo) {
  ModelRun run = Perturbed("hidden: 5 perturbation { radius: 0.2 step: 0.1 moves: 3 }", kDouble);
  std::vector<Evaluation> seen;
  for (const auto& [ranks, rows] : {std::pair{1, 8}, {1, 64}, {3, 8}}) {
    run.data = ranks;
    std::vector<Evaluation> by_rank(static_cast<size_t>(ranks));
    const absl::Status status = RunRanks(ranks, [&](Communicator& world) -> absl::Status {
      Assembly a;
      RETURN_IF_ERROR(BuildRun(run, world, &a));
      ASSIGN_OR_RETURN(by_rank[static_cast<size_t>(world.rank())], a.field->EvaluateHeldOut(a.scheme->point(), 64 / rows, rows));
      return absl::OkStatus();
    });
    ASSERT_TRUE(status.ok()) << status;
    seen.push_back(by_rank.back());
  }
  for (const Evaluation& e : seen) {
    ASSERT_EQ(e.samples, 64);
    EXPECT_NEAR(e.objective, seen[0].objective, 1e-14);
    EXPECT_EQ(e.terms[1].value, seen[0].terms[1].value);
    EXPECT_EQ(e.terms[2].value, seen[0].terms[2].value);
    EXPECT_LE(e.terms[2].value, e.terms[1].value);  // robust, clean
  }
}

// The loss at the worst points of the balls, in closed form: lower where the net was trained there than where it was trained on the
// samples.
TEST(PerturbedTraining, MakesTheNetRobust) {
  const LabelledPoints points(kWidth);
  const auto worst_loss = [&](int moves) {
    ModelRun run = Perturbed(absl::StrFormat("layers: 0 perturbation { radius: 0.1 step: 0.2 moves: %d start: 0 }", moves),
                             " trainer { global_batch: 64 }");
    run.steps = 300;
    const auto outcome = RunModel(run);
    EXPECT_TRUE(outcome.ok()) << outcome.status();
    const std::vector<double> w = outcome->Doubles("layers.0.weight"), b = outcome->Doubles("layers.0.bias");
    double loss = 0;
    for (int64_t sample = 3000; sample < 4000; ++sample) {
      const double side = points.ClassOf(sample) == 1 ? 1 : -1;
      double worst = side * (b[1] - b[0]);
      for (size_t j = 0; j < kWidth; ++j) {
        const double slope = side * (w[kWidth + j] - w[j]), x = points.At(sample, static_cast<int64_t>(j));
        worst += slope * std::clamp(x - (slope > 0 ? 0.1 : -0.1), 0.0, 1.0);
      }
      loss += std::log1p(std::exp(-worst)) / 1000;
    }
    return loss;
  };
  EXPECT_LT(worst_loss(1), 0.9 * worst_loss(0));
}

}  // namespace
}  // namespace conclave
