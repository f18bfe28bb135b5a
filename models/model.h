// Model: a differentiable objective with named terms, which says which player owns each parameter block.
#ifndef CONCLAVE_MODELS_MODEL_H_
#define CONCLAVE_MODELS_MODEL_H_

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "models/kv_cache.h"
#include "models/modules/perturbation.h"
#include "models/recorder.h"
#include "proto/model.pb.h"

namespace conclave {

// Constants of problems known in closed form, for F = (1/M) sum_m F_m.
struct ProblemConstants {
  double lipschitz = 0;              // L of F
  double mean_square_lipschitz = 0;  // sqrt((1/M) sum_m L_m^2)
  double strong_monotonicity = 0;    // mu of F
};

// Immutable after construction; the same object may record on several threads, each with its own recorder.
class Model {
 public:
  virtual ~Model() = default;
  const ParameterSet& parameters() const { return parameters_; }
  const std::vector<TermSpec>& terms() const { return terms_; }  // terms()[0] is the one that evaluation reports as "loss"
  virtual SampleShape sample_shape() const = 0;
  // Number of experts of each MoE layer; empty: none.
  virtual std::vector<int> experts() const { return {}; }
  // Counters a leaf fills (token loads: [MoE layers, experts] flattened).
  virtual int64_t counters() const { return 0; }
  // State that no gradient moves. Record reads it, UpdateBuffers moves it: once for every accepted step, with the step's counters summed
  // over all leaves; never by evaluation.
  virtual std::vector<BufferSpec> buffers() const { return {}; }
  virtual void UpdateBuffers(std::span<const int64_t> /*counters*/, ModelBuffers* /*buffers*/) const {}

  // Records the terms of one leaf. Collective where the model has experts: every rank records, with zero rows where it has no leaf.
  virtual absl::Status Record(Recorder& recorder) const = 0;

  // What a second player adds to every sample, found anew in every evaluation by whoever differentiates the model; null: nothing.
  virtual const Perturbation* perturbation() const { return nullptr; }

  // Sequence models: logits [sequences * length, vocabulary] of the recorder's batch (targets unused). Others: Unimplemented.
  virtual absl::StatusOr<Var> Logits(Recorder& recorder) const;
  // Language models: positions a sequence may have. 0: not a language model.
  virtual int64_t context() const { return 0; }
  // What a cache must hold so that Logits of a batch that continues sequences equals, bit for bit, that of the whole sequences.
  virtual CacheShape cache_shape() const { return {}; }
  virtual int64_t vocabulary() const { return 0; }

  // Rows that an evaluation takes of its own accord, of all those there are, over all workers; 1: all of them, or none are counted.
  virtual double sample_share() const { return 1; }
  virtual std::optional<ProblemConstants> constants() const { return std::nullopt; }
  // The solution of a problem that has one in closed form: one value per element of `block`. Empty: unknown.
  virtual std::vector<double> Solution(BlockId block) const;
  // max_y f(x, y) - min_x f(x, y) of games that can compute it, from the legal point next to `point`; all blocks are local. Zero at
  // solutions only.
  virtual std::optional<double> Gap(const FlatVector& point) const;

 protected:
  ParameterSet parameters_;
  std::vector<TermSpec> terms_;
};

// What a model needs beside its message.
struct ModelContext {
  uint64_t seed = 1;
  int workers = 1;         // M
  int64_t vocabulary = 0;  // the tokenizer's; 0: no tokenizer
};

// Errors: InvalidArgument for a message that makes no model, with the field's name.
absl::StatusOr<std::unique_ptr<Model>> MakeModel(const ModelConfig& config, const ModelContext& context);

// Makers of the zoo (models/zoo/*.cc).
absl::StatusOr<std::unique_ptr<Model>> MakeMoeLm(const MoeLmConfig& config, const ModelContext& context);
absl::StatusOr<std::unique_ptr<Model>> MakeLinearVae(const LinearVaeConfig& config, const ModelContext& context);
absl::StatusOr<std::unique_ptr<Model>> MakeBilinearGame(const BilinearGameConfig& config, const ModelContext& context);
absl::StatusOr<std::unique_ptr<Model>> MakeQuadraticGame(const QuadraticGameConfig& config, const ModelContext& context);
absl::StatusOr<std::unique_ptr<Model>> MakeMatrixGame(const MatrixGameConfig& config, const ModelContext& context);
absl::StatusOr<std::unique_ptr<Model>> MakeRobustLeastSquares(const RobustLeastSquaresConfig& config, const ModelContext& context);
absl::StatusOr<std::unique_ptr<Model>> MakeAucSaddle(const AucSaddleConfig& config, const ModelContext& context);
absl::StatusOr<std::unique_ptr<Model>> MakeGroupRobust(const GroupRobustConfig& config, const ModelContext& context);
absl::StatusOr<std::unique_ptr<Model>> MakeDiracGan(const DiracGanConfig& config, const ModelContext& context);
absl::StatusOr<std::unique_ptr<Model>> MakeGaussianWgan(const GaussianWganConfig& config, const ModelContext& context);
absl::StatusOr<std::unique_ptr<Model>> MakeEightGaussians(const EightGaussiansConfig& config, const ModelContext& context);
absl::StatusOr<std::unique_ptr<Model>> MakeMaskedLm(const MaskedLmConfig& config, const ModelContext& context);
absl::StatusOr<std::unique_ptr<Model>> MakeRobustMlp(const RobustMlpConfig& config, const ModelContext& context);

DType ComputeDType(const ModelConfig& config);
ModelPrecision PrecisionOf(const ModelConfig& config);

}  // namespace conclave

#endif  // CONCLAVE_MODELS_MODEL_H_
