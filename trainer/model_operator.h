// ModelOperator: a model on data as an Operator. The only place where models meet optim, and where a gradient changes sign for a maximising
// player.
#ifndef CONCLAVE_TRAINER_MODEL_OPERATOR_H_
#define CONCLAVE_TRAINER_MODEL_OPERATOR_H_

#include <algorithm>
#include <memory>
#include <vector>

#include "data/evaluation_set.h"
#include "data/loader.h"
#include "models/model.h"
#include "optim/operator.h"
#include "parallel/mesh.h"
#include "trainer/expert_copies.h"
#include "trainer/expert_memory.h"
#include "trainer/leaf_gradients.h"
#include "trainer/leaf_table.h"
#include "trainer/sample_walk.h"

namespace conclave {

// f_m of worker m is differentiated leaf by leaf (micro_batches leaves a worker); F_m = M grad f_m, signed per player. Leaves of one worker
// are summed by the reduction tree before they are handed over. Where the model perturbs its samples, a leaf is differentiated at every
// point of their way, and F_m is the gradient by the parameters alone. An expert block's share of another rank's worker is handed over by
// the owner in that rank's data column, also where copies of the expert took part (ExpertCopies).
class ModelOperator : public Operator {
 public:
  struct Options {
    const Model* model = nullptr;
    const Mesh* mesh = nullptr;
    const Layout* layout = nullptr;
    ExpertDispatch* dispatch = nullptr;       // null: no experts
    RoutingRecorder* routing = nullptr;       // null: routing is not recorded
    const Loader* loader = nullptr;           // null: a model without data
    const EvaluationSet* held_out = nullptr;  // null or empty: nothing is held out
    WorkerMap workers;
    int64_t micro_batches = 1;
    uint64_t seed = 1;
    DType dtype = DType::kF32;
    ModelPrecision precision;
    bool recompute = false;           // keep only the results of the model's blocks
    ExpertMemory* experts = nullptr;  // null: all of the point is in memory
  };
  explicit ModelOperator(const Options& options);

  const Layout& layout() const override { return *options_.layout; }
  DType dtype() const override { return options_.dtype; }
  absl::StatusOr<Evaluation> Evaluate(const FlatVector& point, const SampleKey& key, bool each_worker, const OnBlock& on_block) override;
  // With an expert axis every worker of a column is evaluated all the same: its experts are the others' too.
  void Select(std::span<const char> workers) override { selected_ = workers; }
  void Attach(Exchange* exchange) override { attached_ = exchange; }
  OperatorConstants constants() const override;

  // Means of the terms over the first `batches` held-out batches of `rows` samples (0: all), weighted by tokens; counters are zero. Does
  // not depend on the number of ranks but for the rounding of expert products. Collective. Errors: FailedPrecondition if nothing is held
  // out.
  // log: written, or replayed to its end; null: neither.
  absl::StatusOr<Evaluation> EvaluateHeldOut(const FlatVector& point, int64_t batches, int64_t rows, RoutingLog* log = nullptr);

  // Held-out evaluations read parameters there from now on, see Recorder::ReadWeights. Error: InvalidArgument for a model whose held-out
  // samples move along gradients, since backward reads parameters again.
  absl::Status ReadWeights(std::function<Tensor(BlockId)> value_of);

  // Moves the model's buffers after a step that was accepted. evaluation: the step's first. Equal on every rank.
  void FinishStep(const Evaluation& evaluation) { options_.model->UpdateBuffers(evaluation.counters, &buffers_); }
  ModelBuffers& buffers() { return buffers_; }

