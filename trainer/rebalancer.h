// Rebalancer: watches routing while a run trains, and decides when experts change ranks.
#ifndef CONCLAVE_TRAINER_REBALANCER_H_
#define CONCLAVE_TRAINER_REBALANCER_H_

#include <memory>
#include <optional>
#include <string>

#include "base/file_system.h"
#include "comm/ledger.h"
#include "parallel/placement_solver.h"
#include "parallel/routing_recorder.h"
#include "proto/checkpoint.pb.h"
#include "trainer/expert_migration.h"
#include "trainer/run_folder.h"
#include "trainer/telemetry.h"
#include "trainer/traffic_meter.h"

namespace conclave {

// Every rank owns one; collective. Moves change no number of the training; copies change roundings where numerics is FIXED_MESH. So the
// loads that both are planned from are train state; what else a window holds (transitions, its sample of tokens) begins anew after a
// resume.
class Rebalancer {
 public:
  struct Options {
    const FileSystem* files = nullptr;
    const RunFolder* folder = nullptr;
  };
  Rebalancer(const MigratedRun& run, const Options& options);

  // Before the step that is number `step`, from 0.
  void BeforeStep(int64_t step);
  // After it, `step` steps being done, `wire` being what the step sent (null: not counted): closes the routing window and moves experts,
  // where either is due. Fills record->routing, with the bytes of the window to and from the experts, record->layers, and
  // record->placement. A migration that all ranks refused is logged, and the run goes on where everything was. Errors: the transport's, and
  // what a config asks for that cannot be planned.
  absl::Status AfterStep(int64_t step, const WireReport* wire, StepRecord* record);
  // Logs what the dispatch of each layer moved, where it could. Collective.
  absl::Status Finish();
  // The loads seen so far, where plans are made; the same on all ranks. Collective: an all-reduce of L E integers.
  absl::Status Save(SavedState* state);
  // Goes on from them, if they are of as many layers and experts.
  void Restore(const SavedRouting& saved);
  // Experts go where `tables` say: what a resumed run does with the placement it was saved with.
  absl::Status MoveTo(const ExpertTables& tables, StepRecord* record);

 private:
  absl::Status CloseWindow(int64_t step, StepRecord* record);
  absl::Status ReportTraffic(StepRecord* record);
  // Did the loads move little enough for a plan? If not, says so in the record and in the log. The same on all ranks.
  bool Settled(StepRecord* record) const;
  absl::StatusOr<ExpertTables> PlanOnRoot(int64_t step, StepRecord* record) const;
  // With copies of hot experts, as many as the config allows.
  ExpertTables WithCopies(PlacementTable owners) const;
  struct Candidate {
    PlacementTable table;  // by planner's ranks
    ExpertTables tables;   // the same by coordinates, with copies
  };
  // Is it worth its moves? Writes both sides of the decision to the record and to the log.
  absl::StatusOr<bool> Pays(const PlacementProblem& problem, const Candidate& next, StepRecord* record) const;
  // Bytes a step that the busiest rank is predicted to save.
  double SavedByLoad(const PlacementProblem& problem, const ExpertPlacement& next, StepRecord* record) const;
  double SavedByRows(const PlacementProblem& problem, const PlacementTable& table, StepRecord* record) const;
  double RowBytes() const;
  // What copies cost a step, over all ranks.
  double CopyBytes(const ExpertPlacement& placement) const;
  // Rank 0's tables on every rank; empty: no move.
  absl::StatusOr<ExpertTables> Share(const absl::StatusOr<ExpertTables>& mine) const;
  Assembly& assembly() const { return *run_.assembly; }

  MigratedRun run_;
  Options options_;
  std::optional<RoutingWindow> window_;  // the last complete one
  std::optional<RoutingTrace> trace_;    // and its sample; rank 0 alone
  std::optional<double> load_drift_;     // of the last window from the one before
  TrafficMeter meter_;
  RowCount dispatched_, combined_;  // bytes this rank sent since the last window
};

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_REBALANCER_H_
