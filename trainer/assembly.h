// Assembly: everything of one run, made from a config on the ranks of a job.
#ifndef CONCLAVE_TRAINER_ASSEMBLY_H_
#define CONCLAVE_TRAINER_ASSEMBLY_H_

#include <memory>
#include <string>

#include "base/file_system.h"
#include "data/data_set.h"
#include "models/model.h"
#include "optim/scheme.h"
#include "parallel/expert_dispatch.h"
#include "parallel/mesh.h"
#include "proto/experiment.pb.h"
#include "trainer/model_operator.h"

namespace conclave {

// Parts in the order in which they are built; each refers to earlier ones. Not movable: build it in place.
struct Assembly {
  Experiment config;
  std::unique_ptr<Mesh> mesh;
  WorkerMap workers;
  DataSet data;
  std::unique_ptr<Model> model;
  std::unique_ptr<RoutingRecorder> routing;  // null: observe.routing_window is 0, or there are no experts
  std::unique_ptr<ExpertPlacement> placement;
  std::unique_ptr<Layout> layout;
  std::unique_ptr<DispatchSetup> dispatch_setup;  // null: a model without experts
  std::unique_ptr<ExpertDispatch> dispatch;
  std::unique_ptr<ModelOperator> field;
  std::unique_ptr<Guard> guard;
  std::unique_ptr<Scheme> scheme;
  std::unique_ptr<ExpertMemory> expert_memory;  // null: everything is in memory
  int64_t held_out_rows = 1;                    // samples of a held-out batch

  DType dtype() const { return ComputeDType(config.model()); }
  ExchangeContext MakeExchangeContext() const;
};

// What a config's model asks of its dispatch.
DispatchSetup::Request DispatchRequestOf(const Experiment& config, DType dtype);

// Builds all parts; rank 0 opens the data first, so that tokenizing happens once. Collective on `world`, which must outlive the assembly;
// either every rank gets OK or every rank an error. config: all defaults filled in.
absl::Status Assemble(const Experiment& config, Communicator& world, const FileSystem& files, Assembly* assembly);

// The parts of an assembly that depend on where the experts are.
struct ExpertHomes {
  std::unique_ptr<ExpertPlacement> placement;
  std::unique_ptr<Layout> layout;
  std::unique_ptr<ExpertDispatch> dispatch;
  std::unique_ptr<ModelOperator> field;
  std::unique_ptr<Scheme> scheme;
};

// Replaces these parts by new ones for `placement`, their train state all zeros, and moves the old ones, intact, to `old`. On an error the
// assembly is what it was. Memory: both sets are alive until one is dropped. Not collective.
absl::Status Rehome(ExpertPlacement placement, Assembly* assembly, ExpertHomes* old);
// Puts `homes` in the place of what the assembly has; that comes back.
void SwapHomes(ExpertHomes& homes, Assembly& assembly);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_ASSEMBLY_H_
