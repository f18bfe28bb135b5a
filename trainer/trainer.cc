#include "trainer/trainer.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/strings.h"
#include "base/trace.h"
#include "optim/norm.h"
#include "trainer/agreement.h"
#include "trainer/replica_check.h"
#include "trainer/starting_weights.h"
#include "trainer/version.h"

namespace conclave {
namespace {

constexpr int64_t kSpansOfAStep = 1 << 14;
constexpr int64_t kStepsBeforeMemoryIsReported = 3;

// Physical bytes of the step over all links but self.
void FillWire(const WireReport& report, StepRecord* record) {
  const WireCount between = report.BetweenRanks();
  record->wire = {.logical_up = report.logical.uplink_bytes,
                  .logical_down = report.logical.downlink_bytes,
                  .physical_sent = between.sent_bytes,
                  .physical_received = between.received_bytes};
}

// A model's routers, experts and all else.
void AddNorms(const std::string& name, const VectorNorms& norms, StepRecord* record) {
  record->extra.push_back({name + ".router", norms.router});
  record->extra.push_back({name + ".experts", norms.expert});
  record->extra.push_back({name + ".dense", norms.dense});
}

// Largest load over mean load of each MoE layer, and the largest of all: 1 is perfect balance.
void AddLoads(const Evaluation& evaluation, const std::vector<int>& experts, StepRecord* record) {
  size_t next = 0;
  for (size_t layer = 0; layer < experts.size(); ++layer) {
    int64_t total = 0, most = 0;
    for (int e = 0; e < experts[layer]; ++e) {
      total += evaluation.counters[next];
      most = std::max(most, evaluation.counters[next++]);
    }
    const double ratio = total == 0 ? 0 : static_cast<double>(most) * experts[layer] / static_cast<double>(total);
    record->extra.push_back({absl::StrFormat("load_max_over_mean.%d", layer), ratio});
  }
  // With a capacity, the slots without room, of each layer, come after the loads.
  for (size_t layer = 0; next < evaluation.counters.size() && layer < experts.size(); ++layer) {
    record->extra.push_back({absl::StrFormat("dropped_slots.%d", layer), static_cast<double>(evaluation.counters[next++])});
  }
}

}  // namespace

Trainer::Trainer(Assembly* assembly, Communicator* control, const TrainerOptions& options)
    : assembly_(*assembly), control_(*control), options_(options) {
  if (assembly_.config.trainer().eval().ema_decay() > 0) {
    averaged_ = FlatVector(&*assembly_.layout, assembly_.dtype());
    averaged_.CopyFrom(assembly_.scheme->point());
  }
  rebalancer_ =
      std::make_unique<Rebalancer>(MigratedRun{.assembly = assembly, .averaged = &averaged_, .state = [this] { return MakeState(); }},
                                   Rebalancer::Options{.files = options.files, .folder = options.folder});
}

absl::StatusOr<std::unique_ptr<Trainer>> Trainer::Create(Assembly* assembly, Communicator* control, const TrainerOptions& options) {
  std::unique_ptr<Trainer> trainer(new Trainer(assembly, control, options));
  const CheckpointConfig& config = assembly->config.checkpoint();
  const std::string folder = config.dir().empty() ? options.folder->Checkpoints() : config.dir();
  ASSIGN_OR_RETURN(trainer->store_, CheckpointStore::Open(*options.files, *control, folder, config));
  RETURN_IF_ERROR(trainer->FixMemory());
  RETURN_IF_ERROR(trainer->Restore());
  RETURN_IF_ERROR(AgreeOn(*control, trainer->OpenTelemetry(), "opening the metrics"));
  if (control->ledger() != nullptr) control->ledger()->Take();  // what came before the first step is not the step's
  return trainer;
}

StateDict Trainer::MakeState() {
  StateDict state;
  assembly_.scheme->Register(state);
  assembly_.guard->Register(state);
  const ModelBuffers& buffers = assembly_.field->buffers();
  buffers.Register("model", control_.rank() == 0, state);
  if (averaged_.defined()) {
    state.Add("average", averaged_);
    buffers.Register("average", control_.rank() == 0, state);  // with the averaged weights, so that they are a whole model
  }
  return state;
}

absl::Status Trainer::Restore() {
  if (options_.resume) {
    ASSIGN_OR_RETURN(const std::optional<LoadedCheckpoint> loaded, store_->LoadNewest(MakeState()));
    if (loaded) {
      const SavedState& state = loaded->manifest.state();
      cursor_.step = static_cast<int64_t>(state.cursor().step());
      if (state.best().has_value()) best_ = state.best().value();
      best_step_ = static_cast<int64_t>(state.best().step());
      last_saved_ = cursor_.step;
      RETURN_IF_ERROR(RestorePlacement(state));
      rebalancer_->Restore(state.routing());
      if (assembly_.expert_memory != nullptr) assembly_.expert_memory->Trim();
      if (control_.rank() == 0) LOG_INFO << "resumed from " << loaded->path << " at step " << cursor_.step;
      return absl::OkStatus();
    }
    if (!assembly_.config.checkpoint().fresh_start()) {
      return NotFound("--resume: no usable checkpoint in '%s'; start without --resume, or set checkpoint.fresh_start: true",
                      store_->folder());
    }
  }
  if (assembly_.config.trainer().has_init_from()) {
    RETURN_IF_ERROR(LoadStartingWeights(*options_.files, control_, &assembly_));
    if (averaged_.defined()) averaged_.CopyFrom(assembly_.scheme->point());
    if (assembly_.expert_memory != nullptr) assembly_.expert_memory->Trim();
  }
  return assembly_.scheme->Start(*assembly_.field);
}

absl::Status Trainer::FixMemory() {
  ASSIGN_OR_RETURN(memory_plan_, PlanMemory(assembly_));
  if (assembly_.expert_memory) assembly_.expert_memory->Trim();
  if (control_.rank() != 0) return absl::OkStatus();
  for (const std::string& line : SplitString(MemoryTable(assembly_, memory_plan_), '\n')) {
    if (!line.empty()) LOG_INFO << line;
  }
  return absl::OkStatus();
}

void Trainer::ReportMemory() const {
  if (control_.rank() != 0) return;
  LOG_INFO << MemoryLine(assembly_, memory_plan_);
  if (assembly_.expert_memory == nullptr) return;
  const ExpertMemory::Counts counts = assembly_.expert_memory->TakeCounts();
  LOG_INFO << "experts in memory when asked for: " << counts.hits << "; fetched: " << counts.fetched
           << ", used without staying: " << counts.uncached << ", written: " << counts.written;
}

// A checkpoint loads into any placement. Where the expert axis is what it was, the run goes on with the one it had.
absl::Status Trainer::RestorePlacement(const SavedState& state) {
  const ParallelConfig& parallel = assembly_.config.parallel();
  if (parallel.updates() == ParallelConfig::SHARDED || parallel.has_expert_memory()) return absl::OkStatus();  // experts do not move there
  const PlacementTable& current = TableOf(*assembly_.placement);
  ExpertTables saved;
  for (const SavedPlacement& layer : state.placement()) {
    saved.owners.emplace_back(layer.coordinate().begin(), layer.coordinate().end());
    std::vector<std::vector<int>>& copies = saved.copies.emplace_back(saved.owners.back().size());
    for (const SavedPlacement::Copy& copy : layer.copies()) {
      if (copy.expert() < copies.size()) copies[copy.expert()].push_back(static_cast<int>(copy.coordinate()));
    }
  }
  if (saved.owners.empty() || !ExpertPlacement::FromTables(saved, assembly_.placement->axis()).ok()) return absl::OkStatus();
  for (size_t layer = 0; layer < saved.owners.size(); ++layer) {
    if (saved.owners.size() != current.size() || saved.owners[layer].size() != current[layer].size()) return absl::OkStatus();
  }
  StepRecord record;
  return rebalancer_->MoveTo(saved, &record);
}

absl::Status Trainer::OpenTelemetry() {
  if (control_.rank() != 0) return absl::OkStatus();
  const ObserveConfig& observe = assembly_.config.observe();
  TelemetryOptions telemetry{
      .files = options_.files, .folder = options_.folder->path(), .resumed_step = cursor_.step, .metrics = observe.metrics()};
  ASSIGN_OR_RETURN(telemetry_, Telemetry::Open(telemetry));
  ProgressOptions progress = ProgressOptionsFor(observe.progress(), control_.rank());
  progress.first = cursor_.step;
  progress.total = total_steps();
  progress.line_steps = assembly_.config.trainer().log_every();
  progress_ = std::make_unique<Progress>(progress);
  return absl::OkStatus();
}

void Trainer::SetPhase(Phase phase) {
  if (control_.watchdog() != nullptr) control_.watchdog()->SetPhase(phase, cursor_.step);
}

absl::StatusOr<StopReason> Trainer::Run() {
  StopReason reason = StopReason::kNone;
  const int64_t first = cursor_.step;
  while (cursor_.step < total_steps()) {
    RETURN_IF_ERROR(Step().status());
    if (cursor_.step == first + kStepsBeforeMemoryIsReported) ReportMemory();
    ASSIGN_OR_RETURN(reason, options_.stop->Agree(control_));
    if (options_.stop_after > 0 && cursor_.step == options_.stop_after) reason = std::max(reason, StopReason::kPreempted);
    if (reason != StopReason::kNone) break;
  }
  if (cursor_.step >= total_steps()) reason = StopReason::kNone;
  if (last_saved_ != cursor_.step) RETURN_IF_ERROR(Save());
  if (cursor_.step > first) {
    ReportMemory();
    RETURN_IF_ERROR(rebalancer_->Finish());
  }
  if (telemetry_ != nullptr) {
    progress_->Finish();
    telemetry_->Sync();
    telemetry_->UpdateStatus({.phase = reason == StopReason::kNone ? "finished" : "stopped",
                              .step = cursor_.step,
                              .steps = total_steps(),
                              .ranks = control_.size(),
                              .last_checkpoint = last_saved_},
                             true);
    if (const std::string missing = telemetry_->Missing(); !missing.empty()) LOG_WARNING << missing;
  }
  return reason;
}

absl::StatusOr<StepReport> Trainer::Step() {
  const int64_t every = assembly_.config.observe().trace_every();
  if (every == 0 || cursor_.step % every != 0) return Attempt();
  Tracer tracer(control_.rank(), kSpansOfAStep);
  const std::string path = options_.folder->Trace(cursor_.step, control_.rank());
  absl::StatusOr<StepReport> report;
  {
    const ThreadTrace bound(&tracer, "compute");
    report = Attempt();
  }
  RETURN_IF_ERROR(report.status());
  absl::Status written = options_.files->CreateDirs(ParentPath(path));
  if (written.ok()) written = options_.files->WriteAtomically(path, tracer.ToJson());
  if (!written.ok()) LOG_WARNING << "the run goes on without a trace of this step: " << written.message();
  return report;
}

absl::StatusOr<StepReport> Trainer::Attempt() {
  const TraceSpan span("step", cursor_.step);
  const double began = RealClock().Seconds();
  SetPhase(Phase::kStep);
  rebalancer_->BeforeStep(cursor_.step);
  ASSIGN_OR_RETURN(StepReport report, assembly_.scheme->Step(*assembly_.field, cursor_, *assembly_.guard));
  ++cursor_.step;  // moves even when the guard refused the update
  if (!report.skipped) assembly_.field->FinishStep(report.evaluation);
  if (assembly_.expert_memory) assembly_.expert_memory->EndStep();
  RETURN_IF_ERROR(AverageWeights());
  StepRecord record;
  std::optional<WireReport> wire;
  if (control_.ledger() != nullptr) wire = control_.ledger()->Take();
  if (wire) FillWire(*wire, &record);
  record.seconds.step = RealClock().Seconds() - began;

  const int64_t every = assembly_.config.trainer().eval().every();
  const bool last = cursor_.step == total_steps();
  if (assembly_.data.evaluation.size() > 0 && (last || (every > 0 && cursor_.step % every == 0))) RETURN_IF_ERROR(Evaluate(&record));
  if (cursor_.step % assembly_.config.trainer().log_every() == 0) RETURN_IF_ERROR(MeasureParameters(&record));
  RETURN_IF_ERROR(CompareReplicas());
  RETURN_IF_ERROR(rebalancer_->AfterStep(cursor_.step, wire ? &*wire : nullptr, &record));
  if (control_.ledger() != nullptr) control_.ledger()->Take();  // routing records and migrations are no part of the next step
  Record(report, std::move(record));
  const int64_t save_every = assembly_.config.checkpoint().every();
  if (save_every > 0 && cursor_.step % save_every == 0 && !last) RETURN_IF_ERROR(Save());
  return report;
}

absl::Status Trainer::CompareReplicas() {
  const int64_t every = assembly_.config.observe().replicas_every();
  const bool due = every > 0 && (cursor_.step % every == 0 || cursor_.step == total_steps());
  if (!due || control_.size() == 1 || assembly_.expert_memory != nullptr) return absl::OkStatus();
  const TraceSpan span("replicas");
  RETURN_IF_ERROR(assembly_.scheme->Settle());
  return Annotate(CheckReplicas(MakeState(), control_), absl::StrFormat("after step %d", cursor_.step));
}

absl::Status Trainer::AverageWeights() {
  if (!averaged_.defined()) return absl::OkStatus();
  RETURN_IF_ERROR(assembly_.scheme->Settle());
  const double decay = assembly_.config.trainer().eval().ema_decay();
  averaged_.Combine(decay, averaged_, 1 - decay, assembly_.scheme->point());
  return absl::OkStatus();
}

absl::Status Trainer::MeasureParameters(StepRecord* record) {
  if (assembly_.model->experts().empty()) return absl::OkStatus();
  RETURN_IF_ERROR(assembly_.scheme->Settle());
  ASSIGN_OR_RETURN(const VectorNorms norms, LogicalNorm(assembly_.layout.get(), &control_).Of(assembly_.scheme->point()));
  if (assembly_.expert_memory) assembly_.expert_memory->Trim();
  record->extra.push_back({"parameter_norm", norms.total});
  AddNorms("parameter_norm", norms, record);
  return absl::OkStatus();
}

absl::Status Trainer::Evaluate(StepRecord* record) {
  const TraceSpan span("evaluate");
  const double began = RealClock().Seconds();
  SetPhase(Phase::kEvaluate);
  RETURN_IF_ERROR(assembly_.scheme->Settle());
  const EvalConfig& eval = assembly_.config.trainer().eval();
  const TrainerConfig& trainer = assembly_.config.trainer();
  const FlatVector& point = averaged_.defined() ? averaged_ : assembly_.scheme->point();
  ASSIGN_OR_RETURN(
      const Evaluation result,
      assembly_.field->EvaluateHeldOut(point, eval.batches() * trainer.workers() * trainer.micro_batches(), assembly_.held_out_rows));
  for (const Term& term : result.terms) record->evaluation.push_back({term.name, term.value});
  record->evaluation.push_back({"samples", static_cast<double>(result.samples)});
  if (assembly_.expert_memory) assembly_.expert_memory->Trim();
  last_evaluation_ = result.terms[0].value;
  if (!best_ || *last_evaluation_ < *best_) {
    best_ = last_evaluation_;
    best_step_ = cursor_.step;
  }
  record->seconds.evaluation = RealClock().Seconds() - began;
  if (control_.ledger() != nullptr) control_.ledger()->Take();
  if (control_.rank() == 0)
    LOG_INFO << absl::StrFormat("step %d: held-out %s %.4f (best %.4f at %d)", cursor_.step, result.terms[0].name, *last_evaluation_,
                                *best_, best_step_);
  return absl::OkStatus();
}

absl::Status Trainer::Save() {
  const TraceSpan span("checkpoint");
  SetPhase(Phase::kCheckpoint);
  RETURN_IF_ERROR(assembly_.scheme->Settle());
  const StateDict dict = MakeState();
  SaveRequest request{.dict = &dict};
  SavedCursor* cursor = request.state.mutable_cursor();
  cursor->set_step(static_cast<uint64_t>(cursor_.step));
  cursor->set_samples(static_cast<uint64_t>(cursor_.step * assembly_.config.trainer().global_batch()));
  if (best_) request.state.mutable_best()->set_value(*best_);
  request.state.mutable_best()->set_step(static_cast<uint64_t>(best_step_));
  request.identity.set_config_hash(options_.config_hash);
  request.identity.set_resolved_config(options_.resolved_config);
  request.identity.set_ranks(control_.size());
  request.identity.set_workers(assembly_.config.trainer().workers());
  for (const auto& [name, size] : {std::pair{"data", assembly_.mesh->shape().data}, std::pair{"expert", assembly_.mesh->shape().expert}}) {
    SavedAxis* axis = request.identity.add_mesh();
    axis->set_name(name);
    axis->set_size(size);
  }
  for (int layer = 0; layer < assembly_.placement->layers(); ++layer) {
    SavedPlacement* saved = request.state.add_placement();
    saved->set_layer(static_cast<uint32_t>(layer));
    for (int e = 0; e < assembly_.placement->experts(layer); ++e) {
      saved->add_coordinate(static_cast<uint32_t>(assembly_.placement->coordinate(layer, e)));
      saved->add_slot(static_cast<uint32_t>(assembly_.placement->slot(layer, e)));
      for (const int c : assembly_.placement->copies(layer, e)) {
        SavedPlacement::Copy* copy = saved->add_copies();
        copy->set_expert(static_cast<uint32_t>(e));
        copy->set_coordinate(static_cast<uint32_t>(c));
      }
    }
  }
  RETURN_IF_ERROR(rebalancer_->Save(&request.state));
  if (assembly_.data.tokenizer != nullptr) request.identity.set_tokenizer_fingerprint(assembly_.data.tokenizer->fingerprint());
  request.identity.set_program_version(kProgramVersion);
  if (last_evaluation_ && best_step_ == cursor_.step) request.metric = last_evaluation_;
  if (telemetry_ != nullptr) telemetry_->Sync();
  const absl::Status saved = store_->Save(request);
  if (assembly_.expert_memory) assembly_.expert_memory->Trim();
  if (control_.ledger() != nullptr) control_.ledger()->Take();
  if (saved.ok()) {
    failed_saves_ = 0;
    last_saved_ = cursor_.step;
    if (control_.rank() == 0) LOG_INFO << "checkpoint of step " << cursor_.step << " committed in " << store_->folder();
    return absl::OkStatus();
  }
  if (control_.rank() == 0) LOG_ERROR << "checkpoint of step " << cursor_.step << " failed: " << saved.message();
  // At the end of the run there is no later save that could make it good.
  if (++failed_saves_ >= assembly_.config.checkpoint().max_failed_saves() || cursor_.step >= total_steps()) return saved;
  return absl::OkStatus();
}

void Trainer::Record(const StepReport& report, StepRecord record) {
  if (telemetry_ == nullptr) return;
  record.step = cursor_.step;
  record.objective = report.evaluation.objective;
  for (const Term& term : report.evaluation.terms) record.terms.push_back({term.name, term.value});
  record.gradient_norm = report.gradient_norm;
  record.learning_rate = report.learning_rate;
  record.samples = assembly_.config.trainer().global_batch();
  record.tokens = report.evaluation.samples;
  record.skipped = report.skipped;
  record.reason = report.reason;
  if (report.skipped) LOG_WARNING << "step " << cursor_.step << " refused: " << report.reason;
  // Schemes whose workers move on their own know the whole norm alone.
  const bool parts = report.norms.dense != 0 || report.norms.router != 0 || report.norms.expert != 0;
  if (parts && !assembly_.model->experts().empty()) AddNorms("gradient_norm", report.norms, &record);
  AddLoads(report.evaluation, assembly_.model->experts(), &record);
  telemetry_->Record(record);
  const bool named = !report.evaluation.terms.empty();
  std::string text =
      absl::StrFormat("%s %.4f  norm %.3f  lr %.2e", named ? report.evaluation.terms[0].name : "objective",
                      named ? report.evaluation.terms[0].value : record.objective, record.gradient_norm, record.learning_rate);
  if (record.tokens > 0 && record.seconds.step > 0) {  // games have none
    const double rate = static_cast<double>(record.tokens) / record.seconds.step;
    text += absl::StrFormat("  %s %s/s", HumanCount(static_cast<int64_t>(rate)), assembly_.model->sample_shape().unit());
  }
  progress_->Update(cursor_.step, text);
  telemetry_->UpdateStatus({.phase = "train",
                            .step = cursor_.step,
                            .steps = total_steps(),
                            .steps_per_second = progress_->rate(),
                            .ranks = control_.size(),
                            .last_checkpoint = last_saved_});
}

}  // namespace conclave