  // Rows are the loader's samples, or those of the model's own.
  double evaluations() const override;
  // Memory, in bytes. Activations live in an arena, `activation_bytes` is its largest use since it was reserved; and expert_rows the most
  // rows that experts of this rank were sent of a leaf since then, as they count in memory: of all layers, or of one where blocks are
  // recorded again.
  int64_t activation_bytes() const { return std::max(before_.bytes, PeakOfArenas()); }
  int64_t expert_rows() const { return std::max(before_.rows, RowsOfALeaf()); }
  int64_t reserved_bytes() const {
    return arena_.reserved_bytes() + segments_.reserved_bytes() +
           (options_.dispatch == nullptr ? 0 : options_.dispatch->travel_reserved_bytes());
  }
  int64_t gradient_bytes() const { return gradients_.bytes() + (copies_ == nullptr ? 0 : copies_->bytes()); }
  int64_t sample_bytes() const;
  int64_t leaf_rows() const { return options_.loader == nullptr ? 0 : options_.loader->rows(); }  // samples of a leaf
  // Records and differentiates the first `rows` samples of this rank's first leaf of step 0, and forgets them. Returns what they took of
  // the arena. Takes the gradients' memory of evaluations that go through `exchange` (null: of each worker's own), and writes into its
  // places. Collective.
  absl::StatusOr<int64_t> MeasureLeaf(const FlatVector& point, int64_t rows, Exchange* exchange);
  // Takes over what belongs to the run, not to the placement that `before` was built for: buffers, counts, reserved memory and what was
  // used of it.
  void Continue(const ModelOperator& before);
  // Up to `bytes` of activations nothing will be allocated.
  void ReserveActivations(int64_t bytes);

 private:
  struct MicroStep {
    int64_t index = 0;
    int64_t turn = 0;  // which copies of experts it goes to: other ones in every micro-step and step
    bool last = false;
    bool each_worker = false;
    bool present = true;
  };
  // The leaf (worker * micro_batches + b) that `rank` runs in micro-step i, or -1.
  int64_t LeafOf(int rank, int64_t micro_step) const;
  bool Counts(int64_t worker) const { return selected_.empty() || selected_[worker] != 0; }
  absl::Status LoadLeaf(const SampleKey& key, int64_t index);
  absl::Status LoadLeaves(const SampleKey& key);
  std::span<const Seed> PlantSeeds(Recorder& recorder);
  absl::Status Differentiate(const FlatVector& point, const Batch& batch, const MicroStep& step, const OnBlock& on_block);
  // Where the samples stand.
  absl::Status RecordLeaf(Recorder& recorder, const FlatVector& point, const Batch& batch, bool present);
  absl::Status BackwardToSamples(Recorder& recorder);
  absl::Status Backward(const MicroStep& step, const OnBlock& on_block);
  absl::Status ReturnCopies(const MicroStep& step);
  absl::Status Deliver(const MicroStep& step, BlockId block, const OnBlock& on_block);
  absl::Status HandOver(const OnBlock& on_block, WorkerId worker, BlockId block, const Tensor& sum, bool folded);
  Recorder::Options WithArrivals(Recorder::Options options);
  double SampleShare() const;  // rows of a step, of all there are
  int64_t PeakOfArenas() const;
  int64_t RowsOfALeaf() const;
  double ScaleOf(TermScale scale, int64_t leaf_samples) const;

  Options options_;
  int64_t leaves_;          // M * micro_batches
  Arena arena_, segments_;  // activations; those of a block that is recorded again
  Tape tape_, forward_tape_;
  std::unique_ptr<ExpertCopies> copies_;  // null: every expert is on its owner alone
  LeafGradients gradients_;
  ModelBuffers buffers_;
  Recorder recorder_, forward_recorder_;
  Recorder search_recorder_;  // of points whose gradient by the parameters is not wanted
  SampleWalk walk_;
  std::vector<BatchBuffer> batches_;  // local leaves in order; the last one stays empty
  BatchBuffer held_out_batch_;
  LeafTable table_;
  std::vector<double> scales_;         // by term: of its derivative
  std::vector<int64_t> column_turns_;  // by coordinate of the expert axis: the running micro-step's, -1 where no leaf is run
  std::vector<char> final_;            // by block: handed over in the running micro-step
  int64_t step_samples_ = 0;           // T_step
  struct {
    int64_t full = 0, samples = 0;
  } evaluations_;                   // of single workers
  std::span<const char> selected_;  // by worker; empty: all
  struct {
    int64_t bytes = 0, rows = 0;
  } before_;  // what the operators used that this one goes on from
  Exchange* attached_ = nullptr;
};

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_MODEL_OPERATOR_H_
