#include "trainer/assembly.h"

#include <functional>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "optim/guard.h"
#include "optim/schemes.h"
#include "parallel/shard_owners.h"
#include "parallel/task_assignment.h"
#include "tensor/device.h"
#include "tensor/kernels/split_product.h"
#include "trainer/agreement.h"
#include "trainer/step_tuning.h"

namespace conclave {
namespace {

LoaderOptions MakeLoaderOptions(const Experiment& config) {
  return {.seed = config.seed(),
          .workers = static_cast<int>(config.trainer().workers()),
          .global_batch = config.trainer().global_batch(),
          .micro_batches = config.trainer().micro_batches(),
          .shuffle = config.data().shuffle()};
}

// Tokens of a sample; 0: the model takes none.
int64_t ContextOf(const ModelConfig& config) {
  if (config.has_masked_lm()) return config.masked_lm().context();
  return config.has_moe_lm() ? config.moe_lm().context() : 0;
}

bool HasData(const DataConfig& config) {
  for (const SourceConfig& source : config.sources()) {
    if (source.kind_case() != SourceConfig::kNone && source.kind_case() != SourceConfig::KIND_NOT_SET) return true;
  }
  return false;
}

absl::Status CheckDevice(const ParallelConfig& config) {
  if (config.device() == ParallelConfig::CPU) return absl::OkStatus();
  if (const absl::Status usable = RequireDevice({.kind = DeviceKind::kCuda}); !usable.ok()) {
    return FailedPrecondition("parallel.device: %s", usable.message());
  }
  return Unimplemented("parallel.device: CUDA: this version trains on the CPU only; set CPU");
}

absl::Status CheckProducts(const ModelConfig& config) {
  if (config.precision().products() == PrecisionConfig::SPLIT && !cpu::SplitProductsWork()) {
    return FailedPrecondition(
        "model.precision.products: SPLIT needs a processor and a system with AMX for bf16, and there is none here; set AUTO or LIBRARY");
  }
  return absl::OkStatus();
}

absl::Status OpenDataInTurn(const Experiment& config, Communicator& control, const FileSystem& files, DataSet* data) {
  const auto open = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(*data, OpenData(config.data(), MakeLoaderOptions(config), ContextOf(config.model()), files));
    return absl::OkStatus();
  };
  absl::Status status;
  if (control.rank() == 0) status = open();
  RETURN_IF_ERROR(AgreeOn(control, status, "opening the data"));
  if (control.rank() != 0) status = open();
  return AgreeOn(control, status, "opening the data");
}

absl::Status CheckSampleShape(const Assembly& a) {
  const SampleShape wanted = a.model->sample_shape();
  if (a.data.loader == nullptr) {
    if (wanted.kind == SampleShape::Kind::kNone) return absl::OkStatus();
    return InvalidArgument("data.sources: the model needs samples, but no source is set");
  }
  const SampleShape got = a.data.loader->shape();
  if (got == wanted) return absl::OkStatus();
  static constexpr const char* kNames[] = {"token sequences", "feature vectors", "labelled feature vectors", "no samples"};
  return InvalidArgument("data: the model takes %s of width %d, the sources give %s of width %d", kNames[static_cast<int>(wanted.kind)],
                         wanted.width, kNames[static_cast<int>(got.kind)], got.width);
}

// Says who hosts what, where sources are tasks.
void LogTasks(const DataConfig& data, const WorkerMap& workers, int64_t rows) {
  std::string text;
  int64_t next = 0;
  for (int i = 0; i < data.sources_size(); ++i) {
    const int64_t end = next + data.sources(i).batch() / rows;
    int first = 0, last = 0;
    while (workers.First(first + 1) <= next) ++first;
    while (workers.First(last + 1) < end) ++last;
    absl::StrAppendFormat(&text, "%s%d samples of task %d on ranks %d to %d", i == 0 ? "" : ", ", data.sources(i).batch(), i, first, last);
    next = end;
  }
  LOG_INFO << "tasks: " << text << "; at most " << workers.MostPerRank() * rows << " samples a rank";
}

// Gives ranks their workers by task, where the config asks for it.
absl::Status AssignTasks(const Experiment& config, int rank, WorkerMap* workers) {
  const ParallelConfig::Assignment assignment = config.parallel().assignment();
  std::vector<int64_t> tasks;
  const int64_t rows = config.trainer().global_batch() / workers->workers;
  for (const SourceConfig& source : config.data().sources()) {
    if (source.batch() == 0) continue;
    if (source.batch() % std::max<int64_t>(rows, 1) != 0) return absl::OkStatus();  // WORKERS: nobody asks for whole tasks
    tasks.push_back(source.batch() / rows);
  }
  if (assignment != ParallelConfig::WORKERS) {
    ASSIGN_OR_RETURN(workers->firsts, FirstWorkersOf(assignment, tasks, workers->ranks));
  }
  if (!tasks.empty() && rank == 0) LogTasks(config.data(), *workers, rows);
  return absl::OkStatus();
}

absl::Status BuildModel(Assembly* a) {
  const Experiment& config = a->config;
  if (config.parallel().updates() == ParallelConfig::SHARDED && config.parallel().rebalance().every() > 0) {
    return InvalidArgument(
        "parallel.rebalance: experts take their state along inside a data column, and parallel.updates: SHARDED keeps it anywhere; choose "
        "one of the two");
  }
  const ModelContext context{.seed = config.seed(),
                             .workers = static_cast<int>(config.trainer().workers()),
                             .vocabulary = a->data.tokenizer == nullptr ? 0 : a->data.tokenizer->vocab_size()};
  RETURN_IF_ERROR(CheckProducts(config.model()));
  ASSIGN_OR_RETURN(a->model, MakeModel(config.model(), context));
  if (config.model().recompute() != ModelConfig::NONE && a->model->context() == 0) {
    return InvalidArgument("model.recompute: only language models are made of blocks; set it to NONE");
  }
  RETURN_IF_ERROR(CheckSampleShape(*a));
  if (!a->model->experts().empty()) {
    ASSIGN_OR_RETURN(a->dispatch_setup, DispatchSetup::Create(*a->mesh, DispatchRequestOf(config, a->dtype())));
  }
  const std::vector<int> experts = a->model->experts();
  if (config.observe().routing_window() > 0 && !experts.empty()) {
    a->routing = std::make_unique<RoutingRecorder>(RoutingRecorderOptions{.layers = static_cast<int>(experts.size()),
                                                                          .experts = experts[0],
                                                                          .sample = config.observe().routing_tokens(),
                                                                          .seed = config.seed()});
  }
  return absl::OkStatus();
}

// Whatever depends on the placement. initial: see SchemeContext.
absl::Status BuildHomes(ExpertPlacement placement, const std::function<void(BlockId, const Tensor&)>& initial, Assembly* a) {
  const Experiment& config = a->config;
  const TrainerConfig& trainer = config.trainer();
  a->placement = std::make_unique<ExpertPlacement>(std::move(placement));
  a->layout = std::make_unique<Layout>(PlanLayout(&a->model->parameters(), a->mesh->shape(), a->mesh->rank(), *a->placement));
  if (config.parallel().updates() == ParallelConfig::SHARDED) a->layout = std::make_unique<Layout>(SpreadCanonicalOwners(*a->layout));
  a->dispatch = std::make_unique<ExpertDispatch>(a->mesh.get(), a->placement.get(), a->dispatch_setup.get());
  a->dispatch->Observe(a->routing.get());
  a->field = std::make_unique<ModelOperator>(ModelOperator::Options{.model = a->model.get(),
                                                                    .mesh = a->mesh.get(),
                                                                    .layout = a->layout.get(),
                                                                    .dispatch = a->dispatch.get(),
                                                                    .routing = a->routing.get(),
                                                                    .loader = a->data.loader.get(),
                                                                    .held_out = &a->data.evaluation,
                                                                    .workers = a->workers,
                                                                    .micro_batches = trainer.micro_batches(),
                                                                    .seed = config.seed(),
                                                                    .dtype = a->dtype(),
                                                                    .precision = PrecisionOf(config.model()),
                                                                    .recompute = config.model().recompute() == ModelConfig::BLOCKS,
                                                                    .experts = a->expert_memory.get()});
  SchemeContext context{.exchange = a->MakeExchangeContext(), .initial = initial, .total_steps = trainer.steps()};
  if (a->expert_memory) context.updated = [experts = a->expert_memory.get()](BlockId id) { experts->Updated(id); };
  RETURN_IF_ERROR(FindStep(context, *a->field, a->config.mutable_optim()));
  ASSIGN_OR_RETURN(a->scheme, MakeScheme(config.optim(), context));
  return absl::OkStatus();
}

absl::Status BuildAfterData(Assembly* a) {
  RETURN_IF_ERROR(BuildModel(a));
  a->held_out_rows = a->data.loader == nullptr ? 1 : std::max<int64_t>(1, a->data.loader->rows());
  a->guard = MakeGuard(a->config.optim().guard(), a->mesh->rank());
  ASSIGN_OR_RETURN(ExpertPlacement placement, ExpertPlacement::Contiguous(a->model->experts(), a->mesh->shape().expert));
  const ParameterSet& parameters = a->model->parameters();
  const auto initial = [&](BlockId id, const Tensor& value) { Initialize(parameters[id], id, a->config.seed(), value); };
  if (a->config.parallel().has_expert_memory()) {
    const ExpertMemoryConfig& memory = a->config.parallel().expert_memory();
    a->expert_memory = std::make_unique<ExpertMemory>(memory, memory.folder().empty() ? a->config.data().cache_dir() : memory.folder());
  }
  RETURN_IF_ERROR(BuildHomes(std::move(placement), initial, a));
  if (a->expert_memory == nullptr) return absl::OkStatus();
  StateDict state;
  a->scheme->Register(state);
  return Annotate(a->expert_memory->Move(*a->layout, state), "parallel.expert_memory");
}

}  // namespace

