// Training a model on loopback ranks, without files: what the laws of training are stated about.
#ifndef CONCLAVE_TESTS_TRAINER_MODEL_RUN_H_
#define CONCLAVE_TESTS_TRAINER_MODEL_RUN_H_

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "comm/loopback.h"
#include "google/protobuf/text_format.h"
#include "optim/guard.h"
#include "optim/schemes.h"
#include "parallel/shard_owners.h"
#include "trainer/assembly.h"
#include "trainer/config_defaults.h"

namespace conclave {

// Random token windows. With `ragged`, some samples have ignored targets, and two in sixteen have no target at all.
class RandomTokens : public Source {
 public:
  struct Options {
    int64_t vocabulary = 16, context = 8;
    bool ragged = false;
    int64_t marked = -1;  // this sample holds the last token of the vocabulary, which no other holds
  };
  explicit RandomTokens(const Options& options) : options_(options) {}
  SampleShape shape() const override { return {SampleShape::Kind::kTokens, options_.context}; }
  int64_t size() const override { return 1 << 20; }
  absl::Status Fetch(int64_t sample, int64_t, int64_t row, Batch* batch) const override {
    const RngKey key{.seed = 77, .site = 1, .kind = RngKind::kTest};
    const auto at = [&](int64_t i) {
      return static_cast<int32_t>(key.Below(options_.vocabulary - 1, sample * (options_.context + 1) + i));
    };
    const bool none = options_.ragged && (sample % 16 == 4 || sample % 16 == 5);
    for (int64_t i = 0; i < options_.context; ++i) {
      const bool ignored = none || (options_.ragged && sample % 3 == 1 && i < 3);
      batch->tokens.data<int32_t>()[row * options_.context + i] =
          sample == options_.marked && i == 2 ? static_cast<int32_t>(options_.vocabulary - 1) : at(i);
      batch->targets.data<int32_t>()[row * options_.context + i] = ignored ? kIgnoredTarget : at(i + 1);
      batch->count += !ignored;
    }
    return absl::OkStatus();
  }

 private:
  Options options_;
};

struct ModelRun {
  std::string config;  // text of an Experiment; defaults are filled in
  int data = 1, expert = 1;
  std::function<std::unique_ptr<Source>()> source;  // of training samples; null: the model needs none
  int64_t steps = 4;
  std::function<void(const ParameterSet&, FlatVector& point)> prepare = nullptr;  // before the first step

  int ranks() const { return data * expert; }
};

struct ModelOutcome {
  std::map<std::string, std::string> parameters;  // bytes, by block name; every replica was found equal
  DType dtype = DType::kF32;
  std::vector<StepReport> reports;  // every rank's were found equal

