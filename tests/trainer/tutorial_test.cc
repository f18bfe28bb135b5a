// The model of docs/tutorial.md, trained to its known optimum. The page shows the lines between the markers; tests/rules compares the two.
#include <gtest/gtest.h>

#include "base/digest.h"
#include "comm/loopback.h"
#include "data/data_set.h"
#include "optim/guard.h"
#include "optim/schemes.h"
#include "tests/trainer/config_fixture.h"
#include "trainer/model_operator.h"

// [tutorial]
#include "models/model.h"
#include "tensor/ops/ops.h"

namespace conclave {

struct TiedAutoencoderOptions {
  int64_t data_dim = 0;    // d
  int64_t latent_dim = 0;  // q
  double init_std = 0.1;
};

// min over W of E |W'W x - x|^2 / 2, W: [q, d]. At the optimum W'W projects on the q directions of largest second moment, and the loss is
// half the sum of the other d - q (Baldi and Hornik, 1989).
class TiedAutoencoder : public Model {
 public:
  explicit TiedAutoencoder(const TiedAutoencoderOptions& options) : options_(options) {
    // A term is a number worth reporting; those marked as objective add up to what is minimised.
    terms_ = {{.name = "loss", .scale = TermScale::kPerSample, .coefficient = 1.0, .objective = true},
              {.name = "code_size", .scale = TermScale::kPerSample, .objective = false}};
    // A parameter is a named block. Who holds it, steps it and saves it is decided elsewhere.
    weight_ = parameters_.Add(
        {.name = "weight", .shape = {options.latent_dim, options.data_dim}, .init = {Init::Kind::kNormal, options.init_std}});
  }

  SampleShape sample_shape() const override { return {SampleShape::Kind::kFeatures, options_.data_dim}; }

  // Writes the terms of one leaf (one worker's samples, or an equal part of them) on the tape. The gradient comes from the tape.
  absl::Status Record(Recorder& r) const override {
    Tape& tape = r.tape();
    const Var x = tape.Constant(r.batch().features);        // [n, d]
    const Var w = r.Parameter(weight_);                     // [q, d]
    const Var code = Linear(tape, x, w);                    // [n, q] = x w'
    const Var error = Sub(tape, MatMul(tape, code, w), x);  // [n, d]
    r.AddTerm(0, Dot(tape, error, error), 0.5);             // a sum over samples; the division by their number is the step's
    r.AddMetric(1, *tape.value(Dot(tape, code, code)).data<double>());
    return absl::OkStatus();
  }

 private:
  TiedAutoencoderOptions options_;
  BlockId weight_;
};

}  // namespace conclave
// [end]

namespace conclave {
namespace {

// Data, method and trainer settings as the config of the page has them; its model stands in for one that the schema does not know.
constexpr char kConfig[] = R"(name: "tutorial"
trainer { steps: 400 workers: 4 global_batch: 64 }
parallel { numerics: WORLD_SIZE_INVARIANT }
optim {
  first_order { lr: 0.02 rule { adamw { weight_decay: 0 } } }
  schedule { cosine { min_ratio: 0.01 } }
}
model { linear_vae { data_dim: 8 latent_dim: 2 } }
data { sources { gaussian { dim: 8 samples: 8192 eigenvalues: [9, 4] tail_eigenvalue: 0.25 rotate: true } } validation_fraction: 0.5 }
)";

struct Trained {
  Evaluation held_out;
  uint64_t weight_bits = 0;
};

absl::Status TrainRank(const Experiment& config, Communicator& world, Trained* trained) {
  const TiedAutoencoder model({.data_dim = 8, .latent_dim = 2});
  const int workers = static_cast<int>(config.trainer().workers());
  ASSIGN_OR_RETURN(const std::unique_ptr<Mesh> mesh, Mesh::Create(&world, {.data = world.size()}));
  const LoaderOptions samples{.seed = 1, .workers = workers, .global_batch = config.trainer().global_batch()};
  ASSIGN_OR_RETURN(const DataSet data, OpenData(config.data(), samples, 0, RealFileSystem()));
  const Layout layout = ReplicatedLayout(&model.parameters(), world.rank(), world.size());
  const WorkerMap map{.workers = workers, .ranks = world.size()};
  ModelOperator field(
      {.model = &model, .mesh = mesh.get(), .layout = &layout, .loader = data.loader.get(), .held_out = &data.evaluation, .workers = map});
  const ExchangeContext exchange{
      .layout = &layout, .workers = map, .world = &mesh->gradient_world(), .data = &mesh->gradient_data(), .world_size_invariant = true};
  const auto initial = [&](BlockId id, const Tensor& value) { Initialize(model.parameters()[id], id, 1, value); };
  ASSIGN_OR_RETURN(const std::unique_ptr<Scheme> scheme,
                   MakeScheme(config.optim(), {.exchange = exchange, .initial = initial, .total_steps = config.trainer().steps()}));
  const std::unique_ptr<Guard> guard = MakeGuard(config.optim().guard(), world.rank());
  RETURN_IF_ERROR(scheme->Start(field));
  for (Cursor cursor; cursor.step < config.trainer().steps(); ++cursor.step) RETURN_IF_ERROR(scheme->Step(field, cursor, *guard).status());
  ASSIGN_OR_RETURN(trained->held_out, field.EvaluateHeldOut(scheme->point(), 0, 64));
  trained->weight_bits = DigestOf(std::span<const std::byte>(scheme->point().flat().AsBytes()));
  return absl::OkStatus();
}

Trained Train(int ranks) {
  const absl::StatusOr<LoadedConfig> loaded = LoadText(kConfig);
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  std::vector<Trained> trained(ranks);
  const absl::Status status =
      RunRanks(ranks, [&](Communicator& world) { return TrainRank(loaded->config, world, &trained[world.rank()]); });
  EXPECT_TRUE(status.ok()) << status;
  for (const Trained& other : trained) EXPECT_EQ(other.weight_bits, trained[0].weight_bits);
  return trained[0];
}

TEST(Tutorial, ReachesThePrincipalSubspace) {
  const Trained one = Train(1);
  ASSERT_EQ(one.held_out.terms.size(), 2u);
  EXPECT_EQ(one.held_out.samples, 4096);
  // Half of six times 0.25, up to sampling: a held-out mean of 4,096 has a relative standard error of sqrt(2 / 6 / 4096) = 0.9 %. A code of
  // orthonormal directions keeps the second moments 9 and 4; its standard error is 0.15.
  EXPECT_NEAR(one.held_out.terms[0].value, 0.75, 0.75 * 0.04);
  EXPECT_NEAR(one.held_out.terms[1].value, 13, 0.8);
}

TEST(Tutorial, RanksDoNotMatter) { EXPECT_EQ(Train(1).weight_bits, Train(3).weight_bits); }

}  // namespace
}  // namespace conclave
