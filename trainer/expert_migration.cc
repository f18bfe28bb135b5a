#include "trainer/expert_migration.h"

#include <utility>

#include "parallel/dispatch_grid.h"
#include "trainer/agreement.h"

namespace conclave {

absl::StatusOr<TransferReport> MigrateExperts(const MigratedRun& run, const ExpertTables& tables) {
  Assembly& a = *run.assembly;
  const std::vector<int> nodes = NodeOfCoordinates(*a.mesh, a.config.parallel().dispatch().ranks_per_node());
  ASSIGN_OR_RETURN(ExpertPlacement placement, ExpertPlacement::FromTables(tables, a.placement->axis(), nodes));
  if (placement.tables() == a.placement->tables()) return TransferReport{};
  const StateDict current = run.state();
  ExpertHomes old;
  FlatVector old_average;
  const absl::Status built = Rehome(std::move(placement), &a, &old);
  const bool averages = built.ok() && run.averaged != nullptr && run.averaged->defined();
  if (averages) {
    old_average = FlatVector(a.layout.get(), a.dtype());
    Swap(old_average, *run.averaged);
  }
  const auto give_up = [&](const absl::Status& status) {
    if (built.ok()) SwapHomes(old, a);
    if (averages) Swap(old_average, *run.averaged);
    return status;
  };
  if (const absl::Status ready = AgreeOn(a.mesh->control(), built, "making room for experts"); !ready.ok()) return give_up(ready);
  const absl::StatusOr<TransferReport> moved = TransferState(
      {.parameters = &a.model->parameters(), .group = &a.mesh->dispatch(), .from = old.placement.get(), .to = a.placement.get()}, current,
      run.state());
  if (const absl::Status all = AgreeOn(a.mesh->control(), moved.status(), "moving experts"); !all.ok()) return give_up(all);
  return moved;
}

}  // namespace conclave