DispatchSetup::Request DispatchRequestOf(const Experiment& config, DType dtype) {
  const MoeLmConfig& lm = config.model().moe_lm();
  const TrainerConfig& trainer = config.trainer();
  return {.config = config.parallel().dispatch(),
          .pre_reduce = lm.moe().combine_order() == MoeConfig::PRE_REDUCE,
          .width = lm.width(),
          .dtype = dtype,
          .tokens = trainer.global_batch() / (trainer.workers() * trainer.micro_batches()) * lm.context(),
          .experts = static_cast<int>(lm.moe().experts()),
          .top_k = static_cast<int>(lm.moe().top_k())};
}

ExchangeContext Assembly::MakeExchangeContext() const {
  return {.layout = layout.get(),
          .workers = workers,
          .world = &mesh->gradient_world(),
          .data = &mesh->gradient_data(),
          .dtype = dtype(),
          .world_size_invariant = config.parallel().numerics() == ParallelConfig::WORLD_SIZE_INVARIANT,
          .bucket_bytes = config.comm().bucket_bytes(),
          .seed = config.seed(),
          .overlap = config.comm().overlap(),
          .to_canonical = config.parallel().updates() == ParallelConfig::SHARDED,
          .inside = mesh->gradient_inside(),
          .between = mesh->gradient_between()};
}

