#include "trainer/model_operator.h"

#include <algorithm>
#include <functional>

#include "base/log.h"
#include "base/trace.h"
#include "models/routing_log.h"

namespace conclave {
namespace {

void Negate(const Tensor& x) {
  DispatchFloat(x.dtype(), [&](auto t) {
    for (auto& v : x.span<decltype(t)>()) v = -v;
  });
}

std::unique_ptr<ExpertCopies> CopiesOf(const ModelOperator::Options& o) {
  if (o.dispatch == nullptr || !o.dispatch->placement().has_copies()) return nullptr;
  return std::make_unique<ExpertCopies>(o.mesh, &o.model->parameters(), &o.dispatch->placement(), o.dtype);
}

Recorder::Options RecorderOptions(const ModelOperator::Options& o, Tape* tape, GradientSlots* slots, const ModelBuffers* buffers,
                                  const ExpertCopies* copies) {
  return {.tape = tape,
          .model = o.model,
          .dispatch = o.dispatch,
          .slots = slots,
          .precision = o.precision,
          .seed = o.seed,
          .buffers = buffers,
          .copies = copies == nullptr ? nullptr : &copies->values(),
          .experts = o.experts};
}

}  // namespace

ModelOperator::ModelOperator(const Options& options)
    : options_(options),
      leaves_(options.workers.workers * options.micro_batches),
      tape_(&arena_, /*gradients=*/true, options.recompute ? &segments_ : nullptr),
      forward_tape_(&arena_, /*gradients=*/false, options.recompute ? &segments_ : nullptr),
      copies_(CopiesOf(options)),
      gradients_(options.layout, options.dtype, options.workers.expert_axis, options.micro_batches,
                 copies_ == nullptr ? nullptr : &copies_->values().layout()),
      buffers_(options.model->buffers()),
      recorder_(WithArrivals(RecorderOptions(options, &tape_, &gradients_, &buffers_, copies_.get()))),
      forward_recorder_(RecorderOptions(options, &forward_tape_, nullptr, &buffers_, copies_.get())),
      search_recorder_(WithArrivals(RecorderOptions(options, &tape_, nullptr, &buffers_, copies_.get()))),
      walk_(options.model->perturbation(), &arena_),
      held_out_batch_(options.model->sample_shape(), 0, options.dtype),
      table_(static_cast<int64_t>(options.model->terms().size()), options.model->counters()),
      final_(options.model->parameters().size()) {
  const int64_t rows = options.loader == nullptr ? 0 : options.loader->rows();
  const int64_t local = options.workers.Count(options.mesh->rank()) * options.micro_batches;
  batches_.reserve(local + 1);
  for (int64_t i = 0; i < local; ++i) batches_.emplace_back(options.model->sample_shape(), rows, options.dtype);
  batches_.emplace_back(options.model->sample_shape(), 0, options.dtype).Resize(0);
  scales_.resize(options.model->terms().size());
  column_turns_.resize(options.mesh->shape().expert);
}

Recorder::Options ModelOperator::WithArrivals(Recorder::Options options) {
  options.before_read = [this](BlockId block) { return attached_ == nullptr ? absl::OkStatus() : attached_->AwaitShared(block); };
  return options;
}

OperatorConstants ModelOperator::constants() const {
  OperatorConstants constants;
  if (const auto known = options_.model->constants()) {
    constants.lipschitz = known->lipschitz;
    constants.mean_square_lipschitz = known->mean_square_lipschitz;
    constants.strong_monotonicity = known->strong_monotonicity;
  }
  return constants;
}

int64_t ModelOperator::LeafOf(int rank, int64_t micro_step) const {
  if (micro_step >= options_.workers.Count(rank) * options_.micro_batches) return -1;
  return options_.workers.First(rank) * options_.micro_batches + micro_step;
}

double ModelOperator::ScaleOf(TermScale scale, int64_t leaf_samples) const {
  const double total = static_cast<double>(std::max<int64_t>(step_samples_, 1));
  switch (scale) {
    case TermScale::kPerSample:
      return 1.0 / total;
    case TermScale::kLeafMean:
      return static_cast<double>(leaf_samples) / total;
    case TermScale::kOnce:
      return 1.0 / static_cast<double>(leaves_);
  }
  return 0;
}

absl::Status ModelOperator::LoadLeaf(const SampleKey& key, int64_t index) {
  const WorkerId worker{static_cast<int>(LeafOf(options_.mesh->rank(), index) / options_.micro_batches)};
  if (options_.loader != nullptr) return options_.loader->FillLeaf(key, worker, index % options_.micro_batches, &batches_[index]);
  Batch& batch = batches_[index].Resize(0);
  batch.key = key;
  batch.worker = worker;
  return absl::OkStatus();
}

absl::Status ModelOperator::LoadLeaves(const SampleKey& key) {
  const TraceSpan span("load");
  int64_t samples = 0;
  for (int64_t i = 0; LeafOf(options_.mesh->rank(), i) >= 0; ++i) {
    RETURN_IF_ERROR(LoadLeaf(key, i));
    samples += batches_[i].batch().count;
  }
  RETURN_IF_ERROR(options_.mesh->control().AllReduce("step samples", Tensor(&samples, {1}, DType::kI64), ReduceOp::kSum));
  step_samples_ = samples;
  return absl::OkStatus();
}

absl::StatusOr<Evaluation> ModelOperator::Evaluate(const FlatVector& point, const SampleKey& key, bool each_worker,
                                                   const OnBlock& on_block) {
  RETURN_IF_ERROR(LoadLeaves(key));
  if (copies_ != nullptr) RETURN_IF_ERROR(copies_->SendWeights(point));
  const std::vector<TermSpec>& terms = options_.model->terms();
  const int64_t micro_steps = options_.workers.MostPerRank() * options_.micro_batches;
  table_.Begin(leaves_);
  recorder_.BeginEvaluation();
  gradients_.Begin(each_worker, attached_);
  for (int64_t i = 0; i < micro_steps; ++i) {
    const int64_t leaf = LeafOf(options_.mesh->rank(), i), turn = int64_t{key.step} + i;
    const bool counts = leaf >= 0 && Counts(leaf / options_.micro_batches);
    if (!counts && !selected_.empty() && options_.workers.expert_axis == 1) continue;
    const Batch& batch = batches_[leaf >= 0 ? i : batches_.size() - 1].batch();
    if (each_worker && i > 0) gradients_.ClearRunning();
    if (options_.dispatch != nullptr) options_.dispatch->BeginLeaf(leaf < 0 ? -1 : turn);
    if (options_.routing != nullptr && leaf >= 0) options_.routing->BeginLeaf(leaf, turn);
    RETURN_IF_ERROR(Differentiate(
        point, batch, {.index = i, .turn = turn, .last = i + 1 == micro_steps, .each_worker = each_worker, .present = leaf >= 0},
        on_block));
    if (!counts) continue;
    for (size_t t = 0; t < terms.size(); ++t) table_.At(leaf, t) = recorder_.values()[t] * ScaleOf(terms[t].scale, batch.count);
    table_.Count(recorder_.counters());
  }
  if (options_.routing != nullptr) options_.routing->EndEvaluation();
  Evaluation evaluation{.samples = step_samples_};
  evaluation.by_worker.resize(options_.workers.workers * terms.size());
  RETURN_IF_ERROR(table_.Gather(options_.mesh->control(), options_.micro_batches, evaluation.by_worker));
  (key.full ? evaluations_.full : evaluations_.samples) +=
      selected_.empty() ? options_.workers.workers : std::ranges::count_if(selected_, [](char c) { return c != 0; });
  for (size_t t = 0; t < terms.size(); ++t) {
    const double value = table_.Sum(t);
    evaluation.terms.push_back({terms[t].name, value, terms[t].objective, terms[t].coefficient});
    if (terms[t].objective) evaluation.objective += terms[t].coefficient * value;
  }
  for (int64_t c = 0; c < table_.counters(); ++c) evaluation.counters.push_back(table_.Counter(c));
  return evaluation;
}

std::span<const Seed> ModelOperator::PlantSeeds(Recorder& recorder) {
  const std::vector<TermSpec>& terms = options_.model->terms();
  const double weight = walk_.weight() * static_cast<double>(options_.workers.workers);
  for (size_t t = 0; t < terms.size(); ++t) scales_[t] = ScaleOf(terms[t].scale, recorder.batch().count) * weight;
  return recorder.PlantSeeds(scales_);
}

// One leaf, at every point of its samples' way; without a perturbation that is one.
absl::Status ModelOperator::Differentiate(const FlatVector& point, const Batch& batch, const MicroStep& step, const OnBlock& on_block) {
  arena_.Reset();
  walk_.Begin(batch, options_.seed, options_.dtype);
  do {
    Recorder& recorder = walk_.counts() ? recorder_ : search_recorder_;
    {
      const TraceSpan span("forward", step.index);
      RETURN_IF_ERROR(RecordLeaf(recorder, point, batch, step.present));
    }
    if (options_.routing != nullptr) options_.routing->EndLeaf();
    if (!recorder.poison().ok()) LOG_WARNING << "step " << batch.key.step << ": " << recorder.poison().message();
    if (walk_.last()) {
      RETURN_IF_ERROR(Backward(step, on_block));
    } else {
      RETURN_IF_ERROR(BackwardToSamples(recorder));
    }
  } while (walk_.Move(batch));
  return absl::OkStatus();
}

absl::Status ModelOperator::RecordLeaf(Recorder& recorder, const FlatVector& point, const Batch& batch, bool present) {
  recorder.tape().Reset();
  recorder.Begin(&point, &batch, present);
  walk_.Place(recorder);
  RETURN_IF_ERROR(options_.model->Record(recorder));
  return recorder.arrival();
}

// The samples' player goes up or down by the gradient it finds; that of the parameters stays where it is, unless this point counts.
absl::Status ModelOperator::BackwardToSamples(Recorder& recorder) {
  RETURN_IF_ERROR(tape_.Backward(PlantSeeds(recorder), [](BlockId) { return absl::OkStatus(); }));
  if (walk_.player() == Player::kMin) Negate(walk_.gradient());
  return absl::OkStatus();
}

absl::Status ModelOperator::Backward(const MicroStep& step, const OnBlock& on_block) {
  const TraceSpan span("backward", step.index);
  std::ranges::fill(final_, false);
  const auto on_final = [&](BlockId block) {
    if (copies_ != nullptr && (copies_->here(block) || copies_->elsewhere(block))) return absl::OkStatus();  // not complete yet
    final_[block.value] = true;
    if (options_.experts != nullptr) options_.experts->Done(block);
    return Deliver(step, block, on_block);
  };
  RETURN_IF_ERROR(
      tape_.Backward(PlantSeeds(recorder_), std::ref(on_final)));  // by reference: a copy would not fit into the function object
  if (copies_ != nullptr) RETURN_IF_ERROR(ReturnCopies(step));
  // Blocks that are complete only now, and those that this recording did not use (a rank without a leaf in this micro-step, a branch of the
  // model): nothing was added to them, but what earlier leaves left must still be handed over, and every leaf must be counted.
  for (const BlockId block : options_.layout->local_blocks()) {
    if (!final_[block.value]) RETURN_IF_ERROR(Deliver(step, block, on_block));
  }
  return absl::OkStatus();
}

absl::Status ModelOperator::ReturnCopies(const MicroStep& step) {
  if (!step.each_worker) return step.last ? copies_->ReturnGradients(&gradients_, {}) : absl::OkStatus();
  const int first = options_.mesh->data_coordinate() * options_.mesh->shape().expert;
  for (size_t c = 0; c < column_turns_.size(); ++c) column_turns_[c] = LeafOf(first + static_cast<int>(c), step.index) < 0 ? -1 : step.turn;
  return copies_->ReturnGradients(&gradients_, column_turns_);
}

absl::Status ModelOperator::HandOver(const OnBlock& on_block, WorkerId worker, BlockId block, const Tensor& sum, bool folded) {
  if (options_.model->parameters()[block].player == Player::kMax) Negate(sum);
  return on_block(worker, block, sum, folded);
}

absl::Status ModelOperator::Deliver(const MicroStep& step, BlockId block, const OnBlock& on_block) {
  const int rank = options_.mesh->rank();
  if (!step.each_worker) {
    return step.last ? HandOver(on_block, {options_.workers.First(rank)}, block, gradients_.Running(block, 0), true) : absl::OkStatus();
  }
  const bool expert = options_.model->parameters()[block].kind == BlockKind::kExpert;
  const int first = expert ? options_.mesh->data_coordinate() * options_.mesh->shape().expert : rank;
  for (int lane = 0; lane < gradients_.lanes(block); ++lane) {
    const int64_t leaf = LeafOf(first + lane, step.index);
    if (leaf < 0) continue;
    const Tensor sum = gradients_.Merge(block, lane, leaf % options_.micro_batches);
    const WorkerId worker{static_cast<int>(leaf / options_.micro_batches)};
    if (sum.defined() && Counts(worker.value)) RETURN_IF_ERROR(HandOver(on_block, worker, block, sum, false));
  }
  return absl::OkStatus();
}

double ModelOperator::SampleShare() const {
  if (options_.loader == nullptr) return options_.model->sample_share();
  const double rows = static_cast<double>(options_.loader->rows() * leaves_),
               all = static_cast<double>(options_.loader->samples_per_epoch());
  return rows > 0 ? rows / all : 1;
}

double ModelOperator::evaluations() const {
  const double samples = SampleShare() * static_cast<double>(evaluations_.samples);
  return (static_cast<double>(evaluations_.full) + samples) / options_.workers.workers;
}

int64_t ModelOperator::sample_bytes() const {
  int64_t total = held_out_batch_.bytes();
  for (const BatchBuffer& batch : batches_) total += batch.bytes();
  return total;
}

int64_t ModelOperator::PeakOfArenas() const {
  return arena_.peak_bytes() + segments_.peak_bytes() + (options_.dispatch == nullptr ? 0 : options_.dispatch->travel_bytes());
}

int64_t ModelOperator::RowsOfALeaf() const {
  if (options_.dispatch == nullptr) return 0;
  return options_.recompute ? options_.dispatch->most_rows().layer : options_.dispatch->most_rows().layers;
}

absl::StatusOr<int64_t> ModelOperator::MeasureLeaf(const FlatVector& point, int64_t rows, Exchange* exchange) {
  RETURN_IF_ERROR(LoadLeaf({}, 0));
  const Batch batch = FirstRows(batches_[0].batch(), rows);
  step_samples_ = batch.count;
  recorder_.BeginEvaluation();
  const bool each_worker = exchange == nullptr || exchange->wants_each_worker();
  gradients_.Begin(each_worker, exchange);
  arena_.Reserve(0);
  segments_.Reserve(0);
  if (options_.dispatch != nullptr) options_.dispatch->ReserveTravel(0), options_.dispatch->ForgetRows(), options_.dispatch->BeginLeaf(-1);
  const auto forget = [](WorkerId, BlockId, const Tensor&, bool) { return absl::OkStatus(); };
  RETURN_IF_ERROR(Differentiate(point, batch, {.last = true, .each_worker = each_worker}, forget));
  return activation_bytes();
}

void ModelOperator::Continue(const ModelOperator& before) {
  for (int i = 0; i < buffers_.size(); ++i) std::ranges::copy(before.buffers_.values(i), buffers_.values(i).begin());
  evaluations_ = before.evaluations_;
  before_ = {.bytes = before.activation_bytes(), .rows = before.expert_rows()};
  arena_.Reserve(before.arena_.reserved_bytes());
  if (options_.recompute) segments_.Reserve(before.segments_.reserved_bytes());
  if (options_.dispatch != nullptr) options_.dispatch->ReserveTravel(before.options_.dispatch->travel_reserved_bytes());
}

void ModelOperator::ReserveActivations(int64_t bytes) {
  arena_.Reserve(bytes);
  if (options_.recompute) segments_.Reserve(bytes);
  if (options_.dispatch != nullptr && options_.dispatch->cuts()) options_.dispatch->ReserveTravel(bytes);
  if (options_.dispatch != nullptr) options_.dispatch->ForgetRows();
}

absl::Status ModelOperator::ReadWeights(std::function<Tensor(BlockId)> value_of) {
  const Perturbation* const perturbation = options_.model->perturbation();
  if (perturbation != nullptr && perturbation->held_out_moves() > 0) {
    return InvalidArgument(
        "held-out samples of this model are moved along gradients, %d times each, and gradients need all layers in memory; leave out "
        "--resident-layers",
        perturbation->held_out_moves());
  }
  forward_recorder_.ReadWeights(std::move(value_of));
  return absl::OkStatus();
}

absl::StatusOr<Evaluation> ModelOperator::EvaluateHeldOut(const FlatVector& point, int64_t batches, int64_t rows, RoutingLog* log) {
  const int64_t available = options_.held_out == nullptr ? 0 : options_.held_out->batches(rows);
  if (available == 0) return FailedPrecondition("evaluation: no samples are held out; set data.validation_fraction above 0");
  const int64_t count = batches == 0 ? available : std::min(batches, available);
  const std::vector<TermSpec>& terms = options_.model->terms();
  const int64_t ranks = options_.mesh->ranks(), rank = options_.mesh->rank();
  LeafTable table(static_cast<int64_t>(terms.size()) + 1, 0);  // last column: samples
  table.Begin(count);
  forward_recorder_.BeginEvaluation();
  forward_recorder_.UseRoutingLog(log);
  if (options_.dispatch != nullptr) options_.dispatch->BeginHeldOut();
  for (int64_t i = 0; i < (count + ranks - 1) / ranks; ++i) {
    const int64_t index = i * ranks + rank;
    if (index < count) {
      RETURN_IF_ERROR(options_.held_out->Fill(index, rows, &held_out_batch_));
    } else {
      held_out_batch_.Resize(0).count = 0;
    }
    const Batch& batch = held_out_batch_.batch();
    step_samples_ = batch.count;
    arena_.Reset();
    walk_.Begin(batch, options_.seed, options_.dtype, /*held_out=*/true);
    do {
      RETURN_IF_ERROR(RecordLeaf(walk_.last() ? forward_recorder_ : search_recorder_, point, batch, index < count));
      if (!walk_.last()) RETURN_IF_ERROR(BackwardToSamples(search_recorder_));
    } while (walk_.Move(batch));
    if (index >= count) continue;
    const double samples = static_cast<double>(batch.count);
    for (size_t t = 0; t < terms.size(); ++t) {
      table.At(index, t) = forward_recorder_.values()[t] * (terms[t].scale == TermScale::kPerSample ? 1.0 : samples);
    }
    table.At(index, terms.size()) = samples;
  }
  forward_recorder_.UseRoutingLog(nullptr);
  if (log != nullptr && log->replays()) RETURN_IF_ERROR(log->ExpectEnd());
  RETURN_IF_ERROR(table.Gather(options_.mesh->control(), 1));
  const double samples = table.Sum(terms.size());
  Evaluation evaluation{.samples = static_cast<int64_t>(samples)};
  for (size_t t = 0; t < terms.size(); ++t) {
    const double value = table.Sum(t) / std::max(samples, 1.0);
    evaluation.terms.push_back({terms[t].name, value, terms[t].objective, terms[t].coefficient});
    if (terms[t].objective) evaluation.objective += terms[t].coefficient * value;
  }
  return evaluation;
}

}  // namespace conclave