  std::vector<double> Doubles(const std::string& name) const {
    std::string bytes = parameters.at(name);
    const Tensor flat(bytes.data(), {static_cast<int64_t>(bytes.size()) / SizeOf(dtype)}, dtype);
    return DispatchFloat(dtype,
                         [&](auto t) { return std::vector<double>(flat.span<decltype(t)>().begin(), flat.span<decltype(t)>().end()); });
  }
  double loss() const { return reports.back().evaluation.objective; }
};

inline Experiment ParseExperiment(const std::string& text) {
  Experiment config;
  CHECK(google::protobuf::TextFormat::MergeFromString(text, &config)) << text;  // merging: later text adds to earlier blocks
  ConfigPlaces places;
  FillDefaults(&config, &places);
  return config;
}

// The parts of a run on one rank, as Assemble builds them, with samples from `run.source`.
inline absl::Status BuildRun(const ModelRun& run, Communicator& world, Assembly* a) {
  a->config = ParseExperiment(run.config);
  const TrainerConfig& trainer = a->config.trainer();
  ASSIGN_OR_RETURN(a->mesh, Mesh::Create(&world, {.data = run.data, .expert = run.expert}));
  a->workers = {.workers = static_cast<int>(trainer.workers()), .ranks = world.size(), .expert_axis = run.expert};
  if (run.source) {
    std::vector<WeightedSource> sources(1);
    sources[0].source = run.source();
    const LoaderOptions options{.seed = a->config.seed(),
                                .workers = a->workers.workers,
                                .global_batch = trainer.global_batch(),
                                .micro_batches = trainer.micro_batches(),
                                .shuffle = false};
    ASSIGN_OR_RETURN(Loader loader, Loader::Create(options, std::move(sources)));
    a->data.loader = std::make_unique<Loader>(std::move(loader));
    std::vector<std::unique_ptr<Source>> held_out;
    held_out.push_back(run.source());
    a->data.evaluation = EvaluationSet(std::move(held_out));
  }
  ASSIGN_OR_RETURN(a->model, MakeModel(a->config.model(), {.seed = a->config.seed(), .workers = a->workers.workers}));
  ASSIGN_OR_RETURN(ExpertPlacement placement, ExpertPlacement::Contiguous(a->model->experts(), run.expert));
  a->placement = std::make_unique<ExpertPlacement>(std::move(placement));
  a->layout = std::make_unique<Layout>(PlanLayout(&a->model->parameters(), a->mesh->shape(), world.rank(), *a->placement));
  if (a->config.parallel().updates() == ParallelConfig::SHARDED) a->layout = std::make_unique<Layout>(SpreadCanonicalOwners(*a->layout));
  if (!a->model->experts().empty()) {
    ASSIGN_OR_RETURN(a->dispatch_setup, DispatchSetup::Create(*a->mesh, DispatchRequestOf(a->config, a->dtype())));
  }
  a->dispatch = std::make_unique<ExpertDispatch>(a->mesh.get(), a->placement.get(), a->dispatch_setup.get());
  a->field = std::make_unique<ModelOperator>(ModelOperator::Options{.model = a->model.get(),
                                                                    .mesh = a->mesh.get(),
                                                                    .layout = &*a->layout,
                                                                    .dispatch = &*a->dispatch,
                                                                    .loader = a->data.loader.get(),
                                                                    .held_out = &a->data.evaluation,
                                                                    .workers = a->workers,
                                                                    .micro_batches = trainer.micro_batches(),
                                                                    .seed = a->config.seed(),
                                                                    .dtype = a->dtype(),
                                                                    .precision = PrecisionOf(a->config.model()),
                                                                    .recompute = a->config.model().recompute() == ModelConfig::BLOCKS});
  a->guard = MakeGuard(a->config.optim().guard(), world.rank());
  const ParameterSet& parameters = a->model->parameters();
  const auto initial = [&](BlockId id, const Tensor& value) { Initialize(parameters[id], id, a->config.seed(), value); };
  ASSIGN_OR_RETURN(a->scheme,
                   MakeScheme(a->config.optim(), {.exchange = a->MakeExchangeContext(), .initial = initial, .total_steps = run.steps}));
  return absl::OkStatus();
}

// What one rank saw.
struct RankView {
  std::map<std::string, std::string> parameters;
  std::vector<StepReport> reports;
};

inline absl::Status TrainRank(const ModelRun& run, Communicator& world, RankView* view) {
  Assembly a;
  RETURN_IF_ERROR(BuildRun(run, world, &a));
  FlatVector& point = a.scheme->point();
  const ParameterSet& parameters = a.model->parameters();
  if (run.prepare) run.prepare(parameters, point);
  RETURN_IF_ERROR(a.scheme->Start(*a.field));
  for (Cursor cursor; cursor.step < run.steps; ++cursor.step) {
    ASSIGN_OR_RETURN(StepReport report, a.scheme->Step(*a.field, cursor, *a.guard));
    if (!report.skipped) a.field->FinishStep(report.evaluation);
    view->reports.push_back(std::move(report));
  }
  RETURN_IF_ERROR(a.scheme->Settle());
  for (const BlockId id : a.layout->local_blocks()) {
    const auto bytes = a.scheme->point().block(id).AsBytes();
    view->parameters[parameters[id].name].assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return absl::OkStatus();
}

inline bool SameBits(double a, double b) { return std::memcmp(&a, &b, sizeof(a)) == 0; }

// Empty where two reports agree to the bit.
inline std::string ReportDifference(const StepReport& a, const StepReport& b) {
  if (!SameBits(a.evaluation.objective, b.evaluation.objective)) {
    return absl::StrFormat("objective %.17g vs %.17g", a.evaluation.objective, b.evaluation.objective);
  }
  for (size_t t = 0; t < a.evaluation.terms.size(); ++t) {
    if (!SameBits(a.evaluation.terms[t].value, b.evaluation.terms[t].value)) return "term " + a.evaluation.terms[t].name;
  }
  if (a.evaluation.counters != b.evaluation.counters) return "counters";
  if (a.evaluation.samples != b.evaluation.samples) return "samples";
  if (!SameBits(a.gradient_norm, b.gradient_norm)) return absl::StrFormat("gradient norm %.17g vs %.17g", a.gradient_norm, b.gradient_norm);
  if (!SameBits(a.norms.expert, b.norms.expert) || !SameBits(a.norms.router, b.norms.router)) return "parts of the gradient norm";
  if (!SameBits(a.clip_factor, b.clip_factor)) return "clip factor";
  return a.skipped == b.skipped && a.reason == b.reason ? "" : "skipping";
}

// Empty where two runs agree to the bit; else the first difference.
inline std::string FirstDifference(const ModelOutcome& a, const ModelOutcome& b) {
  for (size_t step = 0; step < std::min(a.reports.size(), b.reports.size()); ++step) {
    const std::string difference = ReportDifference(a.reports[step], b.reports[step]);
    if (!difference.empty()) return absl::StrFormat("step %d: %s", step, difference);
  }
  for (const auto& [name, bytes] : a.parameters) {
    const auto it = b.parameters.find(name);
    if (it == b.parameters.end() || it->second != bytes) return name + " has other bits";
  }
  return a.parameters.size() == b.parameters.size() && a.reports.size() == b.reports.size() ? "" : "one holds more";
}

// Trains on run.ranks() loopback ranks. Fails where ranks disagree about a report or a replica.
inline absl::StatusOr<ModelOutcome> RunModel(const ModelRun& run) {
  std::vector<RankView> views(run.ranks());
  RETURN_IF_ERROR(RunRanks(run.ranks(), [&](Communicator& world) { return TrainRank(run, world, &views[world.rank()]); }));
  ModelOutcome outcome{.dtype = ComputeDType(ParseExperiment(run.config).model()), .reports = views[0].reports};
  for (int r = 0; r < run.ranks(); ++r) {
    for (size_t step = 0; step < outcome.reports.size(); ++step) {
      const std::string difference = ReportDifference(views[r].reports[step], outcome.reports[step]);
      if (!difference.empty()) return Internal("step %d: rank %d and rank 0 differ in %s", step, r, difference);
    }
    for (auto& [name, bytes] : views[r].parameters) {
      const auto [it, added] = outcome.parameters.emplace(name, bytes);
      if (!added && it->second != bytes) return Internal("rank %d: its replica of %s has other bits", r, name);
    }
  }
  return outcome;
}

}  // namespace conclave

#endif  // CONCLAVE_TESTS_TRAINER_MODEL_RUN_H_
