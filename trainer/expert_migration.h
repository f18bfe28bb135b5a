// Migration: experts change ranks between two steps, and nothing else changes.
#ifndef CONCLAVE_TRAINER_EXPERT_MIGRATION_H_
#define CONCLAVE_TRAINER_EXPERT_MIGRATION_H_

#include <functional>

#include "parallel/placement_problem.h"
#include "trainer/assembly.h"
#include "trainer/state_transfer.h"

namespace conclave {

// What MigrateExperts works on. state: the whole train state of the assembly as it is when called; called before and after the parts that
// depend on the placement were replaced.
struct MigratedRun {
  Assembly* assembly = nullptr;
  FlatVector* averaged = nullptr;  // over the assembly's layout, part of the state; may be undefined
  std::function<StateDict()> state;
};

// In two phases: new parts are built for `table` beside the old ones and filled with their state (TransferState), then all ranks vote. Only
// if everyone holds verified copies do the new parts stay and the old ones go; otherwise every rank keeps what it had, to the bit. The next
// step's results do not depend on the placement. Equal tables move nothing; where only copies differ nothing but the next evaluation's
// weights travels. Collective; `tables` must be the same on every rank. Errors: InvalidArgument for tables that do not fit, DataLoss or
// "failed on rank r" from the vote; Unavailable where the transport is gone. Memory: until the vote the train state is held twice.
absl::StatusOr<TransferReport> MigrateExperts(const MigratedRun& run, const ExpertTables& tables);

// The owner's coordinate of [layer][expert].
inline const PlacementTable& TableOf(const ExpertPlacement& placement) { return placement.tables().owners; }

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_EXPERT_MIGRATION_H_
