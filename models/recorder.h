// Recorder: what a model sees while it records the objective of one leaf.
#ifndef CONCLAVE_MODELS_RECORDER_H_
#define CONCLAVE_MODELS_RECORDER_H_

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/rng.h"
#include "data/batch.h"
#include "models/model_buffers.h"
#include "parallel/expert_dispatch.h"
#include "tensor/layout.h"
#include "tensor/tape.h"

namespace conclave {

class KvCache;
class Model;
class RoutingLog;
class TokenTravel;

struct ModelPrecision {
  ProductPrecision products = ProductPrecision::kFull, router = ProductPrecision::kFull;
};

// How a term of f_m is weighed, so that sum_m f_m is the step's objective whatever the leaves are.
enum class TermScale {
  kPerSample,  // the recorded value is a sum over samples (tokens): divided by T_step
  kLeafMean,   // the recorded value is a mean over the leaf's samples: weighted by T_leaf / T_step
  kOnce,       // belongs to no sample (priors, games): weighted by 1 / number of leaves
};

struct TermSpec {
  std::string name;
  TermScale scale = TermScale::kPerSample;
  double coefficient = 1;  // its weight in the objective
  bool objective = true;   // false: reported only
};

// Gives each local block its gradient memory.
class GradientSlots {
 public:
  virtual ~GradientSlots() = default;
  virtual GradientSlot Slot(BlockId block) = 0;
};

// Is told which experts a mixture is about to use.
class ExpertReader {
 public:
  virtual ~ExpertReader() = default;
  // The first blocks of this rank's experts of `layer` (index among the MoE layers) that have rows; once a recording and layer.
  virtual void Use(int layer, std::span<const BlockId> experts) = 0;
};

// Randomness of a leaf's noise at op `site` of a model. Element: see Recorder::Noise.
RngKey LeafNoise(const Batch& batch, uint64_t seed, uint32_t site);

// One recording at a time; kept between leaves so that nothing is allocated. All pointers outlive it.
class Recorder {
 public:
  struct Options {
    Tape* tape = nullptr;
    const Model* model = nullptr;
    const ExpertDispatch* dispatch = nullptr;  // null: a model without experts
    GradientSlots* slots = nullptr;            // null: forward only
    ModelPrecision precision;                  // of the tape's products from now on
    uint64_t seed = 0;
    const ModelBuffers* buffers = nullptr;             // null: a model without buffers
    const FlatVector* copies = nullptr;                // values of blocks that the point does not hold here; null: none
    RoutingLog* routing_log = nullptr;                 // written, or replayed; null: neither
    std::function<absl::Status(BlockId)> before_read;  // awaits a parameter that may be on its way; empty: all are there
    KvCache* cache = nullptr;                          // the batch continues its begun sequences; null: batches are whole sequences
    TokenTravel* travel = nullptr;                     // tokens stay with their experts: rows change from layer to layer; needs the cache
    ExpertReader* experts = nullptr;                   // null: nobody asks
  };
  explicit Recorder(const Options& options);

  // Starts a leaf. `present` is false for a micro-step in which this rank has no leaf: the model still records (collectives), with zero
  // rows.
  void Begin(const FlatVector* point, const Batch* batch, bool present);
  // Starts an evaluation: clears the running counts.
  void BeginEvaluation();