void SwapHomes(ExpertHomes& homes, Assembly& assembly) {
  std::swap(homes.placement, assembly.placement);
  std::swap(homes.layout, assembly.layout);
  std::swap(homes.dispatch, assembly.dispatch);
  std::swap(homes.field, assembly.field);
  std::swap(homes.scheme, assembly.scheme);
}

absl::Status Rehome(ExpertPlacement placement, Assembly* assembly, ExpertHomes* old) {
  CHECK(assembly->expert_memory == nullptr) << "experts on disk do not move";
  SwapHomes(*old, *assembly);
  const absl::Status built = BuildHomes(
      std::move(placement), [](BlockId, const Tensor&) {}, assembly);
  if (built.ok()) {
    assembly->field->Continue(*old->field);
  } else {
    SwapHomes(*old, *assembly);
  }
  return built;
}

absl::Status Assemble(const Experiment& config, Communicator& world, const FileSystem& files, Assembly* a) {
  a->config = config;
  RETURN_IF_ERROR(CheckDevice(config.parallel()));
  const int expert = static_cast<int>(config.parallel().expert());
  const int data = config.parallel().data() > 0 ? static_cast<int>(config.parallel().data()) : std::max(1, world.size() / expert);
  if (config.comm().progress_thread()) world.StartProgressThread();
  ASSIGN_OR_RETURN(a->mesh, Mesh::Create(&world, {.data = data, .expert = expert}));
  a->workers = {.workers = static_cast<int>(config.trainer().workers()), .ranks = world.size(), .expert_axis = expert};
  if (a->workers.workers < world.size()) {
    return InvalidArgument("trainer.workers: %d workers cannot fill %d ranks; set trainer.workers to at least %d or start fewer ranks",
                           a->workers.workers, world.size(), world.size());
  }
  if (HasData(config.data())) RETURN_IF_ERROR(OpenDataInTurn(config, a->mesh->control(), files, &a->data));
  RETURN_IF_ERROR(AssignTasks(config, world.rank(), &a->workers));
  return AgreeOn(a->mesh->control(), BuildAfterData(a), "building the run");
}

}  // namespace conclave
