// Telemetry: what a run tells of itself: metrics.jsonl, one JSON object a step, and status.json, where it stands now.
#ifndef CONCLAVE_TRAINER_TELEMETRY_H_
#define CONCLAVE_TRAINER_TELEMETRY_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/file_system.h"
#include "base/status.h"
#include "trainer/layer_report.h"

namespace conclave {

struct NamedNumber {
  std::string name;
  double value = 0;
};

// One step. Everything but `wire`, `routing`, `placement`, `layers` and `clock` is a function of the train state.
struct StepRecord {
  int64_t step = 0;  // steps done once this one is: the first is 1
  double objective = 0;
  std::vector<NamedNumber> terms;  // of the objective
  double gradient_norm = 0;
  double learning_rate = 0;
  int64_t samples = 0;  // of this step, all workers
  int64_t tokens = 0;
  bool skipped = false;                 // the guard refused the update
  std::string reason;                   // why
  std::vector<NamedNumber> evaluation;  // empty: none at this step
  std::vector<NamedNumber> extra;       // further functions of the state (expert load, gap measures)

  struct Wire {  // bytes of this step, all ranks or this one as the trainer decides; depends on mesh and compressor
    int64_t logical_up = 0, logical_down = 0;
    int64_t physical_sent = 0, physical_received = 0;
  } wire;
  std::vector<NamedNumber> routing;    // at the end of a routing window: its statistics
  std::vector<NamedNumber> placement;  // where experts were to move: what was predicted, what was moved
  std::vector<LayerReport> layers;     // at the end of a routing window: what the dispatch of each mixture layer moved in it
  struct Seconds {                     // wall-clock
    double step = 0, evaluation = 0, checkpoint = 0;
  } seconds;
};

// Where a run stands. Written at most once per `status_seconds`, unless forced.
struct RunStatus {
  std::string run_id;
  std::string phase;  // "start", "train", "eval", "checkpoint", "finished", ...
  int64_t step = 0, steps = 0;
  double steps_per_second = 0;
  int ranks = 1;
  int64_t last_checkpoint = -1;  // step; -1: none
};

struct TelemetryOptions {
  const FileSystem* files = nullptr;  // null: RealFileSystem()
  const Clock* clock = nullptr;       // null: RealClock()
  std::string folder;                 // the run folder, which exists
  int64_t resumed_step = 0;           // lines of later steps are cut off; 0: all
  bool metrics = true;                // false: no metrics.jsonl
  bool status = true;                 // false: no status.json
  double status_seconds = 2;
};

inline constexpr std::string_view kMetricsFile = "metrics.jsonl";
inline constexpr std::string_view kStatusFile = "status.json";

// For rank 0 alone. Not thread-safe. Each line is one write; a line torn by a stop is dropped when the file is opened again. What cannot be
// written (the disk is full) ends no run: it is missing, the first time with a warning, and what comes later is written where it can be.
class Telemetry {
 public:
  // Errors: the file system's; FailedPrecondition where metrics.jsonl is not ours.
  static absl::StatusOr<std::unique_ptr<Telemetry>> Open(const TelemetryOptions& options);
  void Record(const StepRecord& record);
  void UpdateStatus(const RunStatus& status, bool force = false);
  // Makes the lines so far durable; call before a checkpoint that refers to them, and at the end.
  void Sync();
  // Steps whose lines could not be written since Open.
  int64_t missing() const { return missing_; }
  // What is missing, and why; empty: nothing.
  std::string Missing() const;

 private:
  explicit Telemetry(const TelemetryOptions& options);
  absl::Status OpenMetrics();
  absl::Status WriteLine();
  absl::Status WriteStatus(const std::string& text);
  void Warn(const absl::Status& failed);

  const FileSystem& files_;
  const Clock& clock_;
  const TelemetryOptions options_;
  const std::string metrics_path_, status_path_;
  std::unique_ptr<WritableFile> metrics_;
  int64_t metrics_bytes_ = 0;                                   // of whole lines
  bool torn_ = false;                                           // the last write failed half-way
  int64_t missing_ = 0, first_missing_ = 0, last_missing_ = 0;  // lines, and their steps
  absl::Status first_failure_;                                  // of anything
  double last_status_ = 0;
  bool has_status_ = false;
  std::string line_;  // kept for its memory
};

// A line of metrics.jsonl, ending in a newline. Numbers as %.17g, which gives every double back; NaN and infinities are strings.
void AppendMetricsLine(const StepRecord& record, int64_t wall_ms, std::string* out);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_TELEMETRY_H_
