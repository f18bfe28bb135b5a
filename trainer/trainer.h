// Trainer: one run from its first step, or from a checkpoint, to its end.
#ifndef CONCLAVE_TRAINER_TRAINER_H_
#define CONCLAVE_TRAINER_TRAINER_H_

#include <memory>
#include <optional>
#include <string>

#include "comm/ledger.h"
#include "comm/watchdog.h"
#include "trainer/assembly.h"
#include "trainer/checkpoint_store.h"
#include "trainer/memory_plan.h"
#include "trainer/progress.h"
#include "trainer/rebalancer.h"
#include "trainer/run_folder.h"
#include "trainer/stop_signal.h"
#include "trainer/telemetry.h"

namespace conclave {

struct TrainerOptions {
  const FileSystem* files = nullptr;
  const RunFolder* folder = nullptr;
  const StopRequests* stop = nullptr;
  bool resume = false;  // go on from the newest checkpoint of the run folder
  uint64_t config_hash = 0;
  std::string resolved_config;  // text, for checkpoints
  int64_t stop_after = 0;       // for tests: stop as if asked to once so many steps are done; 0: never
};

// Every rank owns one; all methods are collective. Train state = the scheme's, the guard's, the cursor, the best evaluation, the averaged
// weights.
class Trainer {
 public:
  // Loads the checkpoint (resume), another run's weights (trainer.init_from) or starts fresh.
  static absl::StatusOr<std::unique_ptr<Trainer>> Create(Assembly* assembly, Communicator* control, const TrainerOptions& options);

  // Steps until trainer.steps or a stop request, then evaluates (if finished) and commits a checkpoint. kNone: finished.
  absl::StatusOr<StopReason> Run();
  // One attempt at a step, with all that is due after it; traced if observe.trace_every says so.
  absl::StatusOr<StepReport> Step();

  int64_t step() const { return cursor_.step; }
  const MemoryPlan& memory_plan() const { return memory_plan_; }

 private:
  Trainer(Assembly* assembly, Communicator* control, const TrainerOptions& options);
  absl::StatusOr<StepReport> Attempt();
  absl::Status Restore();
  absl::Status RestorePlacement(const SavedState& state);
  absl::Status OpenTelemetry();
  absl::Status FixMemory();
  void ReportMemory() const;
  StateDict MakeState();
  absl::Status Evaluate(StepRecord* record);
  // Norms of the weights of a mixture. Collective. Cost: a pass over them.
  absl::Status MeasureParameters(StepRecord* record);
  absl::Status Save();
  void Record(const StepReport& report, StepRecord record);
  absl::Status AverageWeights();
  absl::Status CompareReplicas();
  void SetPhase(Phase phase);
  int64_t total_steps() const { return assembly_.config.trainer().steps(); }

  Assembly& assembly_;
  Communicator& control_;
  TrainerOptions options_;
  std::unique_ptr<CheckpointStore> store_;
  std::unique_ptr<Rebalancer> rebalancer_;
  std::unique_ptr<Telemetry> telemetry_;  // rank 0
  std::unique_ptr<Progress> progress_;    // rank 0
  Cursor cursor_;
  MemoryPlan memory_plan_;
  FlatVector averaged_;  // exponential mean of the weights, if asked for
  std::optional<double> best_, last_evaluation_;
  int64_t best_step_ = 0;
  int64_t last_saved_ = -1;
  int failed_saves_ = 0;
  double seconds_in_checkpoint_ = 0, seconds_in_evaluation_ = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_TRAINER_H_