  Tape& tape() const { return *options_.tape; }
  const Batch& batch() const { return *batch_; }
  bool present() const { return present_; }
  const ExpertDispatch& dispatch() const { return *options_.dispatch; }
  // The value of a parameter at the point; the block must be local. An error of before_read stays in arrival().
  Var Parameter(BlockId block);
  bool is_local(BlockId block) const { return point_->layout().is_local(block); }
  DType dtype() const { return point_->dtype(); }
  // Values of a model buffer; -1: none.
  std::span<const float> buffer(int index) const;
  ProductPrecision router_products() const { return options_.precision.router; }
  RoutingLog* routing_log() const { return options_.routing_log; }
  void UseRoutingLog(RoutingLog* log) { options_.routing_log = log; }
  // From now on parameters are `value_of` a block, asked for as the model comes to them, instead of the point's. Forward only.
  void ReadWeights(std::function<Tensor(BlockId)> value_of) { value_of_ = std::move(value_of); }
  ExpertReader* experts() const { return again() ? nullptr : options_.experts; }
  KvCache* cache() const { return options_.cache; }
  TokenTravel* travel() const { return options_.travel; }
  // Values that belong to the leaf's samples (models/modules/perturbation.h): [samples, width], from after Begin to the next Begin. What
  // backward finds for them is added to `gradient`; undefined: it is not wanted. searching: only that gradient is wanted of this recording.
  void UseSampleValues(const Tensor& values, const Tensor& gradient, bool searching);
  // Undefined: there are none, and samples are taken as they are.
  Var SampleValues() const { return sample_values_; }
  bool searching() const { return searching_; }
  // Randomness of this leaf's noise at op `site` of the model; element = row of the worker's share (batch.first_row + i) times width +
  // column.
  RngKey Noise(uint32_t site) const { return LeafNoise(*batch_, options_.seed, site); }

  // record(recorder, x): one block of the model, from its input to its result. Where the tape has memory for segments, only the result is
  // kept and backward records the block again; terms, metrics, counts and poison of that second time are dropped. `record` captures plain
  // values only. Blocks do not nest.
  template <typename F>
  absl::StatusOr<Var> Block(Var x, F record) {
    return tape().Segment(x, {&InnerSeeds, this}, [this, x, record](Tape::Pass pass) -> absl::StatusOr<Var> {
      pass_ = pass;
      inner_seeds_.clear();
      absl::StatusOr<Var> result = record(*this, x);
      pass_ = Tape::Pass::kWhole;
      return result;
    });
  }
  // Whether a block is being recorded a second time: what adds up over recordings is already there.
  bool again() const { return pass_ == Tape::Pass::kAgain; }

  // value: scalar f64. Adds weight * value to term `term`.
  void AddTerm(int term, Var value, double weight = 1);
  // A value that is not differentiated.
  void AddMetric(int term, double value) {
    if (!again()) values_[term] += value;
  }
  // What the loss cannot survive (non-finite router logits): the leaf's terms become NaN, so that all ranks refuse the step together.
  void Poison(const absl::Status& reason);

  std::span<int64_t> counters() { return again() ? dropped_ : counters_; }  // of this leaf, cleared by Begin
  std::span<int64_t> running_counts() { return running_; }  // since BeginEvaluation, equal on all ranks; the model's to fill

  struct Recorded {
    int term;
    Var value;
    double weight;
  };
  std::span<const Recorded> recorded() const { return recorded_; }  // outside of blocks
  // Before backward: what the objective's derivative by term t is to be multiplied with, its coefficient aside. Returns the seeds of the
  // terms recorded outside of blocks; those inside follow as their block is recorded again.
  std::span<const Seed> PlantSeeds(std::span<const double> scales);
  std::span<const double> values() const { return values_; }  // by term, unscaled, coefficient not applied
  const absl::Status& poison() const { return poison_; }
  const absl::Status& arrival() const { return arrival_; }  // not OK: parameters never came, the recording is void

 private:
  Var Declare(BlockId block);
  static std::span<const Seed> InnerSeeds(void* recorder) { return static_cast<Recorder*>(recorder)->inner_seeds_; }
  void AddSeed(const Recorded& recorded, std::vector<Seed>& seeds) const;

  Options options_;
  std::function<Tensor(BlockId)> value_of_;
  const FlatVector* point_ = nullptr;
  const Batch* batch_ = nullptr;
  bool present_ = true;
  std::vector<Var> parameters_;  // by block id
  Var sample_values_;
  bool searching_ = false;
  std::vector<Recorded> recorded_;
  std::vector<double> values_;
  std::vector<int64_t> counters_, running_, dropped_;
  std::vector<double> scales_;  // by term
  std::vector<Seed> seeds_, inner_seeds_;
  Tape::Pass pass_ = Tape::Pass::kWhole;
  absl::Status poison_, arrival_;
};

}  // namespace conclave

#endif  // CONCLAVE_MODELS_RECORDER_H_
