#include "launch/loading.h"

#include <numeric>

#include "base/digest.h"
#include "base/log.h"
#include "base/strings.h"
#include "launch/job.h"
#include "trainer/agreement.h"
#include "trainer/checkpoint_manifest.h"
#include "trainer/checkpoint_store.h"
#include "trainer/config_defaults.h"
#include "trainer/stop_signal.h"

namespace conclave {

int FailConfig(const absl::Status& status) {
  Fail(status);
  return kExitUsage;
}

absl::StatusOr<Experiment> ConfigForReading(const RunFolder& folder, int ranks) {
  ASSIGN_OR_RETURN(Experiment config, folder.ReadConfig());
  const int64_t experts = config.model().has_moe_lm() && config.model().moe_lm().has_moe() ? config.model().moe_lm().moe().experts() : 1;
  const int64_t parts = config.model().has_moe_lm() ? config.model().moe_lm().embedding_parts() : 1;
  config.mutable_parallel()->set_expert(std::gcd(parts > 1 ? std::gcd(experts, parts) : experts, int64_t{ranks}));
  config.mutable_parallel()->set_data(0);
  // How training dealt work and memory out is of no concern to a reader.
  config.mutable_parallel()->clear_expert_memory();
  config.mutable_parallel()->mutable_dispatch()->set_most_rows(0);
  config.mutable_parallel()->set_assignment(ParallelConfig::WORKERS);
  for (SourceConfig& source : *config.mutable_data()->mutable_sources()) {
    if (source.batch() > 0) source.set_weight(static_cast<double>(source.batch()));  // its share of the bytes of a token
    source.set_batch(0);
  }
  // Nor how it moved its point: the simplest scheme holds one, and builds and measures no codecs.
  OptimConfig* const optim = config.mutable_optim();
  optim->Clear();
  optim->mutable_first_order()->set_lr(1);  // of steps that are never made
  optim->mutable_first_order()->mutable_rule()->mutable_sgd();
  optim->mutable_first_order()->mutable_exchange()->mutable_exact();
  ConfigPlaces unset;
  FillDefaults(&config, &unset);
  if (config.trainer().workers() < ranks && config.trainer().global_batch() > 0) {  // nothing is trained: a worker a rank
    config.mutable_trainer()->set_workers(ranks);
    config.mutable_trainer()->set_global_batch(ranks);
    config.mutable_trainer()->set_micro_batches(1);
  }
  return config;
}

namespace {

// Experts go where the table says, before any weight is loaded.
absl::Status Place(const std::vector<std::vector<int>>& table, Assembly* assembly) {
  const ExpertPlacement& old = *assembly->placement;
  if (static_cast<int>(table.size()) != old.layers()) {
    return InvalidArgument("placement: %d mixture layers, the model has %d", table.size(), old.layers());
  }
  for (int layer = 0; layer < old.layers(); ++layer) {
    if (static_cast<int>(table[layer].size()) == old.experts(layer)) continue;
    return InvalidArgument("placement: layer %d has %d experts, the model's has %d", layer, table[layer].size(), old.experts(layer));
  }
  ASSIGN_OR_RETURN(ExpertPlacement placement, ExpertPlacement::FromTable(table, old.axis()));
  ExpertHomes replaced;
  return Rehome(std::move(placement), assembly, &replaced);
}

}  // namespace

absl::StatusOr<OpenedWeights> OpenTrained(const RunFolder& folder, const Experiment& config, Communicator& world, Assembly* assembly,
                                          const std::vector<std::vector<int>>& placement) {
  const FileSystem& files = RealFileSystem();
  RETURN_IF_ERROR(Assemble(config, world, files, assembly));
  if (!placement.empty()) RETURN_IF_ERROR(Place(placement, assembly));
  const bool averaged = config.trainer().eval().ema_decay() > 0;
  StateDict state;
  state.Add(averaged ? "average" : "model", assembly->scheme->point());
  assembly->field->buffers().Register(averaged ? "average" : "model", world.rank() == 0, state);
  const std::string path = config.checkpoint().dir().empty() ? folder.Checkpoints() : config.checkpoint().dir();
  ASSIGN_OR_RETURN(const LoadedCheckpoint loaded, LoadCheckpoint(files, world, path, state, {.prefix = averaged ? "average/" : "model/"}));
  if (world.rank() == 0) LOG_INFO << "weights of step " << loaded.step << " from " << loaded.path;
  const absl::StatusOr<std::string> manifest = files.ReadAll(JoinPath(loaded.path, std::string(kManifestName)));
  RETURN_IF_ERROR(AgreeOn(world, manifest.status(), "reading the manifest"));
  return OpenedWeights{.step = loaded.step, .digest = absl::StrFormat("%016x", DigestOf(*manifest))};
}

std::vector<OptionSpec> RingOptions() {
  return {{"--resident-layers", "K",
           "keep the parameters of K layers in memory and read the others from a file in turn: slower, the same result"},
          {"--scratch", "DIR", "where that file is (default: the run folder)"}};
}

absl::StatusOr<std::unique_ptr<RingMemory>> RingFrom(const Arguments& arguments, const RunFolder& folder, const Assembly& assembly) {
  if (!arguments.Has("--resident-layers")) {
    if (arguments.Has("--scratch")) return InvalidArgument("--scratch: there is nothing to keep there without --resident-layers");
    return nullptr;
  }
  ASSIGN_OR_RETURN(const int64_t resident, arguments.Integer("--resident-layers", 0));
  absl::StatusOr<std::unique_ptr<RingMemory>> ring =
      RingMemory::Create(assembly.scheme->point(), resident, arguments.Get("--scratch", folder.path()));
  RETURN_IF_ERROR(AgreeOn(assembly.mesh->control(), ring.status(), "--resident-layers"));
  if (assembly.mesh->rank() == 0) {
    LOG_INFO << "ring memory: " << resident << " of " << (*ring)->layers() << " layers in memory, " << HumanBytes((*ring)->ring_bytes())
             << " for " << HumanBytes((*ring)->layer_bytes()) << " of parameters; the process holds " << HumanBytes(ResidentBytes());
  }
  return ring;
}

}  // namespace conclave
