#include "trainer/expert_migration.h"

#include <utility>
#include "trainer/agreement.h"

namespace conclave {

PlacementTable TableOf(const ExpertPlacement& placement) {
  PlacementTable table(placement.layers());
  for (int layer = 0; layer < placement.layers(); ++layer) {
    for (int e = 0; e < placement.experts(layer); ++e) table[layer].push_back(placement.coordinate(layer, e));
  }
  return table;
}

absl::StatusOr<TransferReport> MigrateExperts(const MigratedRun& run, const PlacementTable& table) {
  Assembly& a = *run.assembly;
  if (table == TableOf(*a.placement)) return TransferReport{};
  ASSIGN_OR_RETURN(ExpertPlacement placement, ExpertPlacement::FromTable(table, a.placement->axis()));
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
